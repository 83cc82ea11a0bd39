"""Attempts at a draft: what the rubric step and the last question are told of them.

A transcript is data: one quoted JSON object a line, without the agent's reasoning, so that no text
of an episode can close the quotation around it, and shortened evenly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from services.task_synthesis.teacher.bounds import printable
from synthagent.llm.quotation import quoted
from synthagent.worlds.criteria import Section
from synthagent.worlds.episode import AgentAction, AgentTurn, Event, ToolResult, UserReply, Verdict
from synthagent.worlds.spec import Task

MAX_TRANSCRIPTS = 24_000
"""Characters of all transcripts of a prompt together."""

MAX_TEXT = 600
"""Characters of one text of a transcript."""

MAX_SHOWN = 4
"""Attempts that are shown: the best, and for contrast the worst."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One finished episode; `verdict` is None where nobody judged it yet."""

    trajectory_id: str
    events: Sequence[Event]
    verdict: Verdict | None = None

    @property
    def reward(self) -> float | None:
        """The reward, or None where there is no valid verdict."""
        return None if self.verdict is None else self.verdict.reward


def solves(task: Task, attempt: Attempt) -> bool:
    """Whether an attempt earned a reward above 0 and broke no policy of the task."""
    verdict = attempt.verdict
    if verdict is None or not verdict.reward:
        return False
    policies = {c.criterion_id for c in task.criteria if c.section is Section.POLICY}
    kept = {result.criterion_id for result in verdict.results if result.satisfied}
    return policies <= kept


def shown(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The attempts that a prompt shows, best first; unjudged ones keep their order."""
    ranked = sorted(
        attempts, key=lambda one: -1.0 if one.reward is None else one.reward, reverse=True
    )
    unjudged = all(attempt.verdict is None for attempt in attempts)
    if len(ranked) <= MAX_SHOWN or unjudged:
        return (list(attempts) if unjudged else ranked)[:MAX_SHOWN]
    return [*ranked[: MAX_SHOWN - 1], ranked[-1]]


def transcript(attempt: Attempt, most: int) -> str:
    """The attempt, one event a line, in at most about `most` characters."""
    limit = MAX_TEXT
    while True:
        lines = [line for event in attempt.events if (line := _line(event, limit))]
        text = "\n".join(lines)
        if len(text) <= most or limit <= 40:
            break
        limit //= 2
    if len(text) > most:
        half = max(1, len(lines) * most // (2 * len(text)))
        text = "\n".join([*lines[:half], '{"left_out":"events"}', *lines[-half:]])
    return text


def _line(event: Event, limit: int) -> str:
    body = event.body
    told: dict[str, JsonValue]
    if isinstance(body, AgentTurn):
        if body.action is AgentAction.CALL:
            told = {"agent_calls": body.tool, "arguments": _short(body.arguments, limit)}
        elif body.action is AgentAction.ANSWER:
            told = {"agent_answers": _short(body.content, limit)}
        else:
            told = {"agent_asks_user": _short(body.content, limit)}
    elif isinstance(body, ToolResult):
        told = {"tool_returns" if body.ok else "tool_fails": _short(body.result, limit)}
    elif isinstance(body, UserReply):
        told = {"user_says": _short(body.text, limit), "reveals": list(body.revealed)}
    else:
        told = {"episode_ends": body.outcome.value}
    return quoted(told)


def _short(text: str, limit: int) -> str:
    cleaned = printable(text)
    if len(cleaned) <= limit:
        return cleaned
    return f"{cleaned[:limit]} [{len(cleaned) - limit} characters left out]"
