"""Shows one episode as a person reads it: who said what, what tools answered, and the verdict."""

from __future__ import annotations

import io

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from synthagent.worlds.episode import (
    AgentAction,
    AgentTurn,
    EpisodeEnd,
    Event,
    ToolResult,
    UserReply,
    Verdict,
)
from synthagent.worlds.spec import Task


def conversation(task: Task, events: list[Event], verdict: Verdict) -> RenderableType:
    """The task, its events one line each, and a table of the verdict with its evidence."""
    lines = [
        Text.assemble(("task      ", "bold"), f"{task.task_id} ({task.domain}, {task.difficulty})"),
        Text.assemble(("must not  ", "bold red"), f"{task.restriction.text}"),
        *(
            Text.assemble(("private   ", "bold magenta"), f"{fact.label}: {fact.spoken}")
            for fact in task.facts
        ),
        Text.assemble(("user      ", "bold green"), task.instruction),
        *(_line(event) for event in events),
    ]
    return Group(*lines, Text(), _verdict(task, verdict))


def _line(event: Event) -> Text:
    number = (f"{event.sequence:>2} ", "dim")
    body = event.body
    if isinstance(body, AgentTurn):
        if body.action is AgentAction.CALL:
            return Text.assemble(
                number, ("call   ", "bold cyan"), f"{body.tool or '?'} {body.arguments}"
            )
        name = "answer " if body.action is AgentAction.ANSWER else "agent  "
        return Text.assemble(number, (name, "bold blue"), body.content or body.text)
    if isinstance(body, ToolResult):
        return Text.assemble(number, ("tool   ", "cyan" if body.ok else "yellow"), body.result)
    if isinstance(body, UserReply):
        revealed = f"  [reveals {', '.join(body.revealed)}]" if body.revealed else ""
        return Text.assemble(number, ("user   ", "bold green"), body.text, (revealed, "magenta"))
    assert isinstance(body, EpisodeEnd)  # noqa: S101 - the four kinds of event are all there are
    return Text.assemble(number, ("end    ", "bold"), body.outcome.value, f" {body.detail}")


def _verdict(task: Task, verdict: Verdict) -> RenderableType:
    if verdict.reward is None:
        reason = verdict.invalid_reason.value if verdict.invalid_reason else "unknown"
        return Text(f"INVALID ({reason}): {verdict.detail}", style="bold yellow")
    table = Table(title=f"reward {verdict.reward:.3f} ({verdict.reward_preset})")
    for head in ("section", "criterion", "", "evidence", "found"):
        table.add_column(head)
    criteria = {criterion.criterion_id: criterion for criterion in task.criteria}
    for result in verdict.results:
        criterion = criteria[result.criterion_id]
        table.add_row(
            criterion.section.value.replace("_", "-"),
            criterion.description,
            "[green]yes[/]" if result.satisfied else "[red]no[/]",
            ", ".join(f"#{number}" for number in result.evidence),
            result.explanation,
        )
    return table


def as_text(renderable: RenderableType, width: int = 110) -> str:
    """The same without colours, for a file."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()
