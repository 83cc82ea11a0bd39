"""The lines of a rubric: what counts towards which part of the reward, and how it is checked.

One value here mirrors one message of `proto/synthagent/api/v1/task.proto`, whose comments define
each field. `checks` evaluates them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from synthagent.worlds.values import Name, Scalar, Sql, ToolName, Value


class Section(StrEnum):
    """The part of the reward that a criterion counts towards."""

    POLICY = "policy"
    SUB_GOAL = "sub_goal"
    INTERACTION = "interaction"


class ArgumentMatcher(Value):
    """A condition on one argument of a call."""

    name: str
    equals: Scalar


class CallMatcher(Value):
    """A condition on one call; `error_code` asks for that business error."""

    tool: ToolName
    arguments: tuple[ArgumentMatcher, ...] = ()
    count_failed: bool = False
    error_code: str = ""


class StateCheck(Value):
    """Holds when a predicate over the final state is true."""

    kind: Literal["state"] = "state"
    sql: Sql


class CalledCheck(Value):
    """Holds when enough matching calls were made."""

    kind: Literal["called"] = "called"
    any_of: tuple[CallMatcher, ...] = Field(min_length=1)
    min_count: int = Field(1, ge=1)
    after_criterion_id: str = ""


class ForbiddenCheck(Value):
    """Violated when a matching call was made, or when a predicate over the final state is true."""

    kind: Literal["forbidden"] = "forbidden"
    calls: tuple[CallMatcher, ...] = ()
    state_sql: str = Field("", max_length=4000)

    @model_validator(mode="after")
    def _check(self) -> ForbiddenCheck:
        if not self.calls and not self.state_sql:
            raise ValueError("a forbidden check needs calls or state_sql")
        return self


class AskedCheck(Value):
    """Holds when the user revealed a fact before any call used its value."""

    kind: Literal["asked"] = "asked"
    fact_id: Name


class AnswerCheck(Value):
    """Holds when the final answer contains every value, and one of the phrases where given."""

    kind: Literal["answer"] = "answer"
    values: tuple[Scalar, ...] = ()
    any_of: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> AnswerCheck:
        if not self.values and not self.any_of:
            raise ValueError("an answer check needs values or any_of")
        return self


class JudgedCheck(Value):
    """Holds when a model says so; never evaluated by the engine."""

    kind: Literal["judged"] = "judged"
    question: str = Field(min_length=1)


Check = Annotated[
    StateCheck | CalledCheck | ForbiddenCheck | AskedCheck | AnswerCheck | JudgedCheck,
    Field(discriminator="kind"),
]


class Criterion(Value):
    """One line of a rubric."""

    criterion_id: Name
    section: Section
    description: str = Field(min_length=1)
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    check: Check
    source_text: str = ""

    @model_validator(mode="after")
    def _check(self) -> Criterion:
        if isinstance(self.check, ForbiddenCheck) and self.section is not Section.POLICY:
            raise ValueError(f"criterion {self.criterion_id}: a forbidden check is a policy")
        return self
