"""What a command writes: results to standard output, progress and remarks to standard error.

With --json, standard output is one JSON document and nothing else. Where an output is no terminal
it is plain text: no colours, ASCII tables, wide lines.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import orjson
import typer
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from synthagent.conversation import shown

PLAIN_WIDTH = 160

AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON document to standard output.")]


def screen(*, stderr: bool = False) -> Console:
    """A console on standard output or standard error as they are now."""
    stream = sys.stderr if stderr else sys.stdout
    wide = None if stream.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
    return Console(file=stream, width=wide, highlight=False, soft_wrap=False)


def is_plain() -> bool:
    """Whether standard output is no terminal."""
    return not sys.stdout.isatty()


def remark(text: str) -> None:
    """One line for a person, on standard error. Its text is data."""
    screen(stderr=True).print(shown(text), soft_wrap=True)


def say(text: str) -> None:
    """One line of the result, on standard output. Its text is data."""
    screen().print(shown(text), soft_wrap=True)


def write_json(document: object) -> None:
    """The one JSON document of a command."""
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
    sys.stdout.flush()


def write_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; numbers stand to the right, texts are data."""
    table = Table(
        title=shown(title), title_justify="left", box=box.ASCII if is_plain() else box.SIMPLE_HEAD
    )
    for position, head in enumerate(heads):
        numbers = bool(rows) and all(isinstance(row[position], int | float) for row in rows)
        table.add_column(head, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(shown(_cell(value)) for value in row))
    screen().print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else str(value)


def counting() -> Progress:
    """A progress bar that counts things, on standard error."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=screen(stderr=True),
    )


def reading() -> Progress:
    """A progress bar over the bytes of a file, on standard error."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        console=screen(stderr=True),
    )
