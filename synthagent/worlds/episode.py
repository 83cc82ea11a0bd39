"""The values that an episode is made of: its events and its verdict.

An episode is its event log: agent turns, tool results, user replies, and one end. Sequences start
at 0 and have no gaps. Mirrors `proto/synthagent/api/v1/trajectory.proto`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from synthagent.worlds.values import Value


class AgentAction(StrEnum):
    """What the agent's output was taken for."""

    CALL = "call"
    ANSWER = "answer"
    MESSAGE = "message"


class ReplyKind(StrEnum):
    """What kind of reply the user gave."""

    REVEALED = "revealed"
    REPEATED = "repeated"
    UNKNOWN = "unknown"
    PROMPTED = "prompted"
    ANSWERED = "answered"


class EpisodeOutcome(StrEnum):
    """Why an episode ended."""

    ANSWERED = "answered"
    TURN_LIMIT = "turn_limit"
    TOKEN_LIMIT = "token_limit"  # noqa: S105 - of text, not of access
    FAULT = "fault"


class InvalidReason(StrEnum):
    """Why a verdict carries no reward."""

    REPLAY_MISMATCH = "replay_mismatch"
    USER_INFIDELITY = "user_infidelity"
    TOOL_FAULT = "tool_fault"
    USER_FAULT = "user_fault"
    JUDGE_FAULT = "judge_fault"
    POLICY_FAULT = "policy_fault"
    MALFORMED_LOG = "malformed_log"


class AgentTurn(Value):
    """One output of the agent. For a call, `arguments` is the JSON text as the agent wrote it."""

    kind: Literal["agent"] = "agent"
    text: str
    action: AgentAction
    tool: str = ""
    arguments: str = ""
    content: str = ""


class ToolResult(Value):
    """The result of one tool call: JSON text, or {"error": {"code", "message"}}."""

    kind: Literal["tool"] = "tool"
    ok: bool
    result: str
    error_code: str = ""
    state_hash: str


class UserReply(Value):
    """One sentence of the simulated user and the facts whose value it states."""

    kind: Literal["user"] = "user"
    text: str
    reply: ReplyKind
    revealed: tuple[str, ...] = ()


class EpisodeEnd(Value):
    """The end of an episode; for a fault, whose and what."""

    kind: Literal["end"] = "end"
    outcome: EpisodeOutcome
    invalid_reason: InvalidReason | None = None
    detail: str = ""


EventBody = Annotated[AgentTurn | ToolResult | UserReply | EpisodeEnd, Field(discriminator="kind")]


class Event(Value):
    """One thing that happened, at its position in the episode."""

    sequence: int = Field(ge=0)
    body: EventBody


class Votes(Value):
    """How the votes of a model on one criterion fell."""

    yes: int = Field(0, ge=0)
    no: int = Field(0, ge=0)
    abstain: int = Field(0, ge=0)


class CriterionResult(Value):
    """The result of one criterion with the sequences of the events that it rests on.

    `votes` is None where the engine evaluated it.
    """

    criterion_id: str
    satisfied: bool
    evidence: tuple[int, ...] = ()
    explanation: str
    votes: Votes | None = None


class Verdict(Value):
    """What an episode was worth: `reward` in [0, 1], or None with the reason of its invalidity."""

    reward: float | None = Field(ge=0, le=1)
    invalid_reason: InvalidReason | None = None
    detail: str = ""
    reward_preset: str
    policy_fraction: float = 0.0
    sub_goal_fraction: float = 0.0
    interaction_fraction: float = 0.0
    results: tuple[CriterionResult, ...] = ()
