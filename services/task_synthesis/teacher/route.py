"""What an item of a synthesis is to become: its route, the kind of its tools, and why it did not.

A route is drawn by the router; the teacher only reads it. `Rejected` ends an item: it names the
step or gate that gave it up, and carries what the item cost and all that the model wrote for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pydantic import JsonValue

from synthagent.llm import Usage

LENGTHS = {"short": 5, "medium": 6, "long": 7}
"""Sub-goals of a workflow by the length of a route. Another length leaves 5 to 7 open."""


class ToolKind(StrEnum):
    """What kind of tools the teacher writes."""

    SIMULATED = "simulated"
    SQL = "sql"


class Step(StrEnum):
    """The steps that can give an item up. A gate of certification does so under its own name."""

    TOOL_SET = "tool_set"
    TOOL_CHECK = "tool_check"
    FUZZY_TASK = "fuzzy_task"
    LEAK_CHECK = "leak_check"
    SQL_WORLD = "sql_world"
    RUBRIC = "rubric"
    TOO_FEW_SOLUTIONS = "too_few_solutions"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Route:
    """One value of each dimension. `persona` is the dimension's value, not the persona itself.

    `domain` and `difficulty` become the task's; the others only steer the prompts.
    """

    domain: str
    persona: str
    tool_family: str
    length: str
    difficulty: str


class Rejected(Exception):
    """An item that came to nothing.

    `rejected_by` is a Step or the name of a Gate, `reason` one sentence, `usage` what the item used
    so far (all steps together), `product` what the model wrote, by step.
    """

    def __init__(
        self, rejected_by: str, reason: str, usage: Usage, product: Mapping[str, JsonValue]
    ) -> None:
        super().__init__(f"{rejected_by}: {reason}")
        self.rejected_by = rejected_by
        self.reason = reason
        self.usage = usage
        self.product = dict(product)
