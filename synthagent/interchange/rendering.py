"""A task that was not imported, as an item in the released form.

The texts say what the task says: policy, tools, instruction, what the user knows, and a rubric with
the three sections. What the form has no place for (programs, tables, gold plans) is left out. The
texts are `prompts/release_*.md`.
"""

from __future__ import annotations

from importlib import resources

from pydantic import JsonValue

from synthagent.interchange.tools import plain_form, tool_lines
from synthagent.worlds.criteria import Criterion, Section
from synthagent.worlds.spec import Task

_SECTIONS = {
    Section.POLICY: "### 1. Policy Compliance Criteria",
    Section.SUB_GOAL: "### 2. Task Sub-goals",
    Section.INTERACTION: "### 3. Required User Interaction",
}


def fresh_item(task: Task) -> dict[str, JsonValue]:
    """The task as an item {"id", "prompt", "task_background", "rubrics"}."""
    tools = tool_lines([plain_form(tool) for tool in task.world.tools])
    policy = f"{task.restriction.text} {task.restriction.reason}".strip()
    system = _text("release_system").replace("{tools}", tools).replace("{policy}", policy)
    user = _text("release_user").replace("{instruction}", task.instruction)
    prompt: list[JsonValue] = [
        {"role": "system", "content": system},
        {"role": "user", "content": user},
    ]
    return {
        "id": task.origin.item_id if task.origin else task.task_id,
        "prompt": prompt,
        "task_background": _background(task),
        "rubrics": "\n\n".join(_section(task, section) for section in Section),
    }


def _background(task: Task) -> str:
    facts = "\n".join(f"- {fact.label}: {fact.spoken}" for fact in task.facts)
    return "\n\n".join(part for part in (task.background, facts) if part)


def _section(task: Task, section: Section) -> str:
    criteria = [c for c in task.criteria if c.section is section]
    if section is Section.POLICY:
        items = [
            f"#### 1{chr(ord('a') + number % 26)}. {_item(criterion)}"
            for number, criterion in enumerate(criteria)
        ]
    else:
        items = [f"{number}. {_item(c)}" for number, c in enumerate(criteria, start=1)]
    return "\n\n".join([_SECTIONS[section], *items])


def _item(criterion: Criterion) -> str:
    return " ".join(criterion.description.split())


def _text(name: str) -> str:
    folder = resources.files("synthagent.interchange").joinpath("prompts")
    return folder.joinpath(f"{name}.md").read_text("utf-8").strip()
