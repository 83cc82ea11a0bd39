"""`python -m benchmarks.load`: sessions for minutes, twice the capacity, and OpenEnv beside them.

Exit code 1 where a goal was missed. Figures go to benchmarks/load.json, in the form of
benchmarks/results.json; shorter or smaller loads than the full one go where --output says.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.load import phases, rows
from benchmarks.results import Result, show, write

PATH = Path(__file__).parent.parent / "load.json"
_FEW = 64
_OVERLOAD_SECONDS = 60.0
_COMPARED_SECONDS = 20.0
_FILES = 16_384
_WIDTH = 160
"""Columns of the table in a file, where names would be cut otherwise."""


def _allow_files() -> None:
    """Lets this process and those that it starts open what a thousand sessions may need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _load(
    console: Console, folder: Path, sessions: int, seconds: float, peer_python: Path
) -> list[Result]:
    def folder_of(phase: str) -> Path:
        (folder / phase).mkdir()
        return folder / phase

    overload = min(_OVERLOAD_SECONDS, seconds)
    results: list[Result] = []
    echo = phases.echo_per_core(_FEW)
    for number in sorted({_FEW, sessions}):
        with console.status(f"OpenEnv and we in turn, {number} sessions"):
            compared = min(_COMPARED_SECONDS, seconds)
            peers = [phases.peer_per_core(peer_python, number, compared)]
            ours = phases.embedded(folder_of(f"compared-{number}"), number, compared).per_core
            peers.append(phases.peer_per_core(peer_python, number, compared))
        peer = statistics.fmean(peers)
        results += rows.of_peer(ours, peer, number)
        if number == _FEW:
            results += rows.of_echo(echo, peer, number)
    for system in (phases.embedded, phases.three_replicas):
        name = system.__name__
        with console.status(f"{name}: {sessions} sessions for {seconds:.0f} s"):
            held = system(folder_of(name), sessions, seconds)
        results += rows.of_sessions(name, held, sessions, echo)
    with console.status("twice the sessions that a server may hold"):
        crowded = phases.twice_the_sessions(folder_of("sessions"), sessions, overload)
    results += rows.of_twice_the_sessions(crowded)
    with console.status("twice the calls that a server can do"):
        overloaded = phases.twice_the_calls(folder_of("calls"), overload)
    return results + rows.of_twice_the_calls(overloaded)


def main(
    sessions: Annotated[int, typer.Option(min=1, help="Sessions at once.")] = 1000,
    seconds: Annotated[float, typer.Option(min=5, help="How long each load lasts.")] = 300,
    peer_python: Annotated[
        Path, typer.Option(help="Python with OpenEnv.", exists=True, dir_okay=False)
    ] = Path(".venv-openenv/bin/python"),
    output: Annotated[Path, typer.Option(help="Where figures are written.")] = PATH,
) -> None:
    """Loads the embedded system and three replicas, overloads it, and drives OpenEnv beside."""
    console = Console()
    _allow_files()
    with tempfile.TemporaryDirectory() as folder:
        results = _load(console, Path(folder), sessions, seconds, peer_python)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    show(console, results)
    write(results, output)
    console.print(f"Written to {output}, {time.strftime('%Y-%m-%d')}.")
    missed = [result.name for result in results if result.reached is False]
    if missed:
        console.print(f"Goals missed: {', '.join(missed)}.")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
