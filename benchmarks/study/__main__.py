"""`python -m benchmarks.study`: synthesis, SFT, GRPO, export and BFCL scores, in slices.

    python -m benchmarks.study run --size cpu                      # to its end
    python -m benchmarks.study run --size gpu --slice-minutes 10   # repeat until it exits with 0
    python -m benchmarks.study bundle --out parts                  # for a machine without network
    python benchmarks/study/install.py parts                       # there
    python -m benchmarks.study pack runs/study-gpu --out parts     # to go on, on another machine
    python -m benchmarks.study unpack parts runs/study-gpu         # there

A call goes on where the last one stopped; `state.json` of the folder says which stages are done.
Exit codes of `run`: 0 all is done, 75 the slice is over and there is more, 1 a stage failed.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from benchmarks.study import results, stages
from benchmarks.study.bundle import bundle
from benchmarks.study.parcel import pack, unpack
from benchmarks.study.plan import PATH, SIZES, Stage
from benchmarks.study.plan import stages as planned
from benchmarks.study.slices import Slice, SliceOver, StageFailed
from benchmarks.study.stages import Study
from synthagent.embedded import ProcessFailed
from synthagent.errors import SynthAgentError

MORE_TO_DO = 75
"""Exit code (EX_TEMPFAIL): the slice is over; repeat the command."""

app = typer.Typer(add_completion=False, no_args_is_help=True)
console = Console()

DO: dict[str, stages.Named] = {
    "tasks": lambda study, _, piece: stages.make_tasks(study, piece),
    "train": stages.train,
    "bfcl": stages.score_bfcl,
}


class State:
    """Which stages are done, with the seconds of the calls that they took; a file."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        """Raises typer.BadParameter where the folder holds another study."""
        self._path = folder / "state.json"
        self._content: dict[str, Any] = {"study": identity, "seconds": {}, "done": []}
        if self._path.exists():
            self._content = orjson.loads(self._path.read_bytes())
            if self._content["study"] != identity:
                raise typer.BadParameter(
                    f"{folder} holds another study, {self._content['study']}; choose another folder"
                )

    @property
    def done(self) -> dict[str, float]:
        """Seconds by stage that is done."""
        return {name: self._content["seconds"][name] for name in self._content["done"]}

    def add(self, stage: str, seconds: float, *, done: bool) -> None:
        """Notes time spent on a stage, and whether it is done."""
        spent = self._content["seconds"]
        spent[stage] = round(spent.get(stage, 0.0) + seconds, 1)
        if done:
            self._content["done"].append(stage)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_bytes(orjson.dumps(self._content, option=orjson.OPT_INDENT_2))
        temporary.replace(self._path)


@app.command()
def run(
    *,
    size: Annotated[str, typer.Option(help=f"One of {', '.join(SIZES)}.")] = "cpu",
    folder: Annotated[Path | None, typer.Option(help="Default: runs/study-SIZE.")] = None,
    slice_minutes: Annotated[float, typer.Option(min=0, help="End in time; 0: no end.")] = 0.0,
    ablations: Annotated[
        bool, typer.Option(help="Also train the ablations, after the path to a score.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of tasks, training and items.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="Of each process; 0: all cores.")] = 0,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="A key of the trainer; may be repeated.")
    ] = None,
) -> None:
    """Runs a study, or goes on with it."""
    if size not in SIZES:
        raise typer.BadParameter(f"no size {size!r}; there are {', '.join(SIZES)}")
    place = (folder or Path(f"runs/study-{size}")).absolute()
    place.mkdir(parents=True, exist_ok=True)
    study = Study(SIZES[size], place, seed, threads, tuple(override or ()))
    state = State(place, {"size": size, "seed": seed, "set": list(override or ())})
    piece = Slice(slice_minutes)
    wanted = [each for each in planned(study.size) if ablations or each.name in PATH]
    try:
        for stage in wanted:
            if stage.name not in state.done:
                _do(study, stage, piece, state)
    except SliceOver as error:
        left = [each.name for each in wanted if each.name not in state.done]
        console.print(f"The slice is over; still to do: {', '.join(left)}. Repeat the command.")
        raise typer.Exit(MORE_TO_DO) from error
    except (StageFailed, ProcessFailed, SynthAgentError) as error:
        console.print(f"study: {error}", markup=False, style="red")
        raise typer.Exit(1) from error
    found = results.gather(study, state.done)
    results.write(study, found)
    console.print(results.markdown(found), markup=False, soft_wrap=True)
    console.print(f"Done. Read {place / 'study.md'} and see {place / 'study.png'}.")


def _do(study: Study, stage: Stage, piece: Slice, state: State) -> None:
    console.print(f"{stage.name} ...")
    started = time.monotonic()
    done = False
    try:
        DO[stage.kind](study, stage.subject, piece)
        done = True
    finally:
        state.add(stage.name, time.monotonic() - started, done=done)
    console.print(f"{stage.name}: done in {state.done[stage.name]:.0f} s")


for command in (bundle, pack, unpack):
    app.command()(command)


if __name__ == "__main__":
    # Shells start jobs in the background with SIGINT ignored, and children inherit that; the
    # trainer stops in good order at it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    app()
