"""`make learn`: the lift that reinforcement learning alone gives on tasks of unseen domains.

    python -m benchmarks.learn                      # three seeds and the report
    python -m benchmarks.learn --seed 2             # one seed; the report covers what there is
    python -m benchmarks.learn --quick --folder runs/learn-quick     # a self-check, two minutes

One warm start, evaluated on the held-out tasks, greedily and sampled; from it one training for each
seed, with a fixed number of steps, and the same evaluations once, at the end. Called again, it goes
on where it was cut.

Exit codes: 0 done, 1 a process failed, 2 wrong arguments, 130 interrupted, 143 ended.
"""

from __future__ import annotations

import fcntl
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import orjson
import typer
from rich.console import Console

from benchmarks.learn import report
from benchmarks.learn.leftovers import end_leftovers
from benchmarks.learn.plan import SIZES, VARIANTS
from benchmarks.learn.stages import Measurement
from synthagent.demo.processes import ProcessFailed
from synthagent.errors import SynthAgentError

console = Console()


def measure(measurement: Measurement, seeds: list[int], out: Path) -> None:
    """Runs what is missing and writes the report of all seeds that are done."""
    console.print(f"warm start: {measurement.folder / measurement.variant.start}")
    start = measurement.warm_start()
    for seed in seeds:
        console.print(f"seed {seed}")
        measurement.train(seed)
    found = report.gather(measurement, start)
    report.write(found, out)
    console.print(report.markdown(found), markup=False, soft_wrap=True)
    console.print(f"Read {out / 'learn.md'} and see {out / 'learn.png'}.")


def open_folder(folder: Path, identity: dict[str, str], *, resume: bool) -> None:
    """Makes the folder, or checks that it holds this measurement. Raises typer.BadParameter."""
    plan = folder / "plan.json"
    if plan.exists():
        held = orjson.loads(plan.read_bytes())
        if held != identity:
            raise typer.BadParameter(f"{folder} holds {held}, not {identity}; choose another one")
    elif resume:
        raise typer.BadParameter(f"--resume: {folder} holds no measurement")
    elif folder.exists() and any(folder.iterdir()):
        raise typer.BadParameter(f"{folder} holds something else; choose another --folder")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        plan.write_bytes(orjson.dumps(identity))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which a killed call gives up. Raises typer.BadParameter."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise typer.BadParameter(f"another call is at work in {folder}") from error
        end_leftovers(folder)
        yield


def _end(_number: int, _frame: FrameType | None) -> None:
    sys.exit(143)  # by way of the blocks that end the processes


def main(
    *,
    seed: Annotated[
        list[int] | None, typer.Option(help="May be repeated. Default: 1 2 3; --quick: 1.")
    ] = None,
    variant: Annotated[str, typer.Option(help=f"One of {', '.join(VARIANTS)}.")] = "full",
    quick: Annotated[
        bool, typer.Option("--quick", help="A few episodes of everything; figures mean nothing.")
    ] = False,
    folder: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path("runs/learn"),
    out: Annotated[
        Path | None, typer.Option(help="Where the report goes. Default: report/VARIANT below.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of each process. Default: all cores.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Fail where there is nothing to go on with.")
    ] = False,
) -> None:
    """Measures what reinforcement learning adds, or goes on measuring it."""
    if variant not in VARIANTS:
        raise typer.BadParameter(f"no variant {variant!r}; there are {', '.join(VARIANTS)}")
    folder = folder.resolve()
    size = "quick" if quick else "full"
    open_folder(folder, {"size": size}, resume=resume)
    signal.signal(signal.SIGTERM, _end)
    measurement = Measurement(folder, SIZES[size], VARIANTS[variant], threads)
    try:
        with alone(folder):
            measure(
                measurement, seed or list(SIZES[size].seeds), out or folder / "report" / variant
            )
    except (ProcessFailed, SynthAgentError) as error:
        typer.echo(f"learn: {error}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
