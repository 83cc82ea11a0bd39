"""From a blueprint to a task: names, rows, tools, plans and rubric of one concrete world.

The order is fixed, since every draw comes from one Random: words, restriction, tools, surface, seed
rows, world, walk, texts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from random import Random

import orjson

from synthagent.worlds.compose import criteria
from synthagent.worlds.compose.blueprint import Blueprint, Unfit
from synthagent.worlds.compose.gold import Route, Walker, WalkError
from synthagent.worlds.compose.language import Level, Step, TableRecipe, Words
from synthagent.worlds.compose.restrict import Forbidden, choose, probe_arguments
from synthagent.worlds.compose.seeding import Seeds
from synthagent.worlds.compose.surface import IdFormat, Surface, draw_id_format
from synthagent.worlds.compose.telling import Teller, fact, instruction, lexicon, persona
from synthagent.worlds.compose.toolset import Draft, Dressing, build
from synthagent.worlds.engine import WorldImage, compile_world
from synthagent.worlds.matching import contains
from synthagent.worlds.spec import (
    Plan,
    PlanStep,
    Restriction,
    Scalar,
    Split,
    SqlProgram,
    Task,
    Tool,
    World,
    canonical_json,
)

_TABLE = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+([a-z_]+)")
_REFERENCE = re.compile(r"^(?:\w+\[\$[\w.]+\]|\w+)\.(\w+)$")
_PROBES = 12
_MAX_PATHS = 2  # each further gold plan costs as much certification as the first


@dataclass(frozen=True)
class _Built:
    """A world with everything needed to walk and tell it."""

    world: World
    image: WorldImage
    drafts: Mapping[str, Draft]
    surface: Surface
    seeds: Seeds
    teller: Teller


def compose(
    rng: Random, blueprint: Blueprint, level: Level, shared: Words, difficulty: str, seed: int
) -> Task:
    """The task. Raises Unfit or WalkError where this drawing gives none."""
    words = lexicon(rng, blueprint, shared)
    paths = _paths(rng, blueprint, level)
    mini = level.tools[1] <= 3
    used = [step.op for path in paths for step in path]
    forbid = choose(rng, blueprint, used, words, mini=mini)
    drafts = _drafts(rng, blueprint, level, paths, forbid)
    built = _build(rng, blueprint, level, shared, words, drafts)
    facts = {one.id: built.seeds.lookup(one.value) for one in blueprint.facts}
    walker = Walker(built.image, drafts, built.surface, words, built.seeds.lookup, facts)
    texts = _answer_template(rng, blueprint)
    routes = [
        walker.walk("main" if number == 0 else f"other_{number}", path, built.teller.answer(texts))
        for number, path in enumerate(paths)
    ]
    who = persona(rng, blueprint, words, shared)
    told = tuple(
        fact(rng, one, blueprint, built.teller, shared, _told(facts[one.id])) for one in blueprint.facts
    )
    restriction, policy = _restriction(rng, blueprint, built, forbid, shared, routes)
    values = tuple(walker.value(one, routes[0]) for one in _answer_values(blueprint))
    task = Task(
        task_id="pending",
        split=Split(blueprint.domain.split),
        domain=blueprint.domain.name,
        difficulty=difficulty,
        teacher="program",
        seed=seed,
        persona=who,
        instruction=instruction(rng, blueprint, built.teller, level, shared),
        world=built.world,
        facts=told,
        restriction=restriction,
        gold_plans=tuple(route.plan for route in routes),
        criteria=(
            policy,
            *criteria.sub_goals(routes, built.teller, built.surface, words),
            criteria.answer(values, _phrases(blueprint, shared)),
            *criteria.asked(told),
        ),
    )
    _check_hidden(task, routes)
    _check_answer(task, values, _phrases(blueprint, shared))
    return task.model_copy(update={"task_id": _task_id(task)})


def _check_hidden(task: Task, routes: Iterable[Route]) -> None:
    """Raises Unfit where a fact's value stands in a text by chance."""
    persona = task.persona
    shown = "\n".join(
        (
            task.instruction,
            *(persona.name, persona.role, persona.description),
            *(task.restriction.text, task.restriction.reason),
            *(text for tool in task.world.tools for text in _texts(tool)),
        )
    )
    literals = [
        walked.arguments[name]
        for route in routes
        for walked, step in zip(route.walked, route.plan.steps, strict=True)
        for name, value in step.arguments.items()
        if not isinstance(value, dict) or "$fact" not in value
    ]
    for one in task.facts:
        if contains(shown, one.value):
            raise Unfit(f"{one.value!r} stands in a text that the agent reads")
        others = (fact.value for fact in task.facts if fact is not one)
        if any(contains(str(value), one.value) for value in (*literals, *others)):
            raise Unfit(f"{one.value!r} stands in another value of the task")


