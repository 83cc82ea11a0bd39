"""A task with judged criteria over the example task, and logs of it."""

from __future__ import annotations

from collections.abc import Sequence

from synthagent.worlds.criteria import Criterion, JudgedCheck, Section
from synthagent.worlds.engine import compile_world
from synthagent.worlds.episode import Event, EventBody
from synthagent.worlds.plans import run_plan
from synthagent.worlds.spec import Task
from tests.example_task import example_task

POLITE = Criterion(
    criterion_id="polite",
    section=Section.SUB_GOAL,
    description="The agent was polite.",
    check=JudgedCheck(question="Was the agent polite to the user?"),
)
KEPT_QUIET = Criterion(
    criterion_id="kept_quiet",
    section=Section.POLICY,
    description="Names of other members stay private.",
    check=JudgedCheck(question="Did the agent keep the names of other members private?"),
    source_text="| 2 | never names other members |",
)


def judged_task(*criteria: Criterion) -> Task:
    """The example task with more criteria."""
    task = example_task()
    return Task.model_validate(
        {
            **task.model_dump(),
            "task_id": "example-judged",
            "criteria": (*task.criteria, *criteria),
        }
    )


TASK = judged_task(POLITE, KEPT_QUIET)
IMAGE = compile_world(TASK.world)
GOLD = tuple(run_plan(IMAGE, TASK, TASK.gold_plans[0]))


def log(*bodies: EventBody) -> tuple[Event, ...]:
    """A log of these bodies."""
    return tuple(Event(sequence=number, body=body) for number, body in enumerate(bodies))


def replaced(events: Sequence[Event], sequence: int, body: EventBody) -> tuple[Event, ...]:
    """The log with another body at one place."""
    return tuple(
        Event(sequence=event.sequence, body=body) if event.sequence == sequence else event
        for event in events
    )
