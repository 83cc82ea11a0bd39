"""Loads the data files once per process and checks what spans them.

Owns the reading of `../archetypes`, `../modules`, `../domains` and this folder's TOML files. The
Library is immutable; a fault in any file raises LibraryError with the file, the key and what to do.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from synthagent.worlds.compose.language import Archetype, Fragment, Module, Scenario
from synthagent.worlds.compose.vocabulary import Data, Domain, Dress, Level, Words

_WORLDS = Path(__file__).resolve().parent.parent
_DOMAIN_KEYS = frozenset(Domain.model_fields) - {"name", "dresses"}
_Model = TypeVar("_Model", bound=Data)


class LibraryError(ValueError):
    """A data file that cannot be used: which, where in it, and why."""


@dataclass(frozen=True)
class Library:
    """Everything the composer draws from."""

    archetypes: Mapping[str, Archetype]
    modules: Mapping[str, Module]
    distractors: Mapping[str, Module]
    domains: Mapping[str, Domain]
    levels: Mapping[str, Level]
    words: Words


def read(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises LibraryError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LibraryError(f"{path.name}: {error}") from error


def validate(model: type[_Model], content: object, file: str) -> _Model:
    """The value of a file's content. Raises LibraryError naming the first wrong key."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise LibraryError(f"{file}, key {key or '(file)'}: {first['msg']}") from error


def parse_domain(
    name: str, content: Mapping[str, Any], archetypes: Mapping[str, Archetype]
) -> Domain:
    """A domain file's content as a Domain. Raises LibraryError."""
    file = f"domains/{name}.toml"
    dresses = {key: value for key, value in content.items() if key not in _DOMAIN_KEYS}
    for key in dresses:
        if key not in archetypes:
            raise LibraryError(
                f"{file}, key {key}: neither a key of a domain nor an archetype; "
                f"archetypes: {', '.join(sorted(archetypes))}"
            )
    top = {key: value for key, value in content.items() if key in _DOMAIN_KEYS}
    domain = validate(Domain, {**top, "name": name, "dresses": dresses}, file)
    for key, dress in domain.dresses.items():
        _check_dress(f"{file}, key {key}", dress, archetypes[key])
    return domain


def _check_dress(where: str, dress: Dress, archetype: Archetype) -> None:
    given = {**dress.pools(), **dress.measures()}
    for key in archetype.needs:
        if key not in given:
            raise LibraryError(f"{where}: {key} is missing; archetype {archetype.name} needs it")
    known = {*archetype.needs, *archetype.pools, *archetype.measures, "kind"}
    for key in given:
        if key not in known:
            raise LibraryError(f"{where}: archetype {archetype.name} has no use for {key}")
    if archetype.labels and not dress.labels:
        raise LibraryError(f"{where}: labels are missing; archetype {archetype.name} needs them")


def _check_keys(archetypes: Mapping[str, Archetype], others: Mapping[str, Module]) -> None:
    """Modules and distractors join any archetype, so none of their keys may be used twice."""
    for part in ("pools", "measures", "concepts", "tables", "ops"):
        owners: dict[str, str] = {}
        for name, module in others.items():
            for key in getattr(module, part):
                if key in owners:
                    raise LibraryError(f"module {name}, {part}.{key}: {owners[key]} has it too")
                owners[key] = name
        for archetype in archetypes.values():
            for key in getattr(archetype, part):
                if key in owners:
                    raise LibraryError(
                        f"archetype {archetype.name}, {part}.{key}: module {owners[key]} has it too"
                    )
    for archetype in archetypes.values():
        for scenario in archetype.scenarios:
            _check_scenario(archetype, scenario, others)


def _check_scenario(
    archetype: Archetype, scenario: Scenario, modules: Mapping[str, Module]
) -> None:
    where = f"archetypes/{archetype.name}.toml, scenario {scenario.id}"
    owners = {step.id: "the scenario" for step in scenario.steps}
    facts = {fact.id: "the scenario" for fact in scenario.facts}
    for name, module in modules.items():
        for step in (*module.before, *module.after):
            if owners.setdefault(step.id, name) != name:
                raise LibraryError(f"{where}: step {step.id} is also one of module {name}")
        for fact in module.facts:
            if facts.setdefault(fact.id, name) != name:
                raise LibraryError(f"{where}: fact {fact.id} is also one of module {name}")
        for key in (*module.let, *(row.name for row in module.rows)):
            if key in scenario.let or any(row.name == key for row in scenario.rows):
                raise LibraryError(f"{where}: ${key} is also a variable of module {name}")
    for step in scenario.steps:
        operation = archetype.ops.get(step.op)
        if operation is None:
            raise LibraryError(f"{where}, step {step.id}: there is no operation {step.op}")
        wanted = {key for key in operation.params if key not in scenario.omit}
        if wanted != set(step.args):
            raise LibraryError(
                f"{where}, step {step.id}: arguments {sorted(step.args)}, "
                f"parameters {sorted(wanted)}"
            )
    if scenario.main and all(step.id != scenario.main for step in scenario.steps):
        raise LibraryError(f"{where}: main is {scenario.main}, which is no step")


def _each(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((_WORLDS / folder).glob("*.toml")):
        yield path.stem, read(path)


def _merged(fragment: _Fragment, base: Fragment) -> _Fragment:
    """The fragment with the base's pieces; its own win."""
    parts = ("pools", "measures", "concepts", "tables", "ops")
    return fragment.model_copy(
        update={part: {**getattr(base, part), **getattr(fragment, part)} for part in parts}
    )


_Fragment = TypeVar("_Fragment", bound=Fragment)


@cache
def library() -> Library:
    """The library of this installation. Raises LibraryError."""
    here = "compose"
    people = validate(
        Module, {**read(_WORLDS / here / "people.toml"), "name": "people"}, "compose/people.toml"
    )
    archetypes = {
        name: _merged(
            validate(Archetype, {**content, "name": name}, f"archetypes/{name}.toml"), people
        )
        for name, content in _each("archetypes")
    }
    modules = {
        name: validate(Module, {**content, "name": name}, f"modules/{name}.toml")
        for name, content in _each("modules")
    }
    distractors = {
        name: validate(Module, {**content, "name": name}, f"compose/distractors.toml, {name}")
        for name, content in read(_WORLDS / here / "distractors.toml").items()
    }
    _check_keys(archetypes, {**modules, **distractors})
    levels = {
        name: validate(Level, {**content, "name": name}, f"compose/levels.toml, {name}")
        for name, content in read(_WORLDS / here / "levels.toml").items()
    }
    domains = {name: parse_domain(name, content, archetypes) for name, content in _each("domains")}
    words = validate(Words, read(_WORLDS / here / "surface.toml"), "compose/surface.toml")
    return Library(archetypes, modules, distractors, domains, levels, words)