def _texts(tool: Tool) -> Iterator[str]:
    """Every text of a tool that the agent may read, but enumerations."""
    yield from (tool.name, tool.description)
    properties = tool.input_schema["properties"]
    if isinstance(properties, dict):
        for name, schema in properties.items():
            yield name
            if isinstance(schema, dict) and "description" in schema:
                yield str(schema["description"])
    if isinstance(tool.behaviour, SqlProgram):
        yield from (statement.error_message for statement in tool.behaviour.statements)


def _check_answer(task: Task, values: tuple[Scalar, ...], phrases: tuple[str, ...]) -> None:
    """Raises Unfit where repeating the instruction would be taken for an answer."""
    said = task.instruction
    if all(contains(said, value) for value in values) and (
        not phrases or any(contains(said, phrase) for phrase in phrases)
    ):
        raise Unfit("the instruction holds the answer")


def _told(value: Scalar) -> str | int:
    if not isinstance(value, str | int):
        raise Unfit(f"a fact cannot be {value!r}")
    return value


def _task_id(task: Task) -> str:
    content = task.model_dump(mode="json", exclude={"certificate", "task_id"})
    return f"{task.domain.replace('_', '-')}-{hashlib.sha256(canonical_json(content)).hexdigest()[:16]}"


# --- paths: the gold steps and other ways to do them


def _paths(rng: Random, blueprint: Blueprint, level: Level) -> list[tuple[Step, ...]]:
    """The ways through the task, the first being the one that is told."""
    steps = blueprint.steps
    if not level.variants:
        return [steps]
    ways = [one for one in blueprint.variants if rng.random() < 0.6]
    paths = [steps]
    for way in ways:
        if any(step.id == way.replaces for step in steps):
            paths.append(tuple(way.step if step.id == way.replaces else step for step in steps))
    for step in steps:
        for other, names in blueprint.ops[step.op].equivalents.items():
            if rng.random() < 0.3 and not step.error:
                args = {name: step.args[own] for name, own in names.items()}
                same = step.model_copy(update={"op": other, "args": args})
                paths.append(tuple(same if one is step else one for one in steps))
    if len(paths) > 1 and rng.random() < 0.4:
        paths[0], paths[1] = paths[1], paths[0]
    return paths[:_MAX_PATHS]


# --- tools


