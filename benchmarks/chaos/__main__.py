"""`python -m benchmarks.chaos`: proof by failure, into runs/chaos/report.json.

Episodes of reference agents on PostgreSQL and three replicas of each service, first undisturbed,
then while faults of a seeded schedule strike; the database then has to hold the same. Logs of every
replica stay in the folder. Exit codes: 0 everything holds, 1 something does not, 2 wrong arguments.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.chaos import report
from benchmarks.chaos.driving import AGENTS, Plan
from benchmarks.chaos.schedule import WEIGHTS, schedule
from benchmarks.chaos.trial import try_out
from benchmarks.results import write_json

_EPISODES_PER_WAVE = len(AGENTS) * Plan().episodes_per_run
_LEAST_FAULTS = sum(WEIGHTS.values())
_OWN = ("report.json", "schedule.json", "cluster", "temporary")


def main(  # noqa: PLR0917 - typer makes options of them
    episodes: Annotated[
        int, typer.Option(min=1, help=f"Episodes, in multiples of {_EPISODES_PER_WAVE}.")
    ] = 2000,
    faults: Annotated[int, typer.Option(min=1, help="Faults that strike.")] = 120,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the schedule.")] = 1,
    minutes: Annotated[float, typer.Option(min=0.1, help="How long faults strike.")] = 5.0,
    replicas: Annotated[int, typer.Option(min=2, help="Replicas of each service.")] = 3,
    folder: Annotated[Path, typer.Option(help="Where report and logs go.")] = Path("runs/chaos"),
    copy: Annotated[Path | None, typer.Option(help="A second file for the report.")] = None,
) -> None:
    """Strikes the system with faults of every kind and checks that nothing comes out otherwise."""
    console = Console()
    if faults < _LEAST_FAULTS:
        console.print(f"Fewer than {_LEAST_FAULTS} faults: not every kind will strike.")
    _clear(folder)
    plan = Plan(waves=-(-episodes // _EPISODES_PER_WAVE))
    strikes = schedule(seed, faults, minutes * 60)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bars = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done)

        outcome = try_out(folder, plan, strikes, seconds=minutes * 60, tell=tell, replicas=replicas)
    content = report.report(outcome, seed)
    write_json({**content, "schedule": report.schedule_rows(outcome)}, folder / "report.json")
    if copy is not None:
        write_json(content, copy)
    report.show(console, content)
    console.print(f"Written to {folder / 'report.json'}.")
    if not outcome.holds:
        raise typer.Exit(1)


def _clear(folder: Path) -> None:
    """Removes an earlier trial. Raises typer.BadParameter where the folder is another's."""
    if not folder.exists():
        return
    if strangers := {path.name for path in folder.iterdir()} - set(_OWN):
        raise typer.BadParameter(f"{folder} holds {sorted(strangers)}; choose another --folder")
    shutil.rmtree(folder)


if __name__ == "__main__":
    typer.run(main)
