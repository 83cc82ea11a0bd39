"""Chooses the one thing that must not be done in a task, and how certification does it.

A restriction forbids either the bypass of a write's business rules (a tool of its own, or a flag of
the tool itself) or an operation of the archetype that does harm whenever it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random

from synthagent.worlds.compose.blueprint import Blueprint, Unfit
from synthagent.worlds.compose.seeding import Seeds
from synthagent.worlds.compose.surface import Surface
from synthagent.worlds.compose.toolset import Draft
from synthagent.worlds.spec import Scalar


@dataclass(frozen=True)
class Forbidden:
    """The tool (by the key of its draft), the flag where only that is forbidden, and the words."""

    draft: Draft
    to: tuple[str, ...]
    reasons: tuple[str, ...]


def choose(
    rng: Random, blueprint: Blueprint, used: Iterable[str], words: Mapping[str, str], *, mini: bool
) -> Forbidden:
    """A restriction that no gold plan breaks. Raises Unfit where the scenario allows none."""
    used = list(dict.fromkeys((*used, *blueprint.scenario.offers)))
    options: list[Forbidden] = []
    scenario = blueprint.scenario
    omit = frozenset(scenario.omit)
    for op in used:
        operation = blueprint.ops[op]
        if operation.bypass is None or (scenario.forbid and op not in scenario.forbid):
            continue
        bypass = operation.bypass
        tool = Draft(op=op, operation=operation, omit=omit, bypass=True)
        options.append(Forbidden(tool, bypass.to, ()))
        if bypass.flag and not mini:
            flag = Draft(op=op, operation=operation, omit=omit)
            flag.flag = rng.choice(bypass.flag)
            options.append(Forbidden(flag, bypass.to, ()))
    for one in blueprint.forbidden:
        if one.op not in used:
            draft = Draft(op=one.op, operation=blueprint.ops[one.op], omit=omit)
            options.append(Forbidden(draft, one.to, one.reasons))
    if not options:
        raise Unfit(f"{scenario.id}: nothing to forbid")
    return rng.choice(options)


def probe_arguments(
    rng: Random,
    draft: Draft,
    blueprint: Blueprint,
    seeds: Seeds,
    surface: Surface,
    likely: Mapping[str, Scalar],
) -> dict[str, Scalar]:
    """Arguments with which the forbidden call may succeed; `likely` ones are tried half the time."""
    arguments: dict[str, Scalar] = {}
    for key in draft.params:
        concept = blueprint.concepts[key]
        value: Scalar
        if surface.concept(key) in likely and rng.random() < 0.5:
            value = likely[surface.concept(key)]
        elif concept.id:
            value = rng.choice(seeds.rows[concept.id])["id"]
        elif concept.pool:
            value = rng.choice(blueprint.pools[concept.pool].values)
        elif concept.measure:
            value = rng.randint(*blueprint.measures[concept.measure].range)
        elif concept.type == "integer":
            value = rng.randint(1, 9)
        else:
            value = "none"
        arguments[surface.concept(key)] = value
    if draft.flag:
        arguments[draft.flag] = True
    return arguments
