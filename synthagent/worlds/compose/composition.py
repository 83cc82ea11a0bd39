"""From a blueprint to a task: its world, gold plans, restriction, texts and rubric."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random

import orjson

from synthagent.worlds.compose import coincidence, criteria
from synthagent.worlds.compose.assembly import Assembly, assemble
from synthagent.worlds.compose.blueprint import Blueprint
from synthagent.worlds.compose.gold import Route, Walker, WalkError
from synthagent.worlds.compose.language import Answer
from synthagent.worlds.compose.restrict import probe_arguments
from synthagent.worlds.compose.telling import tell_fact, tell_instruction, tell_persona
from synthagent.worlds.content import canonical_content
from synthagent.worlds.criteria import Criterion
from synthagent.worlds.spec import Plan, PlanStep, Restriction, Split, Task
from synthagent.worlds.values import Scalar

_PROBES = 12


def compose(rng: Random, blueprint: Blueprint, seed: int) -> Task:
    """The task. Raises Unfit or WalkError where this drawing gives none."""
    assembly = assemble(rng, blueprint)
    seeds, teller = assembly.seeds, assembly.teller
    held = {one.id: seeds.lookup(one.value) for one in blueprint.facts}
    walker = Walker(assembly, held)
    answer = teller.answer(_answer_template(rng, blueprint))
    routes = [
        walker.walk("main" if number == 0 else f"other_{number}", path, answer)
        for number, path in enumerate(assembly.paths)
    ]
    persona = tell_persona(rng, blueprint, teller)
    facts = tuple(tell_fact(rng, teller, one, held[one.id]) for one in blueprint.facts)
    restriction, policy = _restriction(rng, assembly, routes[0])
    values = tuple(
        walker.value(one, routes[0]) for part in _answers(blueprint) for one in part.values
    )
    task = Task(
        task_id="pending",
        split=Split(blueprint.domain.split),
        domain=blueprint.domain.name,
        difficulty=blueprint.level.name,
        teacher="program",
        seed=seed,
        persona=persona,
        instruction=tell_instruction(rng, blueprint, teller),
        world=assembly.world,
        facts=facts,
        restriction=restriction,
        gold_plans=tuple(route.plan for route in routes),
        criteria=(
            policy,
            *criteria.sub_goals(routes, teller, assembly.surface),
            criteria.answer(values, _phrases(blueprint)),
            *criteria.asked(facts),
        ),
    )
    coincidence.check(task, routes)
    return task.model_copy(update={"task_id": _task_id(task)})


def _task_id(task: Task) -> str:
    content = canonical_content(task, without=frozenset({"task_id"}))
    return f"{task.domain.replace('_', '-')}-{hashlib.sha256(content).hexdigest()[:16]}"


def _answers(blueprint: Blueprint) -> list[Answer]:
    """The scenario's answer and those that modules add."""
    added = (module.answer for module in blueprint.modules)
    return [blueprint.scenario.answer, *(one for one in added if one is not None)]


def _answer_template(rng: Random, blueprint: Blueprint) -> str:
    return " ".join(rng.choice(answer.texts) for answer in _answers(blueprint))


def _phrases(blueprint: Blueprint) -> tuple[str, ...]:
    """Phrases of which the answer must hold one: those of refusal where nothing can be done."""
    own = blueprint.scenario.answer.any_of
    return own if blueprint.scenario.success or own else blueprint.shared.refusals


def _restriction(rng: Random, assembly: Assembly, route: Route) -> tuple[Restriction, Criterion]:
    """The restriction and the criterion that detects it."""
    forbidden, teller = assembly.forbidden, assembly.teller
    tool = assembly.surface.tool(forbidden.draft.key)
    to = teller.text(rng.choice(forbidden.to))
    if forbidden.draft.flag:
        to += f" ({forbidden.draft.flag}: true)"
    text = rng.choice(assembly.blueprint.shared.forbid).replace("{tool}", tool).replace("{to}", to)
    reasons = (*assembly.blueprint.domain.reasons, *forbidden.reasons)
    step = PlanStep(
        step_id="forbidden", tool=tool, arguments=dict(_probe(rng, assembly, route, tool))
    )
    restriction = Restriction(
        text=text,
        reason=teller.text(rng.choice(reasons)),
        criterion_id=criteria.FORBIDDEN_ID,
        probe=Plan(plan_id="probe", steps=(step,), answer="It is done."),
    )
    return restriction, criteria.forbidden(forbidden.draft, tool, text)


def _probe(rng: Random, assembly: Assembly, route: Route, tool: str) -> dict[str, Scalar]:
    """Arguments with which the forbidden call succeeds, even after the task was done."""
    likely = {name: value for one in route.walked for name, value in one.arguments.items()}
    with assembly.image.open() as session:
        session.replay(_calls(assembly, route))
        for _ in range(_PROBES):
            arguments = probe_arguments(
                rng,
                assembly.forbidden.draft,
                assembly.blueprint,
                seeds=assembly.seeds,
                surface=assembly.surface,
                likely=likely,
            )
            answered = session.call(tool, orjson.dumps(arguments).decode())
            if answered.ok:
                return arguments
    raise WalkError(f"restriction: {tool} cannot be used: {answered.result}")


def _calls(assembly: Assembly, route: Route) -> Sequence[tuple[str, str]]:
    return [
        (assembly.surface.tool(one.draft.key), orjson.dumps(one.arguments).decode())
        for one in route.walked
    ]
