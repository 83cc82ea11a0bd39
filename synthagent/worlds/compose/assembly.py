"""Assembles one concrete world from a blueprint: which tools it has, its surface, rows and image.

The order is fixed, since every draw comes from one Random: paths, restriction, tools, surface,
rows. An Assembly is complete and immutable; plans, rubric and texts are made from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from random import Random

from synthagent.worlds.compose.blueprint import Blueprint, Unfit
from synthagent.worlds.compose.language import Concept, Step, TableRecipe
from synthagent.worlds.compose.restrict import Forbidden, choose
from synthagent.worlds.compose.seeding import Seeds, SeedSource
from synthagent.worlds.compose.surface import IdFormat, Surface, draw_id_format
from synthagent.worlds.compose.telling import Teller, lexicon
from synthagent.worlds.compose.toolset import Draft, Dressing, build
from synthagent.worlds.engine import WorldImage, compile_world
from synthagent.worlds.spec import World

Path = tuple[Step, ...]

_TABLE = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+([a-z_]+)")
_REFERENCE = re.compile(r"^(?P<step>\w+)(?:\[\$[\w.]+\])?\.(?P<field>\w+)$")
_HOLE = re.compile(r"\{([^{}]+)\}")
_MAX_PATHS = 2  # each further gold plan costs as much certification as the first


@dataclass(frozen=True)
class Assembly:
    """A world with everything needed to walk through it and to tell it."""

    blueprint: Blueprint
    paths: tuple[Path, ...]
    forbidden: Forbidden
    drafts: Mapping[str, Draft]
    surface: Surface
    seeds: Seeds
    teller: Teller
    world: World
    image: WorldImage


def assemble(rng: Random, blueprint: Blueprint) -> Assembly:
    """The world. Raises Unfit where the bounds of the level cannot be kept."""
    words = lexicon(rng, blueprint)
    paths = _paths(rng, blueprint)
    forbidden = choose(rng, blueprint, [step.op for path in paths for step in path])
    drafts = _drafts(rng, blueprint, paths, forbidden)
    surface = Surface(rng, rng.choice(blueprint.level.styles), words, blueprint.shared)
    nouns = {name: recipe.noun or name for name, recipe in blueprint.tables.items()}
    surface.name_concepts(_concepts(drafts.values(), blueprint), nouns)
    for draft in drafts.values():
        draft.flag = surface.field_key(draft.flag) if draft.flag else ""
    tables = _tables(drafts.values(), blueprint)
    formats = _formats(rng, blueprint, tables, words)
    seeds = _seeds(rng, blueprint, tables, formats, words["item"])
    dressing = Dressing(
        words=words,
        surface=surface,
        concepts=blueprint.concepts,
        pools=blueprint.pools,
        measures=blueprint.measures,
        formats=formats,
        described=rng.random() < blueprint.level.parameter_texts,
        enums=not blueprint.level.prose or rng.random() < 0.75,
    )
    theme = rng.choice([words["item"], words["records"], blueprint.domain.name])
    tools = tuple(build(draft, dressing, rng, theme) for draft in drafts.values())
    world = World(tables=seeds.tables(), tools=tools)
    return Assembly(
        blueprint=blueprint,
        paths=paths,
        forbidden=forbidden,
        drafts=drafts,
        surface=surface,
        seeds=seeds,
        teller=Teller(blueprint, words, seeds),
        world=world,
        image=compile_world(world),
    )


def _paths(rng: Random, blueprint: Blueprint) -> tuple[Path, ...]:
    """The ways through the task, the first being the one that is told."""
    steps = blueprint.steps
    paths = [steps]
    if not blueprint.level.variants:
        return (steps,)
    for way in blueprint.variants:
        if rng.random() < 0.6 and any(step.id == way.replaces for step in steps):
            paths += [tuple(way.step if one.id == way.replaces else one for one in steps)]
    for step in steps:
        for other, names in blueprint.ops[step.op].equivalents.items():
            if rng.random() < 0.3 and not step.error:
                args = {name: step.args[own] for name, own in names.items()}
                same = step.model_copy(update={"op": other, "args": args})
                paths += [tuple(same if one is step else one for one in steps)]
    if len(paths) > 1 and rng.random() < 0.4:
        paths[0], paths[1] = paths[1], paths[0]
    return tuple(paths[:_MAX_PATHS])


def _drafts(
    rng: Random, blueprint: Blueprint, paths: Iterable[Path], forbidden: Forbidden
) -> dict[str, Draft]:
    """The operations that become tools: used, forbidden, related, unrelated; in random order."""
    scenario, (least, most) = blueprint.scenario, blueprint.level.tools
    omit = frozenset(scenario.omit)
    ops = [*(step.op for path in paths for step in path), *scenario.offers]
    wanted = {op: Draft(op, blueprint.ops[op], omit=omit) for op in dict.fromkeys(ops)}
    wanted[forbidden.draft.key] = forbidden.draft
    if len(wanted) > most:
        raise Unfit(f"{scenario.id}: {len(wanted)} tools")
    related = [
        op
        for op, operation in blueprint.choice.archetype.ops.items()
        if op not in wanted and not omit & set(operation.params)
    ]
    rng.shuffle(related)
    strangers = [op for one in blueprint.distractors for op in one.ops]
    room = max(0, rng.randint(least, most) - len(wanted) - len(strangers))
    for op in [*related[:room], *strangers]:
        if len(wanted) < most:
            wanted[op] = Draft(op, blueprint.ops[op], omit=omit)
    for op in related[room : room + max(0, least - len(wanted))]:
        wanted[op] = Draft(op, blueprint.ops[op], omit=omit)
    if blueprint.rules:
        wanted[blueprint.main].rules = blueprint.rules
    _need_fields(wanted, paths, blueprint)
    keys = list(wanted)
    rng.shuffle(keys)
    return {key: wanted[key] for key in keys}


def _need_fields(drafts: Mapping[str, Draft], paths: Iterable[Path], blueprint: Blueprint) -> None:
    """Marks the fields that steps, answers and the agent's choices take from results."""
    told = list(_told(blueprint))
    for path in paths:
        ops = {step.id: step.op for step in path}
        for step in path:
            drafts[step.op].needed.update(step.reads)
        given = [str(value) for step in path for value in step.args.values()]
        for reference in (*given, *told):
            match = _REFERENCE.match(reference)
            if match and match["step"] in ops:
                drafts[ops[match["step"]]].needed.add(match["field"])


