"""Attempts at the hand-written task, as an agent would have made them."""

from __future__ import annotations

from typing import Any

import orjson

from services.task_synthesis.teacher import Attempt
from synthagent.worlds.episode import (
    CriterionResult,
    EpisodeEnd,
    EpisodeOutcome,
    Event,
    ReplyKind,
    ToolResult,
    UserReply,
    Verdict,
)
from synthagent.worlds.protocol import answer_turn, call_turn, parse
from synthagent.worlds.spec import Task

_HASH = "0" * 32


def attempt(
    name: str = "t-0",
    *,
    calls: tuple[tuple[str, dict[str, Any]], ...] = (("RepairLog", {"boat": "Havørn"}),),
    answer: str = "Berth K-17 is yours; the rudder is still open.",
    ok: bool = True,
    verdict: Verdict | None = None,
    said: str = "<think>hm</think>What is your boat called?",
) -> Attempt:
    """Asks, calls, answers."""
    bodies: list[Any] = [
        parse(said),
        UserReply(text="She is called Havørn.", reply=ReplyKind.REVEALED, revealed=("boat_name",)),
    ]
    for tool, arguments in calls:
        result = {"open_jobs": "rudder"} if ok else {"error": {"code": "x", "message": "y"}}
        bodies.append(call_turn(tool, arguments))
        bodies.append(
            ToolResult(
                ok=ok,
                result=orjson.dumps(result).decode(),
                error_code="" if ok else "x",
                state_hash=_HASH,
            )
        )
    bodies += [answer_turn(answer), EpisodeEnd(outcome=EpisodeOutcome.ANSWERED)]
    events = [Event(sequence=number, body=body) for number, body in enumerate(bodies)]
    return Attempt(name, events, verdict)


def verdict(task: Task, reward: float | None, *broken: str) -> Verdict:
    """A verdict in which only the named criteria are not satisfied."""
    return Verdict(
        reward=reward,
        reward_preset="paper",
        results=tuple(
            CriterionResult(
                criterion_id=c.criterion_id,
                satisfied=c.criterion_id not in broken,
                explanation="",
            )
            for c in task.criteria
        ),
    )
