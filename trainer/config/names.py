"""Names of sections and keys: which are known, and what was meant by one that is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from rapidfuzz import process

from synthagent.errors import InvalidInput
from trainer.algorithms import ALGORITHMS

_MEANT = dict.fromkeys([*ALGORITHMS, "reinforcement"], "rl")
"""Sections that people write and that have another name: [grpo] was one."""


def section_of(model: type[BaseModel], name: str) -> type[BaseModel]:
    """The class of a section."""
    kind = model.model_fields[name].annotation
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        raise TypeError(f"{name} of {model.__name__} is not a section")
    return kind


def refuse_unknown(content: Mapping[Any, Any], model: type[BaseModel]) -> None:
    """Raises InvalidInput for the first section or key of `content` that `model` does not know."""
    sections = model.model_fields
    for section, fields in content.items():
        if section not in sections:
            raise InvalidInput(_unknown_section(str(section), fields, model), field=str(section))
        if not isinstance(fields, Mapping):
            raise InvalidInput(f"[{section}] must be a section of keys", field=section)
        known = section_of(model, section).model_fields
        for key in fields:
            if key not in known:
                raise InvalidInput(
                    f"unknown key `{key}` in [{section}]{_instead(str(key), known, model)}",
                    field=f"{section}.{key}",
                )


def _unknown_section(name: str, fields: object, model: type[BaseModel]) -> str:
    if name in _MEANT:
        algorithm = f" with algorithm = {name}" if name in ALGORITHMS else ""
        return f"unknown section [{name}]: it is called [{_MEANT[name]}]{algorithm}"
    homes = _homes(name, model)
    if homes and not isinstance(fields, Mapping):
        return f"`{name}` stands outside of a section: it belongs to {homes}"
    return f"unknown section [{name}]{_closest(name, model.model_fields)}"


def _instead(key: str, known: Iterable[str], model: type[BaseModel]) -> str:
    homes = _homes(key, model)
    return f": it belongs to {homes}" if homes else _closest(key, known)


def _homes(key: str, model: type[BaseModel]) -> str:
    """The sections that know `key`, as `[sft], [dpo] or [rl]`."""
    homes = [
        f"[{name}]" for name in model.model_fields if key in section_of(model, name).model_fields
    ]
    return " or ".join(filter(None, [", ".join(homes[:-1]), *homes[-1:]]))


def _closest(name: str, known: Iterable[str]) -> str:
    match = process.extractOne(name, list(known), score_cutoff=60)
    return f": did you mean `{match[0]}`?" if match else f"; known are {', '.join(sorted(known))}"
