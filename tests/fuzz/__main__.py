"""Fuzzes every target for a while: `make fuzz`, or with ARGS="--seconds 600 --target world_sql".

Each target runs in a process of its own that cannot reach anything (`confined`). Inputs are guided
by coverage where atheris can be imported, and drawn at random otherwise; the seed makes either
begin alike. An input that is a finding is kept in runs/fuzz/ and tried again by --replay FILE.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from tests.fuzz.confined import (
    FORBIDDEN,
    FOUND,
    GREW,
    MOST_GROWTH_BYTES,
    SECONDS_PER_INPUT,
    Box,
    Job,
)
from tests.fuzz.targets import TARGETS

_FOLDER = Path("runs/fuzz")
_PATIENCE_SECONDS = 120
_ENDS = {
    FOUND: "it raised",
    FORBIDDEN: "it reached outside",
    GREW: f"the process grew by more than {MOST_GROWTH_BYTES >> 20} MiB",
    -14: f"it took more than {SECONDS_PER_INPUT} s",
}


@dataclass(frozen=True)
class Result:
    """How a job ended: `why` is empty where nothing was found; target and input ran last."""

    why: str
    output: str
    target: str
    data: bytes
    runs: int = 0
    growth_bytes: int = 0


def run(job: Job, data: bytes = b"") -> Result:
    """Runs a job in a process of its own; `data` is what a replay runs."""
    with tempfile.TemporaryDirectory() as folder:
        box = Path(folder) / "box"
        Box.fill(box, job.targets[0], data)
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.confined", json.dumps(asdict(job)), str(box)],
            capture_output=True,
            timeout=job.seconds + SECONDS_PER_INPUT + _PATIENCE_SECONDS,
            check=False,
        )
        target, last = Box.read(box)
    output = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode == 0:
        found = json.loads(done.stdout.splitlines()[-1])
        return Result("", output, target, last, found["runs"], found["growth_bytes"])
    why = _ENDS.get(done.returncode, f"the process ended with {done.returncode}")
    return Result(why, output, target, last)


def main(
    target: Annotated[list[str] | None, typer.Option(help="Only these targets.")] = None,
    seconds: Annotated[float, typer.Option(help="Time of each target.")] = 30.0,
    seed: Annotated[str, typer.Option(help="Where the inputs begin.")] = "1",
    replay: Annotated[Path | None, typer.Option(help="An input of runs/fuzz to try again.")] = None,
) -> None:
    """Fuzzes; exits with 1 where something was found."""
    if replay is not None:
        name = replay.name.partition("-")[0]
        result = run(Job([name], seed=seed, engine="replay"), replay.read_bytes())
        _tell(name, result, "replay")
        raise typer.Exit(bool(result.why))
    guided = importlib.util.find_spec("atheris") is not None
    found = False
    for name in target or TARGETS:
        job = Job([name], seed=seed, seconds=seconds, engine="atheris" if guided else "random")
        result = run(job)
        _tell(name, result, job.engine)
        found = found or bool(result.why)
    raise typer.Exit(found)


def _tell(name: str, result: Result, engine: str) -> None:
    if not result.why:
        growth = result.growth_bytes / 2**20
        typer.echo(f"{name}: {result.runs} inputs ({engine}), nothing found, +{growth:.1f} MiB")
        return
    _FOLDER.mkdir(parents=True, exist_ok=True)
    kept = _FOLDER / f"{name}-{hashlib.sha256(result.data).hexdigest()[:16]}"
    kept.write_bytes(result.data)
    typer.echo(f"{name}: {result.why}\n{result.output[-3000:]}\n  make fuzz ARGS='--replay {kept}'")


if __name__ == "__main__":
    typer.run(main)
