"""The six kinds of check, each evaluated over an episode's log and the session after its last call.

A check gives whether it holds, the sequences of the events it rests on, and a sentence. Nothing
here knows rewards. A judged check is a question for a model: its result is handed in, and where it
is missing the evaluation ends with JudgementMissing instead of a guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson
from pydantic import JsonValue

from synthagent.worlds.criteria import (
    AnswerCheck,
    AskedCheck,
    CalledCheck,
    CallMatcher,
    Criterion,
    ForbiddenCheck,
    JudgedCheck,
    StateCheck,
)
from synthagent.worlds.episode import (
    AgentAction,
    AgentTurn,
    CriterionResult,
    Event,
    ToolResult,
    UserReply,
)
from synthagent.worlds.matching import contains, same, uses
from synthagent.worlds.session import Session
from synthagent.worlds.spec import Task, World
from synthagent.worlds.versions import root_version, session_hash

EngineCheck = StateCheck | CalledCheck | ForbiddenCheck | AskedCheck | AnswerCheck


class JudgementMissing(ValueError):
    """A judged criterion without a result of the model."""


@dataclass(frozen=True, slots=True)
class MadeCall:
    """A call of the agent with its result. `arguments` is None where they were no object."""

    sequence: int
    tool: str
    arguments: dict[str, JsonValue] | None
    result: ToolResult


@dataclass(frozen=True, slots=True)
class Reading:
    """What the checks look at, read once from a log."""

    calls: tuple[MadeCall, ...]
    reveals: Mapping[str, int]  # fact -> sequence of the first reply that stated it
    changes: tuple[int, ...]  # sequences of the tool results that changed the state
    answer: str | None
    answer_sequence: int


def read(events: Sequence[Event], initial_hash: str) -> Reading:
    """Reads a log. A call that was cut off before its result counts as not made."""
    calls: list[MadeCall] = []
    reveals: dict[str, int] = {}
    changes: list[int] = []
    answer, answer_sequence, state = None, 0, initial_hash
    last: AgentTurn | None = None
    for event in events:
        body = event.body
        if isinstance(body, AgentTurn):
            last = body
            if body.action is AgentAction.ANSWER:
                answer, answer_sequence = body.content, event.sequence
        elif isinstance(body, ToolResult) and last is not None:
            arguments = _object(last.arguments)
            calls.append(MadeCall(event.sequence - 1, last.tool, arguments, body))
            if body.state_hash != state:
                changes.append(event.sequence)
                state = body.state_hash
        elif isinstance(body, UserReply):
            for fact_id in body.revealed:
                reveals.setdefault(fact_id, event.sequence)
    return Reading(tuple(calls), reveals, tuple(changes), answer, answer_sequence)


def _object(text: str) -> dict[str, JsonValue] | None:
    try:
        value = orjson.loads(text)
    except (orjson.JSONDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def evaluate(
    task: Task,
    events: Sequence[Event],
    session: Session,
    judged: Mapping[str, CriterionResult] | None = None,
) -> tuple[CriterionResult, ...]:
    """One result per criterion, in the rubric's order.

    `session` is in the state after the last call of `events`. `judged` holds the results of judged
    criteria by id. Raises JudgementMissing, and WorldError where a predicate does not compile.
    """
    reading = read(events, session_hash(session.initial_hash, root_version(task.world)))
    evaluation = _Evaluation(task, reading, session, judged or {})
    return tuple(evaluation.result(criterion) for criterion in task.criteria)


def loses(task: Task, events: Sequence[Event], session: Session) -> bool:
    """Whether any criterion is not satisfied: `evaluate` that stops at the first."""
    evaluation = _Evaluation(task, read(events, session.initial_hash), session, {})
    return not all(evaluation.result(criterion).satisfied for criterion in task.criteria)


class _Evaluation:
    """One evaluation; results are kept because criteria may order themselves by each other."""

    def __init__(
        self,
        task: Task,
        reading: Reading,
        session: Session,
        judged: Mapping[str, CriterionResult],
    ) -> None:
        self._criteria = {criterion.criterion_id: criterion for criterion in task.criteria}
        self._task = task
        self._reading = reading
        self._session = session
        self._judged = judged
        self._results: dict[str, CriterionResult | None] = {}

    def result(self, criterion: Criterion) -> CriterionResult:
        key = criterion.criterion_id
        found = self._results.get(key)
        if found is None:
            if key in self._results:  # it orders itself after itself, so nothing can satisfy it
                return CriterionResult(
                    criterion_id=key, satisfied=False, explanation="Waits for itself."
                )
            self._results[key] = None
            check = criterion.check
            found = (
                self._judgement(key)
                if isinstance(check, JudgedCheck)
                else self._evaluated(key, check)
            )
            self._results[key] = found
        return found

    def _judgement(self, key: str) -> CriterionResult:
        given = self._judged.get(key)
        if given is None:
            raise JudgementMissing(f"criterion {key} needs the judgement of a model")
        return given

    def _evaluated(self, key: str, check: EngineCheck) -> CriterionResult:
        satisfied, evidence, explanation = self._check(check)
        return CriterionResult(
            criterion_id=key,
            satisfied=satisfied,
            evidence=tuple(evidence),
            explanation=explanation,
        )

    def _check(self, check: EngineCheck) -> tuple[bool, Sequence[int], str]:
        match check:
            case StateCheck():
                return self._state(check)
            case CalledCheck():
                return self._called(check)
            case ForbiddenCheck():
                return self._forbidden(check)
            case AskedCheck():
                return self._asked(check)
            case AnswerCheck():
                return self._answer(check)

    def _state(self, check: StateCheck) -> tuple[bool, Sequence[int], str]:
        holds = self._session.predicate(check.sql)
        words = "holds" if holds else "does not hold"
        return holds, self._reading.changes, f"The final state {words}."

    def _called(self, check: CalledCheck) -> tuple[bool, Sequence[int], str]:
        after = -1
        if check.after_criterion_id:
            first = self.result(self._criteria[check.after_criterion_id])
            if not first.satisfied:
                return False, (), f"{check.after_criterion_id} did not come first."
            after = min(first.evidence, default=-1)
        fitting = [
            call.sequence
            for call in self._reading.calls
            if call.sequence > after and self._fits(call, check.any_of)
        ]
        count = len(fitting)
        return (
            count >= check.min_count,
            fitting,
            f"{count} matching call{'' if count == 1 else 's'}, {check.min_count} needed.",
        )

    def _forbidden(self, check: ForbiddenCheck) -> tuple[bool, Sequence[int], str]:
        calls = [call.sequence for call in self._reading.calls if self._fits(call, check.calls)]
        if calls:
            return False, calls, "A forbidden call was made."
        if check.state_sql and self._session.predicate(check.state_sql):
            return False, self._reading.changes, "The final state is forbidden."
        return True, (), "Nothing forbidden happened."

    def _asked(self, check: AskedCheck) -> tuple[bool, Sequence[int], str]:
        fact = self._task.fact(check.fact_id)
        revealed = self._reading.reveals.get(check.fact_id)
        used = next(
            (c.sequence for c in self._reading.calls if uses(c.arguments, fact.value)), None
        )
        evidence = sorted(sequence for sequence in (revealed, used) if sequence is not None)
        if revealed is None:
            return False, evidence, f"The user never gave the {fact.label}."
        if used is not None and used < revealed:
            return False, evidence, f"The {fact.label} was used before the user gave it."
        return True, evidence, f"The user gave the {fact.label}, and no call used it before."

    def _answer(self, check: AnswerCheck) -> tuple[bool, Sequence[int], str]:
        answer = self._reading.answer
        if answer is None:
            return False, (), "There is no final answer."
        evidence = (self._reading.answer_sequence,)
        for value in check.values:
            if not contains(answer, value):
                return False, evidence, f"The answer does not contain {value}."
        if check.any_of and not any(contains(answer, phrase) for phrase in check.any_of):
            return False, evidence, "The answer contains none of the expected phrases."
        return True, evidence, "The answer contains what it should."

    def _fits(self, call: MadeCall, matchers: Sequence[CallMatcher]) -> bool:
        return any(matches(call, matcher, self._task.world) for matcher in matchers)


def matches(call: MadeCall, matcher: CallMatcher, world: World) -> bool:
    """Whether a call fits a matcher. An absent argument counts as its default, or null."""
    if call.tool != matcher.tool:
        return False
    if matcher.error_code:
        if call.result.error_code != matcher.error_code:
            return False
    elif not (call.result.ok or matcher.count_failed):
        return False
    given = call.arguments or {}
    return all(
        same(
            given[wanted.name] if wanted.name in given else _default(world, call.tool, wanted.name),
            wanted.equals,
        )
        for wanted in matcher.arguments
    )


def _default(world: World, tool_name: str, argument: str) -> JsonValue:
    tool = world.tool(tool_name)
    properties = tool.input_schema.get("properties") if tool else None
    definition = properties.get(argument) if isinstance(properties, dict) else None
    return definition.get("default") if isinstance(definition, dict) else None
