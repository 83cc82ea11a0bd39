"""The gates that carry a task's plans out: gold, no-op, necessity, wrong entity, restriction, ...

An Examination compiles a task's world once and holds one Rehearsal, in which every variation of a
plan is played from the initial state. A gate is a method that returns a remark, or raises Failed
with the reason or NotApplicable. Gates run in order: later ones rely on the gold runs of `gold`.
Criteria that only a model can judge are left out of every variation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import orjson
from pydantic import JsonValue

from synthagent.worlds.alternatives import Alternatives, equal
from synthagent.worlds.checks import evaluate, loses
from synthagent.worlds.criteria import (
    CalledCheck,
    CallMatcher,
    Criterion,
    ForbiddenCheck,
    JudgedCheck,
    Section,
    StateCheck,
)
from synthagent.worlds.engine import compile_world
from synthagent.worlds.episode import CriterionResult, Event
from synthagent.worlds.fidelity import infidelity
from synthagent.worlds.plans import Performance, PlanError, fact_values, render_answer, resolve
from synthagent.worlds.rewards import CERTIFIED_PRESETS, REWARD_PRESETS, fractions, reward
from synthagent.worlds.spec import Plan, SqlProgram, Task

REPLAYS = 100
_RESETS_PER_OPENING = 10
_STUCK_ANSWER = "I could not finish this."
_IDLE_ANSWERS = ("", "Done.")


class Failed(ValueError):
    """A gate does not hold, for this reason."""


class NotApplicable(ValueError):
    """A gate has no meaning for this task, for this reason."""


@dataclass(frozen=True, slots=True)
class GoldRun:
    """A gold plan as it went: the arguments and results of each step, the answer, the state."""

    plan: Plan
    arguments: Mapping[str, dict[str, JsonValue]]
    results: Mapping[str, JsonValue]
    answer: str
    events: Sequence[Event]
    state_hash: str


class Examination:
    """One task under examination. Raises WorldError where its world does not compile."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.image = compile_world(task.world)
        self.facts = fact_values(task)
        self.runs: tuple[GoldRun, ...] = ()
        self.alternatives = Alternatives(task)
        checked = tuple(c for c in task.criteria if not isinstance(c.check, JudgedCheck))
        self._left_out = len(task.criteria) - len(checked)
        self._rubric = task.model_copy(update={"criteria": checked}) if self._left_out else task
        self.session = self.image.rehearse()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def compiles(self) -> str:
        """Every predicate compiles, and every criterion refers to what exists."""
        for criterion in self.task.criteria:
            check = criterion.check
            where = f"criterion {criterion.criterion_id}"
            if isinstance(check, StateCheck):
                self.session.predicate(check.sql)
            elif isinstance(check, ForbiddenCheck):
                if check.state_sql:
                    self.session.predicate(check.state_sql)
                self._check_matchers(where, check.calls)
            elif isinstance(check, CalledCheck):
                self._check_matchers(where, check.any_of)
                self._check_order(criterion)
        return ""

    def _check_matchers(self, where: str, matchers: Sequence[CallMatcher]) -> None:
        for matcher in matchers:
            tool = self.task.world.tool(matcher.tool)
            if tool is None:
                raise Failed(f"{where}: there is no tool {matcher.tool}")
            properties = tool.input_schema.get("properties", {})
            for wanted in matcher.arguments:
                if not isinstance(properties, dict) or wanted.name not in properties:
                    raise Failed(f"{where}: {matcher.tool} has no argument {wanted.name}")

    def _check_order(self, criterion: Criterion) -> None:
        following = {
            c.criterion_id: c.check.after_criterion_id
            for c in self.task.criteria
            if isinstance(c.check, CalledCheck)
        }
        current = criterion.criterion_id
        for _ in self.task.criteria:
            current = following.get(current, "")
            if current == criterion.criterion_id:
                raise Failed(f"criterion {current} is ordered after itself")

    def gold(self) -> str:
        """Each gold plan, carried out by an agent that asks, earns full reward."""
        self._need_engine()
        self.runs = tuple(self._gold_run(plan) for plan in self.task.gold_plans)
        if not self._left_out:
            return ""
        return f"{self._left_out} criteria that a model judges were left out"

    def _gold_run(self, plan: Plan) -> GoldRun:
        where = f"plan {plan.plan_id}"
        performance = self.begin()
        try:
            results = performance.follow(plan.steps, self.facts)
            answer = render_answer(plan, self.facts, results)
        except PlanError as error:
            raise Failed(f"{where}: {error}") from error
        arguments = {
            step.step_id: resolve(step.arguments, self.facts, results) for step in plan.steps
        }
        events = performance.finish(answer)
        evaluated = self._evaluate(events)
        for result in evaluated:
            if not result.satisfied:
                raise Failed(f"{where} misses {result.criterion_id}: {result.explanation}")
        for preset, worth in self._rewards(evaluated).items():
            if worth != 1.0:
                raise Failed(f"{where} earns {worth} by {preset}; a rubric needs a sub-goal")
        if problem := infidelity(self.task, events):
            raise Failed(f"{where}: {problem}")
        return GoldRun(plan, arguments, results, answer, events, self.session.state_hash)

    def no_op(self) -> str:
        """Doing nothing, and saying so or repeating the instruction, earns nothing."""
        self._need_engine()
        for answer in (*_IDLE_ANSWERS, self.task.instruction):
            results = self._evaluate(self.begin().finish(answer))
            for criterion, result in zip(self._rubric.criteria, results, strict=True):
                if result.satisfied and criterion.section is not Section.POLICY:
                    raise Failed(f"{criterion.criterion_id} is satisfied without doing anything")
            if any(self._rewards(results).values()):
                raise Failed("doing nothing earns a reward")
        return ""

    def necessity(self) -> str:
        """Each gold step is needed, even by an agent that guesses what the step would tell."""
        self._need_engine()
        for run in self.runs:
            steps = run.plan.steps
            for number, performance in self._walk(run):
                for later in steps[number + 1 :]:
                    for fact_id in later.references("$fact"):
                        performance.ask(fact_id)
                    performance.call(later.tool, run.arguments[later.step_id])
                if not self.loses(performance.finish(run.answer)):
                    raise Failed(f"plan {run.plan.plan_id} needs no step {steps[number].step_id}")
        return ""

    def wrong_entity(self) -> str:
        """Each gold argument matters: a plausible other value loses a criterion.

        Values that another gold plan has in the same place are no mistakes, and not tried.
        """
        self._need_engine()
        for run in self.runs:
            for number, performance in self._walk(run):
                self._swap_arguments(run, number, performance)
        return ""

    def _swap_arguments(self, run: GoldRun, number: int, before: Performance) -> None:
        step = run.plan.steps[number]
        others = [other for other in self.runs if other is not run]
        gold = run.arguments[step.step_id]
        for name, value in gold.items():
            for other in self.alternatives.of(step, name, value, run.results):
                if _is_gold(others, step.tool, name, other):
                    continue
                self.session.back()
                performance = before.fork()
                result = performance.call(step.tool, {**gold, name: other})
                results = {s.step_id: run.results[s.step_id] for s in run.plan.steps[:number]}
                results[step.step_id] = orjson.loads(result.result)
                if not self.loses(self._go_on(performance, run.plan, number + 1, results)):
                    raise Failed(
                        f"plan {run.plan.plan_id}, step {step.step_id}: "
                        f"{name} may be {other!r} instead of {value!r}"
                    )

    def _walk(self, run: GoldRun) -> Iterator[tuple[int, Performance]]:
        """Stops before each step of a gold run, its facts asked for, with a copy to go astray with.

        `session.back()` returns to that point, for a further attempt with a fork of the copy.
        """
        performance = self.begin()
        for number, step in enumerate(run.plan.steps):
            for fact_id in step.references("$fact"):
                performance.ask(fact_id)
            self.session.mark()
            yield number, performance.fork()
            self.session.back()
            performance.call(step.tool, run.arguments[step.step_id])

    def vary(
        self, plan: Plan, *, facts: Mapping[str, JsonValue] | None = None, ask: bool = True
    ) -> list[Event]:
        """The log of an agent that puts other values for facts, or never asks for them."""
        return self._go_on(self.begin(), plan, 0, {}, facts=facts, ask=ask)

    def _go_on(
        self,
        performance: Performance,
        plan: Plan,
        start: int,
        results: dict[str, JsonValue],
        *,
        facts: Mapping[str, JsonValue] | None = None,
        ask: bool = True,
    ) -> list[Event]:
        """Follows the rest of a plan as far as it gets after a mistake.

        Later steps use what the earlier ones gave. A step whose value is not there is not made.
        """
        values = self.facts if facts is None else facts
        for step in plan.steps[start:]:
            for fact_id in step.references("$fact") if ask else ():
                performance.ask(fact_id)
            try:
                arguments = resolve(step.arguments, values, results)
            except PlanError:
                continue
            results[step.step_id] = orjson.loads(performance.call(step.tool, arguments).result)
        try:
            answer = render_answer(plan, values, results)
        except PlanError:
            answer = _STUCK_ANSWER
        return performance.finish(answer)

    def restriction(self) -> str:
        """After each gold plan the forbidden act is possible, detected, and zeroes the reward."""
        self._need_engine()
        restriction = self.task.restriction
        probe = restriction.probe
        if probe is None:
            raise NotApplicable("there is no probe")
        for run in self.runs:
            performance = self.begin()
            performance.follow(run.plan.steps, self.facts)
            try:
                performance.follow(probe.steps, self.facts)
            except PlanError as error:
                raise Failed(f"the probe is not possible: {error}") from error
            if probe.steps[-1].expected_error_code:
                raise Failed("the probe's last step must succeed")
            results = self._evaluate(performance.finish(run.answer))
            if restriction.criterion_id not in _lost(results):
                raise Failed(f"{restriction.criterion_id} does not detect the probe")
            for preset, worth in self._rewards(results).items():
                if worth != 0.0:
                    raise Failed(f"the forbidden act still earns {worth} by {preset}")
        return ""

    def determinism(self) -> str:
        """Every replay of the gold calls gives the same results and state."""
        self._need_engine()
        for run in self.runs:
            expected = [
                (body.ok, body.result, body.error_code, body.state_hash)
                for body in (event.body for event in run.events)
                if body.kind == "tool"
            ]
            calls = [
                (event.body.tool, event.body.arguments)
                for event in run.events
                if event.body.kind == "agent" and event.body.action == "call"
            ]
            for _ in range(-(-REPLAYS // (_RESETS_PER_OPENING * len(self.runs)))):
                with self.image.rehearse() as session:
                    for _ in range(_RESETS_PER_OPENING):
                        session.reset()
                        if [session.answer(*call) for call in calls] != expected:
                            raise Failed(f"a replay of plan {run.plan.plan_id} differs")
        return ""

    def begin(self) -> Performance:
        """An agent in the initial state."""
        self.session.reset()
        return Performance(self.task, self.session)

    def loses(self, events: Sequence[Event]) -> bool:
        """Whether the last performance misses a criterion."""
        return loses(self._rubric, events, self.session)

    def _evaluate(self, events: Sequence[Event]) -> tuple[CriterionResult, ...]:
        return evaluate(self._rubric, events, self.session)

    def _rewards(self, results: Sequence[CriterionResult]) -> dict[str, float]:
        shares = fractions(self._rubric, results)
        return {name: reward(REWARD_PRESETS[name], shares) for name in CERTIFIED_PRESETS}

    def _need_engine(self) -> None:
        if not self.task.gold_plans:
            raise NotApplicable("there is no gold plan: a model answers for the tools")
        used = {step.tool for plan in self.task.plans for step in plan.steps}
        for tool in self.task.world.tools:
            if tool.name in used and not isinstance(tool.behaviour, SqlProgram):
                raise NotApplicable(f"tool {tool.name} is {tool.behaviour.kind}, not a program")
        if not any(c.section is not Section.POLICY for c in self._rubric.criteria):
            raise NotApplicable("only a model can judge this rubric")


def _lost(results: Sequence[CriterionResult]) -> list[str]:
    return [result.criterion_id for result in results if not result.satisfied]


def _is_gold(runs: Sequence[GoldRun], tool: str, name: str, value: JsonValue) -> bool:
    return any(
        step.tool == tool and equal(run.arguments[step.step_id].get(name), value)
        for run in runs
        for step in run.plan.steps
    )
