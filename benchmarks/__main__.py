"""`make bench`: runs every benchmark, shows the figures and writes benchmarks/results.json.

`python -m benchmarks NAME ...` runs some and writes nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import (
    episodes,
    ledger,
    model_calls,
    model_synthesis,
    servers,
    sessions,
    synthesis,
    tool_calls,
)
from benchmarks.results import PATH, Result, show, write

BENCHMARKS: dict[str, Callable[[Path], list[Result]]] = {
    "tool_calls": tool_calls.measure,
    "ledger": ledger.measure,
    "synthesis": synthesis.measure,
    "model_synthesis": model_synthesis.measure,
    "model_calls": model_calls.measure,
    "episodes": episodes.measure,
    "memory": sessions.measure_memory,
    "reopening": sessions.measure_reopening,
}


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Some of {', '.join(BENCHMARKS)}. None: all.")
    ] = None,
) -> None:
    """Measures against references on this machine."""
    unknown = [name for name in names or () if name not in BENCHMARKS]
    if unknown:
        raise typer.BadParameter(f"no benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    console = Console()
    if not servers.cores_differ():
        console.print("Only one core: server and client share it, and rates are about half.")
    results: list[Result] = []
    for name in names or BENCHMARKS:
        with console.status(name), tempfile.TemporaryDirectory() as folder:
            measured = BENCHMARKS[name](Path(folder))
        show(console, measured)
        results += measured
    write(results)
    console.print(f"Written to {PATH}.")


if __name__ == "__main__":
    typer.run(main)
