"""Shows one episode as a person reads it: who said what, what tools answered, and the verdict.

Every text that a model or a file wrote is shown as data: without markup, and with control
characters made visible, so that nothing in it can act on the terminal.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from synthagent.worlds.episode import (
    AgentAction,
    AgentTurn,
    CriterionResult,
    EpisodeEnd,
    Event,
    ToolResult,
    UserReply,
    Verdict,
)
from synthagent.worlds.spec import Task

_INDENT = 10
_SHOWN_CONTROLS = (
    {number: chr(0x2400 + number) for number in range(32) if chr(number) not in "\n\t"}
    | {0x7F: "␡"}
    | dict.fromkeys((*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "�")
)


def shown(text: str, style: str = "") -> Text:
    """The text as data: control characters visible, no markup."""
    return Text(text.translate(_SHOWN_CONTROLS), style=style)


def conversation(
    task: Task, events: Sequence[Event], verdict: Verdict | None, *, plain: bool = False
) -> RenderableType:
    """The task, its events, and a table of the verdict with evidence and votes.

    `verdict` is None while the episode runs; with `plain`, tables are drawn in ASCII.
    """
    lines = [
        _line("task", "bold", f"{task.task_id} ({task.domain}, {task.difficulty})"),
        _line("must not", "bold red", task.restriction.text),
        *_private(task, events),
        _line("user", "bold green", task.instruction),
        *(_event(event) for event in events),
    ]
    ending = _verdict(task, verdict, plain=plain) if verdict else Text("running", style="yellow")
    return Group(*lines, Text(), ending)


def _line(name: str, style: str, text: str, number: str = "") -> RenderableType:
    """A name and what belongs to it, its further lines below its first."""
    grid = Table.grid(padding=0)
    grid.add_column(width=_INDENT, no_wrap=True)
    grid.add_column(overflow="fold", ratio=1)
    head = Text.assemble((number, "dim"), (name, style))
    grid.add_row(head, shown(text))
    return grid


def _private(task: Task, events: Sequence[Event]) -> Iterator[RenderableType]:
    """What only the user knows, and when it was revealed."""
    revealed: dict[str, int] = {}
    for event in events:
        if isinstance(event.body, UserReply):
            for fact_id in event.body.revealed:
                revealed.setdefault(fact_id, event.sequence)
    for fact in task.facts:
        when = f"revealed at #{revealed[fact.fact_id]}" if fact.fact_id in revealed else "not told"
        yield _line("private", "bold magenta", f"{fact.label}: {fact.spoken} ({when})")
    if task.background:
        yield _line("private", "bold magenta", task.background)


def _event(event: Event) -> RenderableType:
    number = f"{event.sequence:>2} "
    body = event.body
    if isinstance(body, AgentTurn):
        if body.action is AgentAction.CALL:
            return _line("call", "bold cyan", f"{body.tool or '?'} {body.arguments}", number)
        name = "answer" if body.action is AgentAction.ANSWER else "agent"
        return _line(name, "bold blue", body.content or body.text, number)
    if isinstance(body, ToolResult):
        return _line("tool", "cyan" if body.ok else "yellow", body.result, number)
    if isinstance(body, UserReply):
        revealed = f"  [reveals {', '.join(body.revealed)}]" if body.revealed else ""
        return _line("user", "bold green", f"{body.text}{revealed}", number)
    assert isinstance(body, EpisodeEnd)  # noqa: S101 - the four kinds of event are all there are
    return _line("end", "bold", f"{body.outcome.value} {body.detail}".strip(), number)


def _verdict(task: Task, verdict: Verdict, *, plain: bool) -> RenderableType:
    if verdict.reward is None:
        reason = verdict.invalid_reason.value if verdict.invalid_reason else "unknown"
        return shown(f"INVALID ({reason}): {verdict.detail}", "bold yellow")
    title = f"reward {verdict.reward:.3f} ({verdict.reward_preset})"
    table = Table(title=title, box=box.ASCII if plain else box.HEAVY_HEAD, title_justify="left")
    for head in ("section", "criterion", "", "evidence", "votes", "found"):
        table.add_column(head, overflow="fold")
    criteria = {criterion.criterion_id: criterion for criterion in task.criteria}
    for result in verdict.results:
        criterion = criteria.get(result.criterion_id)
        table.add_row(
            criterion.section.value.replace("_", "-") if criterion else "?",
            shown(criterion.description if criterion else result.criterion_id),
            Text("yes", style="green") if result.satisfied else Text("no", style="red"),
            ", ".join(f"#{number}" for number in result.evidence),
            _votes(result),
            shown(result.explanation),
        )
    return table


def _votes(result: CriterionResult) -> str:
    if result.votes is None:
        return "engine"
    votes = result.votes
    abstained = f" {votes.abstain} abstain" if votes.abstain else ""
    return f"{votes.yes} yes {votes.no} no{abstained}"


def as_text(renderable: RenderableType, width: int = 110) -> str:
    """The same without colours, for a file."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()
