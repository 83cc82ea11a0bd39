"""One criterion put to the judge's model, whatever its check is: for calibration, never reward."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.rubric_judge.record import record_of
from services.rubric_judge.votes import ModelJudge
from synthagent.errors import InvalidInput, NotFound
from synthagent.worlds.criteria import Criterion
from synthagent.worlds.episode import Event
from synthagent.worlds.judgement import CriterionJudgement
from synthagent.worlds.spec import Task


def find_criterion(task: Task, criterion_id: str) -> Criterion:
    """The criterion of that identifier. Raises NotFound."""
    for criterion in task.criteria:
        if criterion.criterion_id == criterion_id:
            return criterion
    raise NotFound(
        f"Task {task.task_id!r} has no criterion {criterion_id!r}; it has "
        f"{', '.join(criterion.criterion_id for criterion in task.criteria)}.",
        field="criterion_id",
        task_id=task.task_id,
    )


def check_log(events: Sequence[Event]) -> None:
    """Raises InvalidInput where the events cannot be evidence: none, or not numbered from 0."""
    if not events:
        raise InvalidInput("There are no events to judge; give at least one.", field="events")
    for position, event in enumerate(events):
        if event.sequence != position:
            raise InvalidInput(
                f"events[{position}] has sequence {event.sequence}; number the events from 0 "
                "without gaps.",
                field=f"events[{position}].sequence",
            )


async def judge_criterion(
    judge: ModelJudge, task: Task, events: Sequence[Event], criterion_id: str, *, key: str
) -> CriterionJudgement:
    """What the model makes of a criterion. The log need not have ended.

    Raises NotFound, InvalidInput, ModelUnavailable and ModelFault.
    """
    check_log(events)
    criterion = find_criterion(task, criterion_id)
    record = await asyncio.to_thread(record_of, events)
    return await judge.judge(task, record, criterion, key=f"{key}/judge")
