"""The reference page of every section and key: docs/trainer-configuration.md.

Made from the classes and the docstrings beneath their fields, so it says what the code does.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import orjson
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trainer.algorithms import ALGORITHMS
from trainer.config.file import TrainerConfig
from trainer.config.names import section_of

_INTRODUCTION = """\
# The trainer's configuration

Printed by `python -m trainer --describe` from `trainer/config/`; a test compares it. The file is
TOML, or YAML where its name ends in .yaml or .yml: sections of keys, each of which may be left out.
A key that is not here is refused with the closest one that is. `--set section.key=value` overrides
a key; `null` for a value is as if the key were left out. The resolved configuration is written into
the run's folder as config.toml. Examples: `trainer/configs/`.
"""

_KINDS: dict[object, str] = {
    bool: "true or false",
    int: "integer",
    float: "number",
    str: "string",
    Path: "path",
}


def page() -> str:
    """The page, in Markdown."""
    lines = [_INTRODUCTION]
    for name in TrainerConfig.model_fields:
        lines += _section(name, section_of(TrainerConfig, name))
    lines += ["## What each `rl.algorithm` sets", "", "A key that is set in the file wins.", ""]
    lines += ["| algorithm | sets | source |", "|---|---|---|"]
    for name, algorithm in ALGORITHMS.items():
        sets = ", ".join(f"{key} = {_shown(value)}" for key, value in algorithm.settings.items())
        lines.append(f"| {name} | {sets} | {algorithm.source} |")
    return "\n".join(lines) + "\n"


def _section(name: str, section: type[BaseModel]) -> Iterator[str]:
    documentation = " ".join((section.__doc__ or "").split())
    yield f"## `[{name}]`"
    yield ""
    text = documentation.partition(": ")[2]
    yield f"{text[:1].upper()}{text[1:]}"
    yield ""
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for key, field in section.model_fields.items():
        default = _shown(field.get_default(call_default_factory=True))
        meaning = " ".join((field.description or "").split())
        yield f"| `{key}` | {_values(field)} | {default} | {meaning} |"
    yield ""


def _values(field: FieldInfo) -> str:
    bounds = [_bound(constraint) for constraint in field.metadata]
    return " ".join(filter(None, [_kind(field.annotation), *bounds]))


def _kind(annotation: Any) -> str:
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return ", ".join(str(value) for value in arguments)
    if get_origin(annotation) in {Union, types.UnionType}:
        return ", or ".join(_kind(each) for each in arguments if each is not type(None))
    if get_origin(annotation) is tuple:
        return f"list of {_kind(arguments[0])}s"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(str(member.value) for member in annotation)
    return _KINDS[annotation]


def _bound(constraint: object) -> str:
    match constraint:
        case Ge(ge=bound):
            return f"≥ {bound}"
        case Gt(gt=bound):
            return f"> {bound}"
        case Le(le=bound):
            return f"≤ {bound}"
        case Lt(lt=bound):
            return f"< {bound}"
    return ""


def _shown(value: object) -> str:
    if value is None:
        return "none"
    shown = value.as_posix() if isinstance(value, Path) else value
    return f"`{orjson.dumps(shown).decode()}`"