def _told(blueprint: Blueprint) -> Iterator[str]:
    """References that answers may hold."""
    answers = [blueprint.scenario.answer, *(module.answer for module in blueprint.modules)]
    for answer in answers:
        if answer is not None:
            yield from answer.values
            for text in answer.texts:
                yield from _HOLE.findall(text)


def _concepts(drafts: Iterable[Draft], blueprint: Blueprint) -> list[tuple[str, Concept]]:
    """Every parameter and field of the tools, in order of occurrence."""
    keys: dict[str, None] = {}
    for draft in drafts:
        for line in draft.operation.program:
            keys.update(dict.fromkeys((*line.row, *line.rows)))
        keys.update(dict.fromkeys(draft.operation.params))
    return [(key, blueprint.concepts[key]) for key in keys]


def _tables(drafts: Iterable[Draft], blueprint: Blueprint) -> dict[str, TableRecipe]:
    """The tables that tools read or change, those of bound rows, and those that rows refer to."""
    found = {row.table for row in blueprint.rows}
    for draft in drafts:
        found |= {blueprint.concepts[key].id for key in draft.params} - {""}
        for line in (*draft.operation.program, *draft.rules):
            fields = (*line.row.values(), *line.rows.values())
            for text in (line.require, line.execute, line.source, *fields):
                found.update(_TABLE.findall(text))
    pending = sorted(found)
    while pending:
        for recipe in blueprint.tables[pending.pop()].columns.values():
            what, _, rest = recipe.partition(":")
            if what in {"ref", "rows"} and not rest.endswith("?") and rest not in found:
                found.add(rest)
                pending.append(rest)
    return {name: recipe for name, recipe in blueprint.tables.items() if name in found}


def _formats(
    rng: Random,
    blueprint: Blueprint,
    tables: Mapping[str, TableRecipe],
    words: Mapping[str, str],
) -> dict[str, IdFormat]:
    plain = not blueprint.level.prose
    taken: set[str] = set()
    return {
        name: draw_id_format(rng, words[recipe.noun or name], taken, plain=plain)
        for name, recipe in tables.items()
    }


def _seeds(
    rng: Random,
    blueprint: Blueprint,
    tables: Mapping[str, TableRecipe],
    formats: Mapping[str, IdFormat],
    item: str,
) -> Seeds:
    source = SeedSource(
        tables=tables,
        pools=blueprint.pools,
        measures=blueprint.measures,
        formats=formats,
        labels=blueprint.dress.labels,
        item=item,
    )
    seeds = Seeds(rng, source)
    for name, recipe in blueprint.let.items():
        seeds.let(name, recipe)
    seeds.fill(blueprint.rows, blueprint.fill)
    return seeds
