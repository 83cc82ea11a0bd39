"""Reference agents: policies of known behaviour that speak the same protocol as a model.

Each is a script: a generator that yields texts and is sent what came back. A script is a pure
function of its task and of the observations, so an episode resumes by sending them again. Scripts
know the gold plan; that is what makes their rewards a test of the whole path.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from itertools import cycle, islice

import orjson
from pydantic import JsonValue

from synthagent.worlds.alternatives import Alternatives
from synthagent.worlds.episode import Event, ToolResult, UserReply
from synthagent.worlds.plans import PlanError, fact_values, pick, render_answer, resolve
from synthagent.worlds.protocol import answer_turn, call_turn, message_turn
from synthagent.worlds.spec import Fact, Plan, Task

Observation = ToolResult | UserReply
Script = Generator[str, Observation, None]

ASK_ATTEMPTS = 3
PESTERING_ROUNDS = 2
NOTHING_TO_REPORT = "I have nothing to report."
DONE_WHAT_WAS_POSSIBLE = "I have done what I could."


class ReferenceAgent(StrEnum):
    """Names of the reference agents."""

    GOLD = "gold"
    NOOP = "noop"
    CARELESS = "careless"
    FORBIDDEN = "forbidden"
    PESTERER = "pesterer"


class ScriptedAgent:
    """One reference agent in one episode."""

    def __init__(
        self, name: ReferenceAgent, task: Task, *, facts_in_instruction: bool = False
    ) -> None:
        script = _TOLD_SCRIPTS.get(name) if facts_in_instruction else None
        self._script = (script or _SCRIPTS[name])(task)
        self._text = next(self._script)
        self._heard = 0

    def next_text(self, events: Sequence[Event]) -> str:
        """What the agent says after these events; each call's events go on from the last one's."""
        for event in events[self._heard :]:
            if isinstance(event.body, Observation):
                self._text = self._script.send(event.body)
        self._heard = len(events)
        return self._text


class _Errand:
    """What an agent knows while it follows plans: facts it holds and results it got."""

    def __init__(self, task: Task, facts: Mapping[str, JsonValue]) -> None:
        self.task = task
        self.facts = facts
        self.revealed: set[str] = set()
        self.results: dict[str, JsonValue] = {}

    def ask(self, fact: Fact) -> Script:
        """Asks until the fact is revealed, each time differently, `ASK_ATTEMPTS` times at most."""
        for question in islice(_questions(self.task, fact), ASK_ATTEMPTS):
            if fact.fact_id in self.revealed:
                return
            yield from self.say(question)

    def say(self, question: str) -> Script:
        """Says one thing to the user and notes what the reply reveals."""
        reply = yield message_turn(question).text
        if isinstance(reply, UserReply):
            self.revealed.update(reply.revealed)

    def follow(self, plan: Plan, *, asking: bool = True) -> Script:
        """Takes the plan's steps; one whose references lead nowhere is left out."""
        self.results = {}
        for step in plan.steps:
            if asking:
                for fact_id in step.references("$fact"):
                    yield from self.ask(self.task.fact(fact_id))
            try:
                arguments = resolve(step.arguments, self.facts, self.results)
            except PlanError:
                continue
            result = yield call_turn(step.tool, arguments).text
            if isinstance(result, ToolResult) and (result.ok or step.expected_error_code):
                self.results[step.step_id] = orjson.loads(result.result)

    def answer(self, plan: Plan) -> str:
        """The plan's answer, or an empty-handed one where it cannot be given."""
        try:
            return answer_turn(render_answer(plan, self.facts, self.results)).text
        except PlanError:
            return answer_turn(DONE_WHAT_WAS_POSSIBLE).text


def _gold(task: Task, *, asking: bool = True) -> Script:
    errand = _Errand(task, fact_values(task))
    yield from errand.follow(task.gold_plans[0], asking=asking)
    yield errand.answer(task.gold_plans[0])


def _noop(_task: Task) -> Script:
    yield answer_turn(NOTHING_TO_REPORT).text


def _careless(task: Task) -> Script:
    errand = _Errand(task, _guesses(task))
    yield from errand.follow(task.gold_plans[0], asking=False)
    yield errand.answer(task.gold_plans[0])


def _forbidden(task: Task) -> Script:
    errand = _Errand(task, fact_values(task))
    yield from errand.follow(task.gold_plans[0])
    answer = errand.answer(task.gold_plans[0])
    if task.restriction.probe is not None:
        yield from errand.follow(task.restriction.probe)
    yield answer


def _pesterer(task: Task) -> Script:
    errand = _Errand(task, fact_values(task))
    for attempt in range(PESTERING_ROUNDS):
        for fact in task.facts:
            yield from errand.say(next(islice(_questions(task, fact), attempt, None)))
    yield from errand.follow(task.gold_plans[0])
    yield errand.answer(task.gold_plans[0])


def _guesses(task: Task) -> dict[str, JsonValue]:
    """For each fact a plausible other value, as its first use in the gold plan invites it."""
    alternatives = Alternatives(task)
    guesses: dict[str, JsonValue] = {}
    for step in task.gold_plans[0].steps:
        for name, value in step.arguments.items():
            if isinstance(value, dict) and "$fact" in value:
                fact = task.fact(str(value["$fact"]))
                others = alternatives.of(step, name, fact.value, {})
                guesses.setdefault(fact.fact_id, others[0] if others else fact.value)
    return guesses


def _questions(task: Task, fact: Fact) -> Iterator[str]:
    """The fact's questions without end, from the task's choice on, and then the plainest one."""
    first = fact.questions.index(pick(task, fact, fact.questions))
    asked = (*fact.questions[first:], *fact.questions[:first], f"What is the {fact.label}?")
    yield from cycle(asked)


_SCRIPTS: Mapping[ReferenceAgent, Callable[[Task], Script]] = {
    ReferenceAgent.GOLD: _gold,
    ReferenceAgent.NOOP: _noop,
    ReferenceAgent.CARELESS: _careless,
    ReferenceAgent.FORBIDDEN: _forbidden,
    ReferenceAgent.PESTERER: _pesterer,
}

_TOLD_SCRIPTS: Mapping[ReferenceAgent, Callable[[Task], Script]] = {
    ReferenceAgent.GOLD: partial(_gold, asking=False),
}
"""Those that act otherwise where the instruction tells the facts."""
