"""Gold plans: abstract steps become calls by walking through them in a session of the world.

Walking is what turns "the row of the target" into a JSON pointer and every reference into the value
that the rubric's matchers hold. A step that does not end as its scenario says raises WalkError, and
the composer draws the task anew.

Arguments of a step:

    "?slot"                       a private fact
    "$kind", "$target.id"         a variable or a column of a bound row, known to the agent
    "find.client_id"              a field of an earlier step's result
    "list[$target.id].item_id"    a field of the row of an earlier step's array with that value
    "=text", 3, true              the value itself
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson
from pydantic import JsonValue

from synthagent.worlds.compose.assembly import Assembly
from synthagent.worlds.compose.language import Argument, Step
from synthagent.worlds.compose.toolset import Draft, code
from synthagent.worlds.spec import Plan, PlanStep
from synthagent.worlds.values import Scalar

_RESULT = re.compile(r"^(\w+)(?:\[(\$[\w.]+)\])?\.(\w+)$")


class WalkError(ValueError):
    """A plan that does not go as its scenario says."""


@dataclass(frozen=True)
class Walked:
    """A step as it went: the call's concrete arguments by surface name, and its result."""

    step: Step
    draft: Draft
    arguments: dict[str, Scalar]
    result: dict[str, JsonValue]


@dataclass(frozen=True)
class Route:
    """A plan and how each of its steps went."""

    plan: Plan
    walked: tuple[Walked, ...]

    def result(self, step_id: str) -> Walked:
        """The step of that identifier. Raises KeyError."""
        for one in self.walked:
            if one.step.id == step_id:
                return one
        raise KeyError(step_id)


class Walker:
    """Walks plans through one world."""

    def __init__(self, assembly: Assembly, facts: Mapping[str, Scalar]) -> None:
        self._image = assembly.image
        self._drafts = assembly.drafts
        self._surface = assembly.surface
        self._words = assembly.teller.words
        self._lookup = assembly.seeds.lookup
        self._facts = facts

    def walk(self, plan_id: str, steps: tuple[Step, ...], answer: str) -> Route:
        """The plan of these steps. `answer` holds references in braces. Raises WalkError."""
        walked: list[Walked] = []
        planned: list[PlanStep] = []
        with self._image.open() as session:
            for step in steps:
                draft = self._drafts[step.op]
                written, concrete = self._arguments(step, draft, walked)
                tool = self._surface.tool(draft.key)
                answered = session.call(tool, orjson.dumps(concrete).decode())
                expected = code(step.error, self._words) if step.error else ""
                if answered.error_code != expected:
                    raise WalkError(f"step {step.id}: {answered.result}, not {expected or 'ok'}")
                walked.append(Walked(step, draft, concrete, orjson.loads(answered.result)))
                planned.append(
                    PlanStep(
                        step_id=step.id, tool=tool, arguments=written, expected_error_code=expected
                    )
                )
        text = self._answer(answer, walked)
        return Route(Plan(plan_id=plan_id, steps=tuple(planned), answer=text), tuple(walked))

    def _arguments(
        self, step: Step, draft: Draft, walked: Sequence[Walked]
    ) -> tuple[dict[str, JsonValue], dict[str, Scalar]]:
        written: dict[str, JsonValue] = {}
        concrete: dict[str, Scalar] = {}
        for key in draft.params:
            if key not in step.args:
                raise WalkError(f"step {step.id}: no argument for {key}")
            name = self._surface.concept(key)
            written[name], concrete[name] = self.resolve(step.args[key], walked)
        return written, concrete

    def resolve(self, given: Argument, walked: Sequence[Walked]) -> tuple[JsonValue, Scalar]:
        """An argument as the plan writes it, and its value now."""
        if not isinstance(given, str):
            return given, given
        if given.startswith("="):
            return given[1:], given[1:]
        if given.startswith("$"):
            value = self._lookup(given)
            return value, value
        if given.startswith("?"):
            return {"$fact": given[1:]}, self._facts[given[1:]]
        step_id, path, value = self._result(given, walked)
        return {"$step": step_id, "path": path}, value

    def _result(self, reference: str, walked: Sequence[Walked]) -> tuple[str, str, Scalar]:
        match = _RESULT.match(reference)
        step = next((one for one in walked if match and one.step.id == match[1]), None)
        if match is None or step is None:
            raise WalkError(f"{reference} is no reference to an earlier step")
        name = self._surface.concept(match[3])
        rows = next((value for value in step.result.values() if isinstance(value, list)), None)
        if rows is None:
            if name not in step.result:
                raise WalkError(f"{reference}: the result has no {name}")
            return step.step.id, f"/{name}", _scalar(step.result[name])
        wanted = self._lookup(match[2]) if match[2] else None
        key = next(iter(step.result))
        alone = not match[2] and len(rows) == 1
        for index, row in enumerate(rows):
            if isinstance(row, dict) and (alone or wanted in row.values()):
                return step.step.id, f"/{key}/{index}/{name}", _scalar(row[name])
        raise WalkError(f"{reference}: no row of the result holds {wanted!r}")

    def _answer(self, template: str, walked: Sequence[Walked]) -> str:
        def hole(match: re.Match[str]) -> str:
            reference = match[1]
            if reference.startswith("?"):
                return "{fact:" + reference[1:] + "}"
            step_id, path, _ = self._result(reference, walked)
            return "{step:" + step_id + ":" + path + "}"

        return re.sub(r"\{([^{}]+)\}", hole, template)

    def value(self, reference: str, route: Route) -> Scalar:
        """The value of a reference after a route was walked; other text is itself."""
        if reference.startswith(("?", "$")) or _RESULT.match(reference):
            return self.resolve(reference, route.walked)[1]
        return reference


def _scalar(value: JsonValue) -> Scalar:
    if isinstance(value, dict | list):
        raise WalkError("a reference gives no single value")
    return value
