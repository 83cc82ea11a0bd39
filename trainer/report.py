"""What a run leaves for people: report.md and curves.png, drawn from metrics.jsonl.

A pure function of the run folder, so it can be drawn again at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.checkpoint import write_atomically
from trainer.config import TrainerConfig
from trainer.metrics import read_rows

Row = dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """One panel: a metric of the reinforcement steps, with its error where there is one."""

    key: str
    label: str
    error: str = ""


CURVES = (
    Curve("mean_reward", "mean reward, with SEM", "reward_sem"),
    Curve("episode_tokens", "tokens of an episode"),
    Curve("entropy", "entropy, nats per token"),
    Curve("clip_fraction", "clipped tokens, share"),
    Curve("kl", "KL(old, new), nats per token"),
    Curve("reference_kl", "KL to the reference, nats per token"),
    Curve("sampling_gap", "engine and trainer differ by, nats"),
    Curve("staleness", "staleness, policy versions"),
    Curve("zero_variance_groups", "groups without variance"),
    Curve("invalid", "INVALID episodes"),
    Curve("gradient_norm", "norm of the gradient"),
    Curve("tokens_per_second", "tokens trained per second"),
)


def write_report(folder: Path, config: TrainerConfig) -> None:
    """Writes report.md and curves.png into a run's folder. Raises OSError."""
    rows = read_rows(folder / "metrics.jsonl")
    steps = [row for row in rows if row["stage"] == "rl"]
    drawn = _draw(steps, folder / "curves.png")
    write_atomically(folder / "report.md", _text(rows, steps, config, drawn=drawn).encode())


def _draw(steps: Sequence[Row], path: Path) -> bool:
    """Draws every curve that has values; returns whether there was one."""
    curves = [curve for curve in CURVES if any(row.get(curve.key) is not None for row in steps)]
    if not curves:
        return False
    columns = 3
    lines = -(-len(curves) // columns)
    figure = Figure(figsize=(4 * columns, 2.8 * lines), layout="constrained")
    panels: list[Axes] = list(figure.subplots(lines, columns, squeeze=False).flat)
    for panel, curve in zip(panels, curves, strict=False):
        known = [row for row in steps if row.get(curve.key) is not None]
        panel.errorbar(
            [row["step"] for row in known],
            [row[curve.key] for row in known],
            yerr=[row.get(curve.error) or 0.0 for row in known] if curve.error else None,
            marker="." if len(known) < 60 else "",
            linewidth=1,
            capsize=2,
        )
        panel.set_title(curve.label, fontsize=9)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in panels[len(curves) :]:
        panel.set_visible(False)
    partial = path.with_name("curves.partial.png")
    figure.savefig(partial, dpi=110)
    partial.replace(path)
    return True


def _text(rows: Sequence[Row], steps: Sequence[Row], config: TrainerConfig, *, drawn: bool) -> str:
    rl = config.rl
    lines = [
        f"# {config.run.name}",
        "",
        (
            f"Model {config.model.name}, algorithm {rl.algorithm}, seed {config.run.seed}, "
            f"ZeRO stage {config.deepspeed.stage}, {config.deepspeed.precision}. The whole "
            "configuration: config.toml."
        ),
        "",
        "## Evaluations",
        "",
        *_table(
            ["policy", "mean reward", "SEM", "episodes", "INVALID"],
            [
                (
                    row["label"],
                    f"{row['mean_reward']:.3f}",
                    f"{row['reward_sem']:.3f}",
                    row["n"],
                    row["invalid"],
                )
                for row in rows
                if row["stage"] == "evaluate"
            ],
        ),
        "## Time",
        "",
        *_table(["stage", "steps", "seconds", "share"], _times(rows)),
    ]
    if drawn:
        invalid, flat = (
            sum(row[key] for row in steps) for key in ("invalid", "zero_variance_groups")
        )
        lines += [
            "## Reinforcement learning",
            "",
            (
                f"{len(steps)} steps; {sum(row['n'] for row in steps)} episodes with a reward, "
                f"{invalid} INVALID, {flat} groups without variance."
            ),
            "",
            "![Curves](curves.png)",
            "",
        ]
    return "\n".join(lines)


def _times(rows: Sequence[Row]) -> list[tuple[object, ...]]:
    """Time of each stage; what a step of reinforcement waits for episodes is told apart."""
    spent: dict[str, list[float]] = {}
    for row in rows:
        spent.setdefault(row["stage"], []).append(row["seconds"])
        if row["stage"] == "rl":
            spent.setdefault("waiting for episodes", []).append(row["wait_seconds"])
            rest = row["step_seconds"] - row["wait_seconds"] - row["seconds"]
            spent.setdefault("publishing", []).append(rest)
    total = sum(sum(seconds) for seconds in spent.values()) or 1.0
    return [
        (stage, len(seconds), f"{sum(seconds):.1f}", f"{sum(seconds) / total:.0%}")
        for stage, seconds in spent.items()
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [*("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines), ""]
