"""What a model makes of a user that a model played: one question over all replies of an episode.

The engine's own audit (`worlds.fidelity`) comes first and finds what has a form; this finds what
has a meaning, such as a hint in plain words. A finding counts only with words that stand in the
reply it names, and an invention only where the user was not given these very words, so that the
auditor cannot invent either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from synthagent.errors import ModelMalformed
from synthagent.llm.answers import Message
from synthagent.llm.prompts import render
from synthagent.llm.quotation import escaped, quoted
from synthagent.worlds.episode import AgentAction, AgentTurn, Event, UserReply
from synthagent.worlds.fidelity import listen
from synthagent.worlds.matching import canonical
from synthagent.worlds.spec import Task

if TYPE_CHECKING:  # the client library comes with it, which only a configured role needs
    from synthagent.llm import LanguageModel

_PACKAGE = "synthagent.llm.audit"
_PURPOSE = "user_audit"
_TEMPERATURE = 0.0


class Breach(StrEnum):
    """A rule of the user."""

    LEAKED_HINT = "leaked_hint"
    INVENTED_FACT = "invented_fact"
    PREMATURE_STOP = "premature_stop"
    REVEALED_UNASKED = "revealed_unasked"


class Finding(BaseModel):
    """A breach and where it stands."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence: int
    words: str = Field(min_length=1, max_length=2000)
    breach: Breach
    reason: str = Field(max_length=2000)


class UserAudit(BaseModel):
    """The auditor's answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rationale: str = Field(max_length=4000)
    findings: list[Finding] = Field(max_length=64)
    faithful: bool


async def audit(model: LanguageModel, task: Task, events: Sequence[Event], *, key: str) -> str:
    """What the user did that it must not, in a sentence, or "" where it kept to its rules.

    `key` names the question: asked again, it gets the stored answer. A user that never spoke is not
    asked about. Raises ModelUnavailable or a ModelFault where no usable answer came.
    """
    replies = {e.sequence: e.body.text for e in events if isinstance(e.body, UserReply)}
    if not replies:
        return ""
    messages = [Message("user", _question(task, events))]
    found = await _ask(model, messages, key)
    if problem := _contradiction(found, replies):
        messages += [
            Message("assistant", escaped(found.model_dump_json())),
            Message("user", render(_PACKAGE, "repair", problem=problem)),
        ]
        found = await _ask(model, messages, f"{key}/repair")
        if problem := _contradiction(found, replies):
            raise ModelMalformed(f"The audit of the user contradicts the episode: {problem}.")
    held = canonical("\n".join(listen(task, events).sources))
    for finding in found.findings:
        disproved = finding.breach is Breach.INVENTED_FACT and _bare(finding.words) in held
        if not disproved:
            name = finding.breach.replace("_", " ")
            return (
                f"Reply {finding.sequence} is a {name} by the judgement of a model: "
                f"{finding.words!r}. {finding.reason}"
            )
    return ""


async def _ask(model: LanguageModel, messages: Sequence[Message], key: str) -> UserAudit:
    answer = await model.structured(
        messages, UserAudit, key=key, purpose=_PURPOSE, temperature=_TEMPERATURE
    )
    return answer.value


def _bare(words: str) -> str:
    return canonical(words).strip(" \"'.,!?\u201c\u201d")


def _contradiction(found: UserAudit, replies: Mapping[int, str]) -> str:
    """Why an answer cannot be true of these replies; "" where it can."""
    if found.faithful == bool(found.findings):
        return "it calls the user faithful and lists breaches, or neither"
    for finding in found.findings:
        if finding.sequence not in replies:
            return f"event {finding.sequence} is no reply of the user"
        words = _bare(finding.words)
        if not words or words not in canonical(replies[finding.sequence]):
            return f"reply {finding.sequence} does not hold the words {finding.words!r}"
    return ""


def _question(task: Task, events: Sequence[Event]) -> str:
    facts: list[JsonValue] = [
        {"id": fact.fact_id, "what it is": fact.label, "value": fact.value} for fact in task.facts
    ]
    return render(
        _PACKAGE,
        "question",
        instruction=quoted(task.instruction),
        persona=quoted(task.persona.model_dump(include={"name", "role", "description"})),
        facts=quoted(facts),
        background=quoted(task.background),
        tools=quoted([tool.name for tool in task.world.tools]),
        workflow=quoted([*task.workflow]),
        conversation=quoted([line for event in events if (line := _line(event)) is not None]),
    )


def _line(event: Event) -> dict[str, JsonValue] | None:
    """An event as the auditor reads it; calls and results are none of the user's doing."""
    body = event.body
    if isinstance(body, UserReply):
        return {
            "sequence": event.sequence,
            "speaker": "user",
            "says": body.text,
            "tells": [*body.revealed],
        }
    if isinstance(body, AgentTurn) and body.action is not AgentAction.CALL:
        return {"sequence": event.sequence, "speaker": "assistant", "says": body.content}
    return None
