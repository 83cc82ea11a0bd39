"""What a model writes for an sql world, as one schema of structured output (`sql_world`).

It mirrors the contract's World, Plan and Criterion, without what the teacher derives itself:
identifiers, the criterion of the restriction, and the criteria that facts were asked for.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from services.task_synthesis.teacher.bounds import (
    JsonObject,
    JsonScalar,
    Label,
    Line,
    OptionalLine,
    OptionalPassage,
    OptionalSql,
    Product,
    SqlText,
)
from services.task_synthesis.teacher.products import FactDesign, RestrictionDesign


class ColumnDesign(Product):
    """A column."""

    name: Label
    type: Literal["text", "integer", "real"]
    primary_key: bool = False
    nullable: bool = False


class TableDesign(Product):
    """A table with its rows."""

    name: Label
    columns: Annotated[list[ColumnDesign], Field(min_length=1, max_length=16)]
    rows: Annotated[list[Annotated[list[JsonScalar], Field(max_length=16)]], Field(max_length=60)]


class StatementDesign(Product):
    """A statement of a tool's program."""

    kind: Literal["require", "execute", "return"]
    sql: SqlText
    error_code: OptionalLine = ""
    error_message: OptionalLine = ""
    shape: Literal["", "row", "rows"] = ""
    key: OptionalLine = ""


class SqlToolDesign(Product):
    """A tool whose behaviour is a program over the tables."""

    name: Label
    category: Label
    description: Line
    input_schema: JsonObject
    statements: Annotated[list[StatementDesign], Field(min_length=1, max_length=8)]


class StepDesign(Product):
    """A call of a plan."""

    name: Label
    tool: Label
    arguments: JsonObject
    expected_error_code: OptionalLine = ""


class PlanDesign(Product):
    """A way to do the task."""

    steps: Annotated[list[StepDesign], Field(min_length=1, max_length=12)]
    answer: Line


class MatcherDesign(Product):
    """A condition on a call: the tool, and the arguments that must be equal."""

    tool: Label
    arguments: JsonObject = Field({})
    count_failed: bool = False
    error_code: OptionalLine = ""


class SqlCriterionDesign(Product):
    """A sub-goal that the engine checks."""

    text: Line
    check: Literal["state", "called", "answer"]
    sql: OptionalSql = Field("", description="For state: one SELECT whose value is the truth")
    any_of: Annotated[list[MatcherDesign], Field(max_length=4)] = Field([])
    values: Annotated[list[JsonScalar], Field(max_length=6)] = Field([])


class SqlWorld(Product):
    """A whole world with its task."""

    tables: Annotated[list[TableDesign], Field(min_length=1, max_length=8)]
    tools: Annotated[list[SqlToolDesign], Field(min_length=3, max_length=8)]
    restriction: RestrictionDesign
    forbidden: Annotated[list[MatcherDesign], Field(min_length=1, max_length=4)]
    probe: PlanDesign
    instruction: Line
    background: OptionalPassage = ""
    workflow: Annotated[list[Line], Field(max_length=7)] = Field([])
    facts: Annotated[list[FactDesign], Field(min_length=1, max_length=6)]
    gold_plans: Annotated[list[PlanDesign], Field(min_length=1, max_length=3)]
    sub_goals: Annotated[list[SqlCriterionDesign], Field(min_length=1, max_length=10)]
