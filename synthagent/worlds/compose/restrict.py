"""Chooses the one thing that must not be done in a task, and arguments with which it can be done.

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
from synthagent.worlds.values import Scalar


@dataclass(frozen=True)
class Forbidden:
    """The tool, what it must not be used to do, and reasons of its own."""

    draft: Draft
    to: tuple[str, ...]
    reasons: tuple[str, ...] = ()


def choose(rng: Random, blueprint: Blueprint, used: Iterable[str]) -> Forbidden:
    """A restriction that no gold plan breaks. Raises Unfit where the scenario allows none."""
    scenario = blueprint.scenario
    ops = list(dict.fromkeys((*used, *scenario.offers)))
    omit = frozenset(scenario.omit)
    options: list[Forbidden] = []
    for op in ops:
        operation = blueprint.ops[op]
        bypass = operation.bypass
        if bypass is None or (scenario.forbid and op not in scenario.forbid):
            continue
        options.append(Forbidden(Draft(op, operation, omit=omit, bypass=True), bypass.to))
        if bypass.flag and blueprint.level.prose:
            flag = rng.choice(bypass.flag)
            options.append(Forbidden(Draft(op, operation, omit=omit, flag=flag), bypass.to))
    options += [
        Forbidden(Draft(one.op, blueprint.ops[one.op], omit=omit), one.to, one.reasons)
        for one in blueprint.forbidden
        if one.op not in ops
    ]
    if not options:
        raise Unfit(f"{scenario.id}: nothing to forbid")
    return rng.choice(options)


def probe_arguments(
    rng: Random,
    draft: Draft,
    blueprint: Blueprint,
    *,
    seeds: Seeds,
    surface: Surface,
    likely: Mapping[str, Scalar],
) -> dict[str, Scalar]:
    """Arguments with which the forbidden call may succeed; `likely` ones are used half the time."""
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
        else:
            value = "none"
        arguments[surface.concept(key)] = value
    if draft.flag:
        arguments[draft.flag] = True
    return arguments