def _drafts(
    rng: Random, blueprint: Blueprint, level: Level, paths: Iterable[tuple[Step, ...]], forbid: Forbidden
) -> dict[str, Draft]:
    """The operations that become tools: used, forbidden, related, unrelated; in random order."""
    omit = frozenset(blueprint.scenario.omit)
    wanted: dict[str, Draft] = {}
    for path in paths:
        for step in path:
            if step.op not in wanted:
                wanted[step.op] = Draft(step.op, blueprint.ops[step.op], omit=omit)
    for op in blueprint.scenario.offers:
        wanted.setdefault(op, Draft(op, blueprint.ops[op], omit=omit))
    if forbid.draft.flag and forbid.draft.op in wanted:
        forbid.draft.rules = wanted[forbid.draft.op].rules
    wanted[forbid.draft.key] = forbid.draft
    least, most = level.tools
    count = rng.randint(least, most)
    strangers = [op for one in blueprint.distractors for op in one.ops]
    if len(wanted) > most:
        raise Unfit(f"{blueprint.scenario.id}: {len(wanted)} tools")
    related = [
        op
        for op, operation in blueprint.archetype.ops.items()
        if op not in wanted and not omit & set(operation.params)
    ]
    rng.shuffle(related)
    room = max(0, count - len(wanted) - len(strangers))
    for op in [*related[:room], *strangers]:
        if len(wanted) < most:
            wanted[op] = Draft(op, blueprint.ops[op], omit=omit)
    for op in related[room:]:
        if len(wanted) >= least:
            break
        wanted[op] = Draft(op, blueprint.ops[op], omit=omit)
    if blueprint.rules:
        wanted[blueprint.main].rules = blueprint.rules
    _need_fields(wanted, paths, blueprint)
    keys = list(wanted)
    rng.shuffle(keys)
    return {key: wanted[key] for key in keys}


def _need_fields(
    drafts: Mapping[str, Draft], paths: Iterable[tuple[Step, ...]], blueprint: Blueprint
) -> None:
    """Marks the fields that steps and answers take from results."""
    templates = [
        *(one for text in blueprint.scenario.answer.texts for one in re.findall(r"\{([^{}]+)\}", text)),
        *_answer_values(blueprint),
        *(
            one
            for module in blueprint.modules
            if module.answer
            for text in module.answer.texts
            for one in re.findall(r"\{([^{}]+)\}", text)
        ),
    ]
    for path in paths:
        ops = {step.id: step.op for step in path}
        for step in path:
            drafts[step.op].needed.update(step.reads)
        given = [str(value) for step in path for value in step.args.values()]
        for reference in [*given, *templates]:
            match = _REFERENCE.match(reference)
            if match:
                source = reference.split(".")[0].split("[")[0]
                if source in ops:
                    drafts[ops[source]].needed.add(match[1])


# --- the world


def _build(
    rng: Random,
    blueprint: Blueprint,
    level: Level,
    shared: Words,
    words: dict[str, str],
    drafts: dict[str, Draft],
) -> _Built:
    style = rng.choice(level.styles)
    surface = Surface(rng, style, words, shared)
    surface.name_concepts(_concepts(drafts, blueprint), _table_nouns(blueprint))
    for draft in drafts.values():
        draft.flag = surface.field_key(draft.flag) if draft.flag else ""
    tables = _tables(drafts, blueprint)
    formats: dict[str, IdFormat] = {}
    taken: set[str] = set()
    for name, recipe in tables.items():
        formats[name] = draw_id_format(rng, words[recipe.noun or name], taken, plain=not level.prose)
    seeds = Seeds(
        rng, tables, blueprint.pools, blueprint.measures, formats, blueprint.dress.labels, words["item"]
    )
    for name, recipe_text in blueprint.let.items():
        seeds.let(name, recipe_text)
    bound = [row for row in blueprint.rows if row.table in tables]
    seeds.fill(bound, blueprint.fill)
    dressing = Dressing(
        words=words,
        surface=surface,
        concepts=blueprint.concepts,
        pools=blueprint.pools,
        measures=blueprint.measures,
        formats=formats,
        described=rng.random() < level.parameter_texts,
        enums=not level.prose or rng.random() < 0.75,
    )
    theme = rng.choice([words["item"], words["records"], blueprint.domain.name])
    tools: list[Tool] = [build(draft, dressing, rng, theme) for draft in drafts.values()]
    world = World(tables=seeds.tables(), tools=tuple(tools))
    return _Built(
        world, compile_world(world), drafts, surface, seeds, Teller(blueprint, words, seeds)
    )


def _table_nouns(blueprint: Blueprint) -> dict[str, str]:
    return {name: recipe.noun or name for name, recipe in blueprint.tables.items()}


