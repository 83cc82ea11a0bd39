"""What each step tells the model: the prompts of `prompts/*.md` with their values.

Values are texts; whatever came from a model, a persona or an episode is quoted, so that it cannot
close the `<data>` around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import JsonValue

from services.task_synthesis.teacher.attempts import (
    MAX_TRANSCRIPTS,
    Attempt,
    shown,
    transcript,
)
from services.task_synthesis.teacher.fuzzy_task import ToldTask
from services.task_synthesis.teacher.repair import PACKAGE
from services.task_synthesis.teacher.route import LENGTHS, Route
from services.task_synthesis.teacher.tool_check import CheckedTools
from synthagent.llm.prompts import render
from synthagent.llm.quotation import quoted
from synthagent.worlds.spec import Fact, Persona, Task

_FACTS = {"short": "2 or 3", "medium": "3 or 4", "long": "4 to 6"}


def tool_set(route: Route, persona: Persona) -> str:
    """The first step."""
    length = LENGTHS.get(route.length)
    return render(
        PACKAGE,
        "tool_set",
        **_route(route),
        persona=_persona(persona),
        sub_goals="5 to 7" if length is None else str(length),
    )


def tool_check(tools: CheckedTools) -> str:
    """The question which tools a model could replace."""
    return render(PACKAGE, "tool_check", tools=_designs(tools))


def distractors(route: Route, tools: CheckedTools) -> str:
    """The request for tools that nobody needs: two where the set is small."""
    return render(
        PACKAGE,
        "distractors",
        domain=quoted(route.domain),
        count="two tools" if len(tools.tools) < 4 else "one tool",
        tools=_designs(tools),
        workflow=_quoted(tools.workflow),
    )


def fuzzy_task(route: Route, persona: Persona, tools: CheckedTools) -> str:
    """The request for the task as the persona tells it."""
    return render(
        PACKAGE,
        "fuzzy_task",
        **_route(route),
        persona=_persona(persona),
        fact_count=_FACTS.get(route.length, "2 to 5"),
        tools=_designs(tools),
        restriction=quoted(f"{tools.restriction_text} {tools.reason}"),
        workflow=_quoted(tools.workflow),
    )


def leak_check(told: ToldTask, tools: CheckedTools) -> str:
    """The question what the visible sentence gives away."""
    return render(
        PACKAGE,
        "leak_check",
        instruction=quoted(told.instruction),
        facts=_facts(told.facts),
        tool_names=_quoted(tool.name for tool in tools.tools),
        workflow=_quoted(tools.workflow),
    )


def rubric(draft: Task, attempts: Sequence[Attempt]) -> str:
    """The request for a rubric from workflow and attempts."""
    return render(
        PACKAGE,
        "rubric",
        **_task(draft),
        workflow=_quoted(draft.workflow),
        attempts=_transcripts(attempts),
    )


def keep(task: Task, attempts: Sequence[Attempt], solved: int) -> str:
    """The last question."""
    lines = [
        {"section": c.section.value, "checked_by": c.check.kind, "text": c.description}
        for c in task.criteria
    ]
    return render(
        PACKAGE,
        "keep",
        **_task(task),
        rubric=[quoted(dict(line)) for line in lines],
        solved=solved,
        attempted=len(attempts),
        attempts=_transcripts(attempts),
    )


def sql_world(route: Route, persona: Persona) -> str:
    """The request for a whole world as data."""
    return render(PACKAGE, "sql_world", **_route(route), persona=_persona(persona))


def _route(route: Route) -> dict[str, str]:
    return {
        "domain": quoted(route.domain),
        "tool_family": quoted(route.tool_family),
        "difficulty": quoted(route.difficulty),
    }


def _task(task: Task) -> dict[str, object]:
    return {
        "instruction": quoted(task.instruction),
        "restriction": quoted(f"{task.restriction.text} {task.restriction.reason}"),
        "facts": _facts(task.facts),
        "tools": [
            _tool(tool.name, tool.description, tool.input_schema, tool.output_schema or {})
            for tool in task.world.tools
        ],
    }


def _persona(persona: Persona) -> str:
    return quoted({"name": persona.name, "role": persona.role, "description": persona.description})


def _designs(tools: CheckedTools) -> list[str]:
    return [
        _tool(tool.name, tool.description, tool.input_schema, tool.output_schema)
        for tool in tools.tools
    ]


def _tool(
    name: str, description: str, inputs: dict[str, JsonValue], outputs: dict[str, JsonValue]
) -> str:
    """A tool on one line."""
    return quoted({"name": name, "description": description, "input": inputs, "output": outputs})


def _facts(facts: Iterable[Fact]) -> list[str]:
    return [
        quoted({"name": fact.fact_id, "label": fact.label, "value": fact.value}) for fact in facts
    ]


def _quoted(texts: Iterable[str]) -> list[str]:
    return [quoted(text) for text in texts]


def _transcripts(attempts: Sequence[Attempt]) -> list[str]:
    """The attempts that are shown, in equal shares of the room that there is."""
    chosen = shown(attempts)
    return [transcript(attempt, MAX_TRANSCRIPTS // len(chosen)) for attempt in chosen]
