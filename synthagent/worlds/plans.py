"""Plans carried out: references resolved, calls made, the event log of a perfect agent.

A plan's arguments refer to private facts and to results of earlier steps. `Performance` walks a
plan through a session and keeps the log; `run_plan` is the whole of it, in a session of its own.
Everything is chosen by the task's seed, so the same task gives the same log.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import orjson
from pydantic import JsonValue

from synthagent.worlds.engine import WorldImage
from synthagent.worlds.episode import (
    EpisodeEnd,
    EpisodeOutcome,
    Event,
    EventBody,
    ReplyKind,
    ToolResult,
    UserReply,
)
from synthagent.worlds.protocol import answer_turn, call_turn, message_turn
from synthagent.worlds.session import Session
from synthagent.worlds.spec import Fact, Plan, PlanStep, Task

_SLOT = re.compile(r"\{(fact|step):([a-z][a-z0-9_]*)(?::([^{}]*))?\}")


class PlanError(ValueError):
    """A plan that cannot be carried out: a reference leads nowhere, or a step ends unexpectedly."""


def resolve(
    arguments: Mapping[str, JsonValue],
    facts: Mapping[str, JsonValue],
    results: Mapping[str, JsonValue],
) -> dict[str, JsonValue]:
    """Arguments with every {"$fact"} and {"$step", "path"} replaced. Raises PlanError."""
    return {name: _resolved(value, facts, results) for name, value in arguments.items()}


def _resolved(
    value: JsonValue, facts: Mapping[str, JsonValue], results: Mapping[str, JsonValue]
) -> JsonValue:
    if isinstance(value, dict):
        if "$fact" in value:
            return _known(facts, str(value["$fact"]), "fact")
        if "$step" in value:
            step = str(value["$step"])
            return point(_known(results, step, "result of step"), str(value.get("path", "")))
    return value


def _known(values: Mapping[str, JsonValue], key: str, what: str) -> JsonValue:
    if key not in values:
        raise PlanError(f"there is no {what} {key}")
    return values[key]


def point(value: JsonValue, pointer: str) -> JsonValue:
    """The part of a value at a JSON pointer (RFC 6901). Raises PlanError."""
    if pointer and not pointer.startswith("/"):
        raise PlanError(f"{pointer!r} is no JSON pointer; it must start with /")
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise PlanError(f"there is nothing at {pointer!r}")
    return value


def render_answer(
    plan: Plan, facts: Mapping[str, JsonValue], results: Mapping[str, JsonValue]
) -> str:
    """The plan's answer with its slots filled. Raises PlanError."""

    def fill(match: re.Match[str]) -> str:
        if match[1] == "fact":
            value = _known(facts, match[2], "fact")
        else:
            value = point(_known(results, match[2], "result of step"), match[3] or "")
        return spoken(value)

    return _SLOT.sub(fill, plan.answer)


def spoken(value: JsonValue) -> str:
    """A value as it is said: strings as they are, anything else as JSON."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def fact_values(task: Task) -> dict[str, JsonValue]:
    """The value of each private fact."""
    return {fact.fact_id: fact.value for fact in task.facts}


def pick(task: Task, fact: Fact, texts: Sequence[str]) -> str:
    """One of several texts of a fact: always the same for the same task."""
    digest = hashlib.blake2b(f"{task.seed}/{fact.fact_id}/{len(texts)}".encode(), digest_size=4)
    return texts[int.from_bytes(digest.digest(), "big") % len(texts)]


class Performance:
    """The log of an agent that knows what to do, in a session that the caller owns."""

    def __init__(self, task: Task, session: Session) -> None:
        self.task = task
        self.session = session
        self.events: list[Event] = []
        self.revealed: set[str] = set()

    def fork(self) -> Performance:
        """A copy that goes on by itself, in the same session."""
        copy = Performance(self.task, self.session)
        copy.events = self.events.copy()
        copy.revealed = self.revealed.copy()
        return copy

    def record(self, body: EventBody) -> None:
        """Appends an event."""
        self.events.append(Event(sequence=len(self.events), body=body))

    def ask(self, fact_id: str) -> None:
        """Asks the user for a fact, unless it was revealed before."""
        if fact_id in self.revealed:
            return
        self.revealed.add(fact_id)
        fact = self.task.fact(fact_id)
        self.record(message_turn(pick(self.task, fact, fact.questions)))
        text = pick(self.task, fact, fact.replies).replace("{value}", fact.spoken)
        self.record(UserReply(text=text, reply=ReplyKind.REVEALED, revealed=(fact_id,)))

    def call(self, tool: str, arguments: Mapping[str, JsonValue]) -> ToolResult:
        """Makes a call."""
        turn = call_turn(tool, arguments)
        self.record(turn)
        result = self.session.call(turn.tool, turn.arguments)
        self.record(result)
        return result

    def follow(
        self, steps: Sequence[PlanStep], facts: Mapping[str, JsonValue], *, ask: bool = True
    ) -> dict[str, JsonValue]:
        """Takes steps and returns their results by step. Raises PlanError.

        Before the first use of each fact, its question is asked.
        """
        results: dict[str, JsonValue] = {}
        for step in steps:
            if ask:
                for fact_id in step.references("$fact"):
                    self.ask(fact_id)
            result = self.call(step.tool, resolve(step.arguments, facts, results))
            if result.error_code != step.expected_error_code:
                raise PlanError(
                    f"step {step.step_id} was to end in "
                    f"{step.expected_error_code or 'success'}, and gave {result.result}"
                )
            results[step.step_id] = orjson.loads(result.result)
        return results

    def finish(self, answer: str) -> list[Event]:
        """Gives the final answer and returns the log."""
        self.record(answer_turn(answer))
        self.record(EpisodeEnd(outcome=EpisodeOutcome.ANSWERED))
        return self.events


def run_plan(image: WorldImage, task: Task, plan: Plan, *, ask: bool = True) -> list[Event]:
    """The log of an agent that follows the plan, asking for each fact before its first use.

    Raises PlanError where a step does not end as the plan says.
    """
    facts = fact_values(task)
    with image.open() as session:
        performance = Performance(task, session)
        results = performance.follow(plan.steps, facts, ask=ask)
        return performance.finish(render_answer(plan, facts, results))
