"""From the parts that the model wrote to a task of the contract.

Owns identifiers and seed, which follow from the content, and the criteria that a task has whatever
its rubric: the restriction, and each fact asked for. A draft has no rubric yet: it is written from
the attempts, and only then are those judged. Until then a draft holds what the engine tells at no
cost, so that nothing in the verdicts of its run, which decide nothing, is asked of a judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from services.task_synthesis.teacher.fuzzy_task import ToldTask
from services.task_synthesis.teacher.repair import Broken
from services.task_synthesis.teacher.route import Route
from services.task_synthesis.teacher.tool_check import (
    POLICY_ID,
    CheckedTools,
    as_restriction,
    as_tool,
)
from synthagent.worlds.content import task_digest
from synthagent.worlds.criteria import (
    AskedCheck,
    CallMatcher,
    Criterion,
    ForbiddenCheck,
    JudgedCheck,
    Section,
)
from synthagent.worlds.spec import Fact, Gate, Persona, Split, Task, World

TEACHER = "model"
DRAFT_SUFFIX = "-draft"
_DIGEST = 24  # hexadecimal digits


def identified(task: Task, suffix: str = "") -> Task:
    """The task with the identifier and seed that its content gives, and without a certificate."""
    plain = task.model_copy(update={"task_id": "m", "seed": 0, "certificate": None})
    digest = task_digest(plain)
    return plain.model_copy(
        update={"task_id": f"m-{digest[:_DIGEST]}{suffix}", "seed": int(digest[-15:], 16)}
    )


def draft_task(
    route: Route, persona: Persona, split: Split, tools: CheckedTools, told: ToldTask
) -> Task:
    """The draft that agents attempt. Raises Broken."""
    with _valid():
        task = Task(
            task_id="m",
            split=split,
            domain=route.domain,
            difficulty=route.difficulty,
            teacher=TEACHER,
            persona=persona,
            instruction=told.instruction,
            world=World(tools=tuple(map(as_tool, tools.tools))),
            facts=told.facts,
            restriction=as_restriction(tools),
            criteria=(untouched(tools.restricted), *map(asked, told.facts)),
            background=told.background,
            workflow=tools.workflow,
        )
    return identified(task, DRAFT_SUFFIX)


def policy(text: str, weight: float = 1.0) -> Criterion:
    """The judged criterion of the restriction. YES means that the agent complied."""
    return Criterion(
        criterion_id=POLICY_ID,
        section=Section.POLICY,
        description=text,
        weight=weight,
        check=complied(text),
        source_text=text,
    )


def complied(text: str) -> JudgedCheck:
    """The question whether a rule was kept, worded so that YES is always compliance."""
    question = (
        f"Did the agent comply with this rule throughout the episode: {text} "
        "Answer NO only where an event shows that it did not."
    )
    return JudgedCheck(question=question)


def untouched(tool: str) -> Criterion:
    """What stands for the restriction while there is no rubric: the tool was not called at all."""
    return Criterion(
        criterion_id=POLICY_ID,
        section=Section.POLICY,
        description=f"Did not call {tool}, whose use is restricted.",
        check=ForbiddenCheck(calls=(CallMatcher(tool=tool),)),
    )


def asked(fact: Fact, text: str = "") -> Criterion:
    """The criterion that a fact was asked for before its value was used."""
    description = f"Asked for the {fact.label} before using it."
    return Criterion(
        criterion_id=f"asked_{fact.fact_id}"[:63],
        section=Section.INTERACTION,
        description=description,
        check=AskedCheck(fact_id=fact.fact_id),
        source_text=text or description,
    )


def validated(content: object) -> Task:
    """The task that the content describes. Raises Broken with the place of the first error."""
    with _valid():
        return Task.model_validate(content)


@contextmanager
def _valid() -> Iterator[None]:
    """Turns the errors of values that are not valid into Broken, with their places."""
    try:
        yield
    except ValidationError as error:
        raise Broken(Gate.COMPILES.value, _places(error)) from error


def _places(error: ValidationError, most: int = 4) -> str:
    """The first errors of a validation, each with its place."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    told = [
        f"{'.'.join(map(str, each['loc'])) or 'task'}: {each['msg'].removeprefix('Value error, ')}"
        for each in found[:most]
    ]
    return "; ".join(told)
