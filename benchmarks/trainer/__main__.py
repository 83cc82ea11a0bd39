"""`make bench-trainer`: one training step beside TRL's, into benchmarks/trainer.json.

Each measurement is a process of its own: a small step first, to warm up, then the measured one.
The two trainers take turns, with the same threads, on the same trajectories, in the same precision,
and compute the same loss: that is verified first, in float32, over two optimizer steps, and again
on what is measured. Memory is the most that was resident in the process. TRL runs as it is fastest,
without gradient checkpointing, on single episodes, which costs it least memory; and once more with
gradient checkpointing, its leanest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated, TypedDict

import orjson
import torch
import typer
from rich.console import Console

from benchmarks.results import Result, show, write
from benchmarks.trainer.job import Group, Job, TrlOptions, group_of
from benchmarks.trainer.limit import matrix_rate, operations
from benchmarks.trainer.synthagent_step import TOKENS_PER_ROW, packed, settings
from benchmarks.trainer.trajectories import collect
from synthagent.models import resolve_model

PATH = Path(__file__).parent.parent / "trainer.json"
ROOT = Path(__file__).parents[2]
TASKS = 2
WARM_UP_TOKENS = 32  # of a prompt and of an episode
EXACT = 1e-4  # relative, in float32
ROUNDED = 2e-2  # relative, where each trainer rounds to bfloat16 in its own places


class Step(TypedDict):
    """A step as a process reports it; see `job`."""

    seconds: float
    loss: float
    gradient_norm: float
    peak_bytes: int


class Outcome(TypedDict):
    """What a process reports; `plain_seconds` only ours, where asked for."""

    baseline_bytes: int
    steps: list[Step]
    plain_seconds: float | None


class Bench:
    """Runs jobs in processes and keeps what they report."""

    def __init__(self, trl_python: Path, folder: Path, console: Console) -> None:
        """`trl_python` is the interpreter of the environment that has TRL."""
        self._trl = trl_python
        self._folder = folder
        self._console = console

    def ours(self, job: Job, label: str) -> Outcome:
        """This project's trainer."""
        return self._run([sys.executable, "-m", "benchmarks.trainer.synthagent_step"], job, label)

    def theirs(self, job: Job, label: str) -> Outcome:
        """TRL's."""
        script = Path(__file__).parent / "trl_step.py"
        return self._run([str(self._trl), str(script)], job, label)

    def _run(self, command: Sequence[str], job: Job, label: str) -> Outcome:
        path = self._folder / "job.json"
        job.write(path)
        threads = str(job.threads)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "CUDA_VISIBLE_DEVICES": "",
            "DS_ACCELERATOR": "cpu",
            "HF_HUB_OFFLINE": "1",
        }
        with self._console.status(label):
            done = subprocess.run(  # noqa: S603 - our own scripts
                [*command, str(path)],
                check=False,
                capture_output=True,
                text=True,
                cwd=ROOT,
                env=environment,
            )
        if done.returncode:
            raise SystemExit(f"{label} failed:\n{done.stderr[-4000:]}")
        outcome: Outcome = orjson.loads(done.stdout.strip().splitlines()[-1])
        last = outcome["steps"][-1]
        self._console.print(
            f"{label}: {last['seconds']:.1f} s, loss {last['loss']:.6f}, gradient norm "
            f"{last['gradient_norm']:.5f}, peak {last['peak_bytes'] / 1e6:,.0f} MB"
        )
        return outcome


def require_same(ours: Outcome, theirs: Outcome, tolerance: float) -> None:
    """Ends the benchmark where losses or gradient norms differ: it would compare two things."""
    for number, (own, other) in enumerate(zip(ours["steps"], theirs["steps"], strict=True)):
        pairs = (
            ("loss", own["loss"], other["loss"]),
            ("gradient norm", own["gradient_norm"], other["gradient_norm"]),
        )
        for name, value, reference in pairs:
            if abs(value - reference) > tolerance * max(abs(reference), 1e-3):
                raise SystemExit(
                    f"step {number + 1}: the {name} is {value}, and TRL's is {reference}: the two "
                    "do not compute the same"
                )


def measure(bench: Bench, batch: list[Group], threads: int, repeats: int) -> list[Result]:
    """All figures."""
    small = [group.shortened(WARM_UP_TOKENS) for group in batch]
    check = Job(
        str(resolve_model()),
        threads,
        [small],
        precision="float32",
        iterations=2,
        learning_rate=1e-4,
    )
    exact = bench.ours(check, "loss check, ours"), bench.theirs(check, "loss check, TRL")
    require_same(*exact, EXACT)
    # Adam's first update moves each weight by the learning rate, however small its gradient: what
    # rounding does to a sign would grow. So these weights stay; the work of the update does not.
    job = replace(
        check, batches=[small, batch], precision="bfloat16", iterations=1, learning_rate=0.0
    )
    ours, theirs = [], []
    for number in range(repeats):
        turns = (True, False) if number % 2 == 0 else (False, True)
        for own in turns:
            if own:
                last = replace(job, plain=number == repeats - 1)
                ours.append(bench.ours(last, f"ours, {number + 1} of {repeats}"))
            else:
                theirs.append(bench.theirs(job, f"TRL, {number + 1} of {repeats}"))
        require_same(ours[-1], theirs[-1], ROUNDED)
    checkpointing = replace(job, trl=TrlOptions(gradient_checkpointing=True))
    lean = bench.theirs(checkpointing, "TRL with gradient checkpointing")
    return _results(job, batch, ours, theirs, lean)


