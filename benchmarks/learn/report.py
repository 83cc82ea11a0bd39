"""What a measurement leaves behind: a JSON per seed, summary.json, learn.md and learn.png.

Every figure comes from stored verdicts and from the trainer's log; the files are small enough to be
committed.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import orjson
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.learn.lift import LEAST_ERRORS, LEAST_LIFT, Lift, Mean, lift_of, lift_over_seeds
from benchmarks.learn.plan import CONFIG, Variant
from benchmarks.learn.stages import PARTS, Measurement

_COLOURS = ("#4c78a8", "#2a9d8f", "#e07a5f", "#8a6bb1", "#b08d57")


EVALUATIONS = {
    "sampled": "sampled at temperature 1, as the policy is trained",
    "greedy": "greedy: always the likeliest token",
}
"""How the policy acts on the held-out tasks. Both are reported, whatever they show."""


@dataclass(frozen=True)
class Found:
    """The warm start's result and those of all seeds that are done."""

    variant: Variant
    start: dict[str, Any]
    seeds: list[dict[str, Any]]

    def lifts(self, evaluation: str) -> dict[str, Lift]:
        """By seed, then over all seeds where there are several."""
        before = self.start["evaluations"][evaluation]["rewards"]
        trainings = [(before, seed["evaluations"][evaluation]["rewards"]) for seed in self.seeds]
        lifts = {
            f"seed {seed['seed']}": lift_of(*each)
            for seed, each in zip(self.seeds, trainings, strict=True)
        }
        if len(trainings) > 1:
            lifts["all seeds"] = lift_over_seeds(trainings)
        return lifts


def gather(measurement: Measurement, start: dict[str, Any]) -> Found:
    """Reads the results of all seeds of the measurement's variant that are done."""
    paths = (measurement.folder / measurement.variant.name).glob("seed-*/result.json")
    seeds = [orjson.loads(path.read_bytes()) for path in paths]
    return Found(measurement.variant, start, sorted(seeds, key=lambda each: int(each["seed"])))


def write(found: Found, folder: Path) -> None:
    """Writes all files, each in one step; makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "start.json", _json(found.start))
    for seed in found.seeds:
        _replace(folder / f"seed-{seed['seed']}.json", _json(seed))
    _replace(folder / "summary.json", _json(_summary(found)))
    _replace(folder / "learn.md", markdown(found).encode())
    if found.seeds:
        _plot(found, folder / "learn.png")


def _summary(found: Found) -> dict[str, Any]:
    return {
        "variant": found.variant.name,
        "goal": {"lift": LEAST_LIFT, "standard_errors": LEAST_ERRORS},
        "machine": machine(),
        "seconds": {
            "start": found.start["seconds"],
            **{f"seed {seed['seed']}": seed["seconds"] for seed in found.seeds},
        },
        "lifts": {
            evaluation: {name: _lift(lift) for name, lift in found.lifts(evaluation).items()}
            for evaluation in EVALUATIONS
        },
    }


def _lift(lift: Lift) -> dict[str, Any]:
    return {
        "before": _mean(lift.before),
        "after": _mean(lift.after),
        "lift": round(lift.lift, 4),
        "sem": {name: round(error, 4) for name, error in lift.errors.items()},
        "reached": lift.reached,
    }


def _mean(mean: Mean) -> dict[str, float | int]:
    return {"mean": round(mean.mean, 4), "sem": round(mean.sem, 4), "n": mean.n}


def machine() -> dict[str, str | int]:
    """What the figures were measured on, as far as the system tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "")
    return {
        "processor": model or platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 0,
        "system": platform.system(),
        "python": platform.python_version(),
    }


