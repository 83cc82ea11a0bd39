"""The fuzzy task: one visible sentence, typed private facts, and the user's background.

Checks what the sentence and the facts must be; what they must not give away is `leak_check`'s.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from services.task_synthesis.teacher import leak_check
from services.task_synthesis.teacher.facts import as_facts
from services.task_synthesis.teacher.products import FuzzyTask
from services.task_synthesis.teacher.repair import Broken
from services.task_synthesis.teacher.route import Step
from synthagent.worlds.spec import Fact

MAX_INSTRUCTION = 320
"""Characters of the visible sentence."""

_SENTENCE_END = re.compile(
    r"(?<![A-Z])(?<!\bDr)(?<!\bMr)(?<!\bMs)(?<!\bSt)(?<!\bvs)(?<!\be\.g)(?<!\bi\.e)[.!?]+\s+(?=\S)"
)
"""The end of a sentence that another follows; not an initial or a usual abbreviation."""


@dataclass(frozen=True, slots=True)
class ToldTask:
    """A fuzzy task under its rules."""

    instruction: str
    background: str
    facts: tuple[Fact, ...]


def check(product: FuzzyTask, *, tool_names: Sequence[str], workflow: Sequence[str]) -> ToldTask:
    """The task as it is told, where it keeps every rule that words can show. Raises Broken."""
    instruction = one_sentence(product.instruction)
    facts, _ = as_facts(product.facts, tool_names)
    leak_check.check(
        instruction,
        product.background,
        facts=facts,
        tool_names=tool_names,
        workflow=workflow,
    )
    return ToldTask(instruction, product.background, facts)


def one_sentence(text: str) -> str:
    """The visible sentence. Raises Broken where it is more than one, or too long."""
    if _SENTENCE_END.search(text):
        raise Broken(Step.FUZZY_TASK, "the instruction is more than one sentence; keep one")
    if len(text) > MAX_INSTRUCTION:
        raise Broken(
            Step.FUZZY_TASK,
            f"the instruction has {len(text)} characters; at most {MAX_INSTRUCTION} are allowed",
        )
    if len(text.split()) < 3:
        raise Broken(Step.FUZZY_TASK, "the instruction is no sentence")
    return text
