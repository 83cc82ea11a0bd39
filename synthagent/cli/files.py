"""Files that a command reads and writes; "-" is standard input or output."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, TextIO

import typer

InputFile = Annotated[
    Path,
    typer.Argument(
        exists=True,
        dir_okay=False,
        readable=True,
        allow_dash=True,
        help='The file; "-" reads stdin.',
    ),
]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, int | None]]:
    """A file to read, and its size in bytes; None where it is not known."""
    if str(path) == "-":
        yield sys.stdin.buffer, None
        return
    with path.open("rb") as stream:
        yield stream, path.stat().st_size


@contextlib.contextmanager
def replaced(path: Path | None) -> Iterator[TextIO]:
    """A file to write that takes its place when it is complete; None is standard output."""
    if path is None or str(path) == "-":
        yield sys.stdout
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