def _results(
    job: Job, batch: list[Group], ours: list[Outcome], theirs: list[Outcome], lean: Outcome
) -> list[Result]:
    model = Path(job.model)
    rows = packed(batch, settings(job), TOKENS_PER_ROW)
    tokens = sum(group.tokens for group in batch)
    computed = sum(row.tokens for row in rows)
    padded = _padded(batch)
    seconds, reference = median(_seconds(ours)), median(_seconds(theirs))
    peak, over = _memory(ours)
    trl_peak, trl_over = _memory(theirs)
    lean_peak, _ = _memory([lean])
    torch.set_num_threads(job.threads)
    rate = matrix_rate(model, TOKENS_PER_ROW, torch.bfloat16)
    plain = ours[-1]["plain_seconds"]
    if plain is None:
        raise ValueError("the last repeat did not time forward and backward alone")
    outside = max(0.0, 1 - plain / ours[-1]["steps"][-1]["seconds"])
    trl = "TRL 1.16.0 GRPOTrainer"
    return [
        Result(
            "trainer_tokens",
            tokens / seconds,
            "episode tokens/s",
            f"{trl}, fastest setting; goal: 1.3 times",
            tokens / reference,
            1.3,
        ),
        Result(
            "trainer_computed_tokens",
            computed / seconds,
            "tokens through the model/s",
            f"{trl}, padding included",
            padded / reference,
        ),
        Result(
            "trainer_memory_peak",
            peak / 1e6,
            "MB",
            f"{trl}, same runs; goal: 0.8 times",
            trl_peak / 1e6,
            0.8,
            at_least=False,
        ),
        Result(
            "trainer_memory_over_imports",
            over / 1e6,
            "MB",
            f"{trl}, same runs",
            trl_over / 1e6,
        ),
        Result(
            "trainer_memory_peak_lean",
            peak / 1e6,
            "MB",
            f"{trl} with gradient checkpointing",
            lean_peak / 1e6,
        ),
        Result(
            "trainer_tokens_lean",
            tokens / seconds,
            "episode tokens/s",
            f"{trl} with gradient checkpointing",
            tokens / lean["steps"][-1]["seconds"],
        ),
        Result(
            "trainer_outside_forward_backward",
            outside,
            "share of a step",
            "goal: at most 0.10",
            0.10,
            1.0,
            at_least=False,
        ),
        Result(
            "trainer_operations",
            operations(rows, model) / seconds / 1e9,
            "useful GFLOP/s",
            f"bfloat16 matrix products of this model on {job.threads} threads",
            rate / 1e9,
        ),
    ]


def _padded(batch: list[Group]) -> int:
    """Tokens that TRL computes: every prompt and completion as long as the longest."""
    prompt = max(len(group.prompt_ids) for group in batch)
    episodes = [episode for group in batch for episode in group.episodes]
    return len(episodes) * (prompt + max(len(episode.token_ids) for episode in episodes))


def _seconds(outcomes: Sequence[Outcome]) -> list[float]:
    return [outcome["steps"][-1]["seconds"] for outcome in outcomes]


def _memory(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Peak in bytes, and the same above what the imports had taken; medians."""
    peaks = [outcome["steps"][-1]["peak_bytes"] for outcome in outcomes]
    over = [peak - each["baseline_bytes"] for peak, each in zip(peaks, outcomes, strict=True)]
    return median(peaks), median(over)


def main(
    trl_python: Annotated[Path, typer.Option(help="Python of the environment that has TRL.")] = (
        ROOT / ".venv-trl/bin/python"
    ),
    threads: Annotated[int, typer.Option(help="CPU threads of both trainers.", min=1)] = len(
        os.sched_getaffinity(0)
    ),
    repeats: Annotated[int, typer.Option(help="Measurements of each trainer.", min=1)] = 2,
    most_tokens: Annotated[
        int | None,
        typer.Option(help="Cut prompts and episodes to this; to try the verb, not to measure."),
    ] = None,
) -> None:
    """Measures a training step beside TRL's on this machine."""
    console = Console()
    if not trl_python.exists():
        raise SystemExit(f"{trl_python} is missing: run `make bench-trainer`, which makes it")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        with console.status("trajectories"):
            batch = [group_of(group) for group in collect(Path(folder), TASKS)]
        if most_tokens is not None:
            batch = [group.shortened(most_tokens) for group in batch]
        lengths = sorted(
            len(group.prompt_ids) + len(episode.token_ids)
            for group in batch
            for episode in group.episodes
        )
        console.print(f"Episodes of {lengths} tokens; {threads} threads; load {load:.1f} before.")
        results = measure(Bench(trl_python, Path(folder), console), batch, threads, repeats)
    show(console, results)
    if most_tokens is None:
        write(results, PATH)
        console.print(f"Written to {PATH}.")


if __name__ == "__main__":
    typer.run(main)
