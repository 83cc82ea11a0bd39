"""One question to a model about one criterion: what it is told of the task, the record, the rules.

Owns the messages of a vote. Texts of the task and of the episode enter only as quoted values; the
words around them lie in `prompts/*.md`. A pure function of task, record and criterion.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pydantic import JsonValue

from services.rubric_judge.record import Record, shorten
from synthagent.llm import Message
from synthagent.llm.prompts import render
from synthagent.llm.quotation import quoted
from synthagent.worlds.criteria import Criterion, JudgedCheck, Section
from synthagent.worlds.spec import Task

_PACKAGE = "services.rubric_judge"
_LONG, _SHORT = 4000, 300
"""Characters of a text of the task, and of a tool's description, that are shown."""


@dataclass(frozen=True, slots=True)
class Question:
    """The messages of a vote, and the events that its evidence may name."""

    messages: tuple[Message, ...]
    events: frozenset[int]


def ask(task: Task, record: Record, criterion: Criterion) -> Question:
    """The question whether a criterion is satisfied; any criterion, whatever its check."""
    return Question(
        messages=(
            Message("system", render(_PACKAGE, "system")),
            Message("user", _body(task, record, criterion)),
        ),
        events=record.shown,
    )


def ask_again(question: Question, vote: JsonValue, missing: Collection[int]) -> Question:
    """The question once more, to a model whose vote named events that do not exist.

    The vote is quoted too: it may repeat what an agent wrote.
    """
    told = render(
        _PACKAGE, "no_such_event", missing=_listed(missing), shown=_listed(question.events)
    )
    return Question(
        messages=(*question.messages, Message("assistant", quoted(vote)), Message("user", told)),
        events=question.events,
    )


def _body(task: Task, record: Record, criterion: Criterion) -> str:
    return render(
        _PACKAGE,
        "question",
        task=quoted(_task(task)),
        fence=record.fence,
        record=record.text,
        criterion=quoted(_criterion(criterion)),
        policy=criterion.section is Section.POLICY,
    )


def _task(task: Task) -> dict[str, JsonValue]:
    tools: list[JsonValue] = [
        {"name": tool.name, "description": _cut(tool.description, _SHORT)}
        for tool in task.world.tools
    ]
    known: list[JsonValue] = [{"what": fact.label, "value": fact.value} for fact in task.facts]
    return {
        "the_user_asked": task.instruction,
        "rule_for_the_agent": _cut(f"{task.restriction.text} {task.restriction.reason}", _LONG),
        "tools": tools,
        "only_the_user_knew": known,
        "background_of_the_user": _cut(task.background, _LONG),
    }


def _criterion(criterion: Criterion) -> dict[str, JsonValue]:
    check = criterion.check
    question = check.question if isinstance(check, JudgedCheck) else criterion.description
    shown: dict[str, JsonValue] = {"question": _cut(question, _LONG)}
    for name, text in (
        ("criterion", criterion.description),
        ("as_written_in_the_rubric", criterion.source_text),
    ):
        if text and text not in shown.values():
            shown[name] = _cut(text, _LONG)
    return shown


def _cut(text: str, limit: int) -> JsonValue:
    part = shorten(text, limit)
    return part["text"] if len(part) == 1 else part


def _listed(numbers: Collection[int]) -> str:
    """Numbers as words: runs are joined, and a very long list ends in an ellipsis."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    words = [" to ".join(str(end) for end in run) for run in runs[:20]]
    return ", ".join(words) + (", ..." if len(runs) > 20 else "")
