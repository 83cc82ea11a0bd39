"""Chooses what a task is made of: a scenario, modules that combine with it, and their sum.

A Blueprint is still abstract: it knows which operations, tables, facts and steps take part, and
nothing of names, values or rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from synthagent.worlds.compose.language import (
    Archetype,
    BoundRow,
    Concept,
    FactRecipe,
    ForbiddenOp,
    Line,
    Module,
    Operation,
    Scenario,
    Step,
    TableRecipe,
    Variant,
)
from synthagent.worlds.compose.library import Library
from synthagent.worlds.compose.vocabulary import Domain, Dress, Level, Measure, Pool, Words


class Unfit(ValueError):
    """A drawing that keeps no bound of its level; the next attempt draws another."""


@dataclass(frozen=True)
class Choice:
    """What a task is about."""

    level: Level
    domain: Domain
    archetype: Archetype
    scenario: Scenario


@dataclass(frozen=True)
class Blueprint:
    """A scenario with its modules, merged."""

    choice: Choice
    shared: Words
    dress: Dress
    modules: tuple[Module, ...]
    distractors: tuple[Module, ...]
    pools: Mapping[str, Pool]
    measures: Mapping[str, Measure]
    concepts: Mapping[str, Concept]
    tables: Mapping[str, TableRecipe]
    ops: Mapping[str, Operation]
    let: Mapping[str, str]
    rows: tuple[BoundRow, ...]
    fill: Mapping[str, Mapping[str, str]]
    facts: tuple[FactRecipe, ...]
    rules: tuple[Line, ...]
    steps: tuple[Step, ...]
    variants: tuple[Variant, ...]
    forbidden: tuple[ForbiddenOp, ...]

    @property
    def domain(self) -> Domain:
        """The domain."""
        return self.choice.domain

    @property
    def scenario(self) -> Scenario:
        """The scenario."""
        return self.choice.scenario

    @property
    def level(self) -> Level:
        """The level of difficulty."""
        return self.choice.level

    @property
    def main(self) -> str:
        """The operation that modules attach to, or empty."""
        return _step(self.scenario, self.scenario.main).op if self.scenario.main else ""


def draw(rng: Random, source: Library, choice: Choice) -> Blueprint:
    """A blueprint within the level's bounds. Raises Unfit."""
    level, scenario = choice.level, choice.scenario
    chosen = _choose_modules(rng, choice, list(source.modules.values()))
    names = rng.sample(sorted(source.distractors), rng.randint(*level.distractors))
    strangers = [source.distractors[name] for name in names]
    parts = (choice.archetype, *chosen, *strangers)
    dress = choice.domain.dresses[choice.archetype.name]
    pools = {key: pool for part in parts for key, pool in part.pools.items()} | dress.pools()
    measures = {key: one for part in parts for key, one in part.measures.items()}
    variants = [
        Variant(replaces=variant.replaces, step=_resolved(variant.step, scenario))
        for module in chosen
        for variant in module.variants
    ]
    return Blueprint(
        choice=choice,
        shared=source.words,
        dress=dress,
        modules=chosen,
        distractors=tuple(strangers),
        pools={key: _some_values(rng, pool, level) for key, pool in pools.items()},
        measures=measures | dress.measures(),
        concepts={key: value for part in parts for key, value in part.concepts.items()},
        tables={key: value for part in parts for key, value in part.tables.items()},
        ops={key: value for part in parts for key, value in part.ops.items()},
        let={**scenario.let, **{k: v for module in chosen for k, v in module.let.items()}},
        rows=(*scenario.rows, *(row for module in chosen for row in module.rows)),
        fill=_merged_fill(scenario, chosen),
        facts=(*scenario.facts, *(fact for module in chosen for fact in module.facts)),
        rules=tuple(line for module in chosen for line in module.rule),
        steps=_merged_steps(choice, chosen),
        variants=(*scenario.variants, *variants),
        forbidden=(
            *choice.archetype.forbidden,
            *(one for module in chosen for one in module.forbidden),
        ),
    )


def fits(module: Module, scenario: Scenario, archetype: Archetype) -> bool:
    """Whether the scenario has what the module needs."""
    if module.uses in {"client", "both"} and not scenario.client:
        return False
    if module.uses in {"record", "both"} and not scenario.record:
        return False
    if (module.before or module.rule) and _position(scenario, archetype) is None:
        return False
    return scenario.success or not module.after


def _step(scenario: Scenario, step_id: str) -> Step:
    return next(step for step in scenario.steps if step.id == step_id)


def _position(scenario: Scenario, archetype: Archetype) -> int | None:
    """Where steps before the main operation go, or None where no module can stand before it."""
    if not scenario.main or not scenario.client:
        return None
    main = _step(scenario, scenario.main).op
    first = next(n for n, step in enumerate(scenario.steps) if step.op == main)
    client = scenario.client.split(".")[0].split("[")[0]
    known = [n for n, step in enumerate(scenario.steps) if step.id == client]
    ready = scenario.client.startswith("$") or (bool(known) and known[0] < first)
    return first if ready and archetype.ops[main].client else None


def _resolved(step: Step, scenario: Scenario) -> Step:
    """The module's step with the scenario's own references for @client and @record."""
    names = {"@client": scenario.client, "@record": scenario.record}
    args = {key: names.get(str(value), value) for key, value in step.args.items()}
    return step.model_copy(update={"args": args})


def _merged_steps(choice: Choice, chosen: tuple[Module, ...]) -> tuple[Step, ...]:
    scenario = choice.scenario
    steps = list(scenario.steps)
    before = [_resolved(step, scenario) for module in chosen for step in module.before]
    if before:
        place = _position(scenario, choice.archetype)
        steps[place:place] = before
    after = [_resolved(step, scenario) for module in chosen for step in module.after]
    return (*steps, *after)


def _merged_fill(scenario: Scenario, chosen: tuple[Module, ...]) -> dict[str, dict[str, str]]:
    fill: dict[str, dict[str, str]] = {}
    for source in (scenario.fill, *(module.fill for module in chosen)):
        for table, columns in source.items():
            fill[table] = {**fill.get(table, {}), **columns}
    return fill


def _some_values(rng: Random, pool: Pool, level: Level) -> Pool:
    """The pool with as many of its values as a world of the level has, in random order."""
    count = len(pool.values) if pool.fixed else min(len(pool.values), rng.randint(*level.values))
    return pool.model_copy(update={"values": tuple(rng.sample(pool.values, count))})


def _choose_modules(rng: Random, choice: Choice, modules: list[Module]) -> tuple[Module, ...]:
    """Modules until their number is reached, more where a bound asks for them. Raises Unfit."""
    level, scenario = choice.level, choice.scenario
    wanted = rng.randint(*level.modules)
    chosen: list[Module] = []
    steps, facts = len(scenario.steps), len(scenario.facts)
    fitting = [module for module in modules if fits(module, scenario, choice.archetype)]
    rng.shuffle(fitting)
    for module in fitting:
        short = steps < level.steps[0] or facts < level.facts[0]
        if len(chosen) >= wanted and not (short and len(chosen) < level.modules[1]):
            break
        more_steps = steps + len(module.before) + len(module.after)
        more_facts = facts + len(module.facts)
        if more_steps <= level.steps[1] and more_facts <= level.facts[1]:
            chosen.append(module)
            steps, facts = more_steps, more_facts
    if not level.steps[0] <= steps <= level.steps[1]:
        raise Unfit(f"{scenario.id}: {steps} steps")
    if not level.facts[0] <= facts <= level.facts[1]:
        raise Unfit(f"{scenario.id}: {facts} facts")
    return tuple(chosen)
