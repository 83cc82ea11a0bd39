"""Shows one task as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import JsonValue
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from synthagent.conversation import shown
from synthagent.worlds.criteria import JudgedCheck
from synthagent.worlds.spec import GateStatus, Task, Tool

_STATUS_STYLES = {GateStatus.PASSED: "green", GateStatus.FAILED: "red"}


def task_view(task: Task, *, plain: bool = False) -> RenderableType:
    """The task in parts, each under its heading; `plain` draws tables in ASCII."""
    return Group(*_parts(task, box.ASCII if plain else box.SIMPLE_HEAD))


def _parts(task: Task, frame: box.Box) -> Iterator[RenderableType]:
    yield Text.assemble(
        ("task  ", "bold"),
        shown(f"{task.task_id}  ({task.split.value}, {task.domain}, {task.difficulty})"),
    )
    origin = f", from {task.origin.format} item {task.origin.item_id}" if task.origin else ""
    yield shown(f"made by {task.teacher}{origin}", "dim")
    yield from _part("The agent is told", "bold green", task.instruction)
    rule = f"{task.restriction.text} {task.restriction.reason}"
    yield from _part("It must not", "bold red", rule)
    facts = [f"- {fact.label}: {fact.spoken}" for fact in task.facts]
    private = "\n".join([*facts, *([task.background] if task.background else [])])
    yield from _part("Only the user knows", "bold magenta", private or "nothing")
    if task.workflow:
        steps = "\n".join(f"{number}. {goal}" for number, goal in enumerate(task.workflow, start=1))
        yield from _part("Workflow", "bold", steps)
    yield _tools(task, frame)
    yield _rubric(task, frame)
    yield _certificate(task, frame)
    notes = task.origin.texts.get("notes", "") if task.origin else ""
    if notes:
        yield from _part("Noted on import", "bold yellow", notes)


def _part(name: str, style: str, text: str) -> Iterator[RenderableType]:
    yield Text()
    yield Text(name, style=style)
    yield shown(text)


def _tools(task: Task, frame: box.Box) -> Table:
    table = Table(title="Tools", title_justify="left", box=frame)
    for head in ("tool", "arguments", "description", "answered by"):
        table.add_column(head, overflow="fold")
    for tool in task.world.tools:
        answered = tool.behaviour.kind + (", changes state" if tool.changes_state else "")
        row = (tool.name, _arguments(tool), tool.description, answered)
        table.add_row(*map(shown, row))
    return table


def _arguments(tool: Tool) -> str:
    properties = tool.input_schema.get("properties")
    required = tool.input_schema.get("required")
    names = properties if isinstance(properties, dict) else {}
    needed = required if isinstance(required, list) else []
    return ", ".join(
        f"{name}{'' if name in needed else '?'}: {_type(part)}" for name, part in names.items()
    )


def _type(schema: JsonValue) -> str:
    kind = schema.get("type", "any") if isinstance(schema, dict) else "any"
    return "|".join(map(str, kind)) if isinstance(kind, list) else str(kind)


def _rubric(task: Task, frame: box.Box) -> Table:
    table = Table(title="Rubric", title_justify="left", box=frame)
    for head in ("section", "criterion", "checked by", "what it asks for"):
        table.add_column(head, overflow="fold")
    for criterion in task.criteria:
        checked = "a model" if isinstance(criterion.check, JudgedCheck) else criterion.check.kind
        table.add_row(
            criterion.section.value.replace("_", "-"),
            criterion.criterion_id,
            checked,
            shown(criterion.description),
        )
    return table


def _certificate(task: Task, frame: box.Box) -> RenderableType:
    if task.certificate is None:
        return Text("no certificate", style="red")
    table = Table(title="Certificate", title_justify="left", box=frame)
    for head in ("gate", "status", "remark"):
        table.add_column(head, overflow="fold")
    for result in task.certificate.gates:
        style = _STATUS_STYLES.get(result.status, "dim")
        status = Text(result.status.value.replace("_", " "), style=style)
        table.add_row(result.gate.value, status, shown(result.detail))
    return table