def _concepts(drafts: Mapping[str, Draft], blueprint: Blueprint):  # type: ignore[no-untyped-def]
    keys: dict[str, None] = {}
    for draft in drafts.values():
        for line in draft.operation.program:
            keys.update(dict.fromkeys((*line.row, *line.rows)))
        keys.update(dict.fromkeys(draft.operation.params))
    return [(key, blueprint.concepts[key]) for key in keys]


def _tables(drafts: Mapping[str, Draft], blueprint: Blueprint) -> dict[str, TableRecipe]:
    """The tables that tools read or change, and those that their rows refer to."""
    texts = [
        text
        for draft in drafts.values()
        for line in (*draft.operation.program, *draft.rules)
        for text in (line.require, line.execute, line.source, *line.row.values(), *line.rows.values())
    ]
    found = {name for text in texts for name in _TABLE.findall(text)}
    for draft in drafts.values():
        found |= {blueprint.concepts[key].id for key in draft.params} - {""}
    bound = {row.table for row in blueprint.rows}
    while True:
        wider = found | bound
        for name in sorted(wider):
            for recipe in blueprint.tables[name].columns.values():
                what, _, rest = recipe.partition(":")
                if what in {"ref", "rows"} and not rest.endswith("?"):
                    wider = wider | {rest}
        if wider == found:
            break
        found = wider
    return {name: recipe for name, recipe in blueprint.tables.items() if name in found}


# --- texts and restriction


def _answer_template(rng: Random, blueprint: Blueprint) -> str:
    parts = [rng.choice(blueprint.scenario.answer.texts)]
    parts += [
        rng.choice(module.answer.texts) for module in blueprint.modules if module.answer is not None
    ]
    return " ".join(parts)


def _answer_values(blueprint: Blueprint) -> list[str]:
    values = list(blueprint.scenario.answer.values)
    for module in blueprint.modules:
        if module.answer is not None:
            values += module.answer.values
    return values


def _phrases(blueprint: Blueprint, shared: Words) -> tuple[str, ...]:
    if blueprint.scenario.success:
        return blueprint.scenario.answer.any_of
    return blueprint.scenario.answer.any_of or shared.refusals


def _restriction(
    rng: Random,
    blueprint: Blueprint,
    built: _Built,
    forbid: Forbidden,
    shared: Words,
    routes: list[Route],
) -> tuple[Restriction, criteria.Criterion]:
    tool = built.surface.tool(forbid.draft.key)
    to = built.teller.text(rng.choice(forbid.to))
    if forbid.draft.flag:
        to += f" ({forbid.draft.flag}: true)"
    text = rng.choice(shared.forbid).replace("{tool}", tool).replace("{to}", to)
    reasons = (*blueprint.domain.reasons, *forbid.reasons)
    arguments = _probe(rng, blueprint, built, forbid, routes[0])
    probe = Plan(
        plan_id="probe",
        steps=(PlanStep(step_id="forbidden", tool=tool, arguments=dict(arguments)),),
        answer="It is done.",
    )
    restriction = Restriction(
        text=text,
        reason=built.teller.text(rng.choice(reasons)),
        criterion_id=criteria.FORBIDDEN_ID,
        probe=probe,
    )
    return restriction, criteria.forbidden(forbid.draft, tool, text)


def _probe(
    rng: Random, blueprint: Blueprint, built: _Built, forbid: Forbidden, route: Route
) -> dict[str, Scalar]:
    """Arguments with which the forbidden call succeeds, even after the task was done."""
    tool = built.surface.tool(forbid.draft.key)
    with built.image.open() as session:
        for walked in route.walked:
            session.call(
                built.surface.tool(walked.draft.key), orjson.dumps(walked.arguments).decode()
            )
        likely = {name: value for one in route.walked for name, value in one.arguments.items()}
        for _ in range(_PROBES):
            arguments = probe_arguments(
                rng, forbid.draft, blueprint, built.seeds, built.surface, likely
            )
            answered = session.call(tool, orjson.dumps(arguments).decode())
            if answered.ok:
                return arguments
    raise WalkError(f"restriction: {tool} cannot be used: {answered.result}")