def markdown(found: Found) -> str:
    """The report as a person reads it."""
    minutes = ", ".join(f"seed {seed['seed']} {seed['seconds'] / 60:.1f}" for seed in found.seeds)
    described = ", ".join(f"{key} {value}" for key, value in machine().items())
    lines = [
        f"# What reinforcement learning adds: {found.variant.name}, {found.variant.what}",
        "",
        "Mean reward ± SEM on held-out tasks of unseen domains, before and after. The goal: a lift",
        f"of at least {LEAST_LIFT:.2f}, and of more than {LEAST_ERRORS:g} times the largest SEM.",
        "",
        f"Minutes: the shared warm start {found.start['seconds'] / 60:.1f}, {minutes}.",
        f"Configuration: `trainer/configs/{CONFIG.name}`. Machine: {described}.",
        "",
    ]
    for evaluation, how in EVALUATIONS.items():
        lines += [f"## {evaluation.capitalize()}", "", f"The policy is {how}.", ""]
        lines += _lift_table(found.lifts(evaluation))
        lines += _parts_table(found, evaluation)
    return "\n".join(lines)


def _lift_table(lifts: dict[str, Lift]) -> list[str]:
    errors = ("paired", "unpaired", "seeds")
    rows = [
        (
            name,
            f"{lift.before.mean:.3f} ± {lift.before.sem:.3f}",
            f"{lift.after.mean:.3f} ± {lift.after.sem:.3f}",
            f"{lift.lift:+.3f}",
            *(f"{lift.errors[error]:.3f}" if error in lift.errors else "" for error in errors),
            f"{lift.ratio:.1f}",
            "yes" if lift.reached else "no",
        )
        for name, lift in lifts.items()
    ]
    heads = ("", "before", "after", "lift", *(f"SEM {error}" for error in errors))
    return _table((*heads, "lift / largest SEM", "goal reached"), rows)


def _parts_table(found: Found, evaluation: str) -> list[str]:
    """What the reward is made of, averaged over all episodes."""
    rows = []
    for name, result in [("before", found.start), *_named(found.seeds)]:
        seen = result["evaluations"][evaluation]
        reward = f"{fmean(seen['rewards'].values()):.3f}"
        shares = (f"{value:.3f}" for value in seen["parts"].values())
        rows.append((name, reward, *shares, str(seen["episodes"]), str(seen["invalid"])))
    return _table(("", "reward", *PARTS, "episodes", "INVALID"), rows)


def _named(seeds: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"seed {seed['seed']}", seed) for seed in seeds]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(heads) + " |",
        "|" + " --- |" * len(heads),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def _plot(found: Found, path: Path) -> None:
    figure = Figure(figsize=(12, 4), layout="constrained")
    *lefts, right = figure.subplots(1, 1 + len(EVALUATIONS))
    for axes, evaluation in zip(lefts, EVALUATIONS, strict=True):
        _plot_lifts(axes, found.lifts(evaluation))
        axes.set_title(f"Unseen domains, {evaluation}; grey: before")
    for number, seed in enumerate(found.seeds):
        steps = seed["steps"]
        right.errorbar(
            [step["step"] for step in steps],
            [step["mean_reward"] for step in steps],
            yerr=[step["reward_sem"] for step in steps],
            marker="o",
            capsize=3,
            color=_COLOURS[number % len(_COLOURS)],
            label=f"seed {seed['seed']}",
        )
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_ylim(0, 1)
    right.set_xlabel("step (each on other tasks)")
    right.set_title("Training domains, sampled")
    right.legend()
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=100)
    temporary.replace(path)


def _plot_lifts(axes: Axes, lifts: dict[str, Lift]) -> None:
    for number, lift in enumerate(lifts.values()):
        colour = _COLOURS[number % len(_COLOURS)]
        for place, mean, shade in ((-0.2, lift.before, "#9aa5b1"), (0.2, lift.after, colour)):
            axes.bar(number + place, mean.mean, 0.38, yerr=mean.sem, capsize=4, color=shade)
    axes.set_xticks(range(len(lifts)), list(lifts))
    axes.set_ylim(0, 1)
    axes.set_ylabel("mean reward, with SEM")


def _json(content: object) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n"


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
