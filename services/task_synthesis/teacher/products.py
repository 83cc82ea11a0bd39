"""What a model writes at each step, as schemas of structured output.

The class names are the names of the schemas on the wire. What a product must fulfil beyond its
shape is checked by the module of its step. The products of sql worlds are in `sql_product`.
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
    Passage,
    Product,
)


class ToolDesign(Product):
    """One simulated tool."""

    name: Label = Field(description="Name of the tool, letters, digits and _ only")
    category: Label = Field(description="Category that no other tool of the set has")
    description: Line = Field(description="What it does, as an agent reads it")
    input_schema: JsonObject = Field(description="JSON Schema of the arguments, type object")
    output_schema: JsonObject = Field(description="JSON Schema of the result, type object")
    changes_state: bool = Field(description="Whether a call changes something that others can see")
    simulation: OptionalPassage = Field(
        "", description="How the tool behaves and what data it holds, for whoever simulates it"
    )


class RestrictionDesign(Product):
    """The one restriction."""

    tool: Label = Field(description="Name of one of the tools")
    forbidden_use: Line = Field(description='What it must NOT be used to: "send drafts to press"')
    reason: Line = Field(description="The real-world reason, one sentence")


class ToolSet(Product):
    """Tools of different categories, one restriction, and a workflow without parameters."""

    tools: Annotated[list[ToolDesign], Field(min_length=3, max_length=5)]
    restriction: RestrictionDesign
    workflow: Annotated[list[Line], Field(min_length=5, max_length=7)]


class Replaceability(Product):
    """Whether a language model could do without one tool."""

    tool: Label
    reason: OptionalLine = Field("", description="Why, before the answer")
    replaceable: bool = Field(
        description="Whether a language model could give the same result by itself"
    )


class ToolCheck(Product):
    """One answer per tool."""

    answers: Annotated[list[Replaceability], Field(max_length=8)]


class Distractors(Product):
    """Tools that look useful for the task and are not needed."""

    tools: Annotated[list[ToolDesign], Field(min_length=1, max_length=2)]


class FactDesign(Product):
    """One private fact."""

    name: Label = Field(description="Identifier, snake_case")
    label: Label = Field(description='What it is, a noun phrase without the value: "arrival day"')
    value: JsonScalar = Field(description="The value, as short as it can be said")
    question: OptionalLine = Field("", description="A natural question that asks for it")
    reply: OptionalLine = Field("", description="One sentence that gives it, with {value} in it")


class FuzzyTask(Product):
    """What the agent is told, and what only the user knows."""

    instruction: Line = Field(description="One sentence: the request, vague on purpose")
    facts: Annotated[list[FactDesign], Field(min_length=1, max_length=8)]
    background: Passage = Field(description="What the user knows beyond the sentence, running text")


class LeakVerdict(Product):
    """Whether the sentence gives away what it must not."""

    reason: OptionalLine = Field("", description="What gives it away, before the answer")
    leaks: bool


class ArgumentDesign(Product):
    """A condition on one argument of a call."""

    name: Label
    fact: OptionalLine = Field("", description="Name of the fact whose value it must be; or empty")
    value: JsonScalar = Field(None, description="The value it must be, where it is no fact")


class CriterionDesign(Product):
    """One line of a rubric."""

    text: Line = Field(description="What is asked for, in one sentence")
    check: Literal["called", "forbidden", "answer", "asked", "judged"]
    tool: OptionalLine = Field("", description="For called and forbidden: the tool")
    arguments: Annotated[list[ArgumentDesign], Field(max_length=8)] = Field([])
    fact: OptionalLine = Field("", description="For asked: the name of the fact")
    values: Annotated[list[JsonScalar], Field(max_length=8)] = Field(
        [], description="For answer: values that must stand in the final answer"
    )
    question: OptionalLine = Field("", description="For judged: a question to answer YES or NO")


class Rubric(Product):
    """The rubric, in three sections."""

    policy: Annotated[list[CriterionDesign], Field(min_length=1, max_length=4)]
    sub_goals: Annotated[list[CriterionDesign], Field(min_length=1, max_length=10)]
    interaction: Annotated[list[CriterionDesign], Field(max_length=10)]


class KeepVerdict(Product):
    """Whether the task is worth keeping."""

    reason: OptionalLine = Field("", description="Why, before the answer")
    keep: bool
