"""The methods of RubricJudge."""

from __future__ import annotations

from collections.abc import Sequence

from synthagent.api.v1 import judge_pb2, judge_pb2_grpc
from synthagent.client.calling import Calling
from synthagent.convert import (
    criterion_judgement_from_proto,
    event_to_proto,
    task_to_proto,
    verdict_from_proto,
)
from synthagent.worlds.episode import Event, Verdict
from synthagent.worlds.judgement import CriterionJudgement
from synthagent.worlds.spec import Task


class RubricJudgeMethods(Calling):
    """Asks for verdicts."""

    _judge: judge_pb2_grpc.RubricJudgeAsyncStub
    _judge_timeout: float

    async def judge(
        self, request_id: str, task_id: str, events: Sequence[Event], reward_preset: str = ""
    ) -> Verdict:
        """The verdict on a finished episode."""
        request = judge_pb2.JudgeRequest(
            request_id=request_id,
            task_id=task_id,
            events=[event_to_proto(event) for event in events],
            reward_preset=reward_preset,
        )
        response = await self._unary(self._judge.Judge, request, self._judge_timeout)
        return verdict_from_proto(response.verdict)

    async def judge_criterion(
        self,
        request_id: str,
        subject: Task | str,
        events: Sequence[Event],
        criterion_id: str,
        *,
        seconds: float | None = None,
    ) -> CriterionJudgement:
        """What the judge's model makes of one criterion; no reward comes of it.

        `subject` is a task, or the identifier of a stored one; `seconds` the deadline. Raises
        NotFound, PreconditionFailed (no model is configured for the judge), ModelFault.
        """
        request = judge_pb2.JudgeCriterionRequest(
            request_id=request_id,
            events=[event_to_proto(event) for event in events],
            criterion_id=criterion_id,
        )
        if isinstance(subject, Task):
            request.task.CopyFrom(task_to_proto(subject))
        else:
            request.task_id = subject
        response = await self._unary(
            self._judge.JudgeCriterion, request, seconds or self._judge_timeout
        )
        return criterion_judgement_from_proto(response)
