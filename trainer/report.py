"""What a run leaves for people: report.md and curves.png, drawn from metrics.jsonl.

A pure function of the run folder, so it can be drawn again at any time, also of a run that died:
`python -m trainer.report RUN_FOLDER`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from synthagent.errors import NotFound
from trainer import config as configuration
from trainer.checkpoint import write_atomically
from trainer.config import TrainerConfig
from trainer.failures import told
from trainer.metrics import read_rows

Row = dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """One panel: a metric of a stage's rows, with its error where there is one."""

    key: str
    label: str
    error: str = ""
    stage: str = "rl"

    def values(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that have a value."""
        return [row for row in rows if row["stage"] == self.stage and row.get(self.key) is not None]


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
    Curve("imbalance", "fullest rank's tokens over the mean"),
    Curve("tokens_per_second", "tokens trained per second"),
    Curve("wait_seconds", "waiting for episodes, seconds"),
    Curve("update_seconds", "updates, seconds"),
    Curve("loss", "loss of the warm start", stage="sft"),
    Curve("loss", "loss of preferences", stage="dpo"),
)


def write_report(folder: Path) -> None:
    """Writes report.md and curves.png into a run's folder. Raises OSError, Corrupt, NotFound."""
    config_file, metrics = folder / "config.toml", folder / "metrics.jsonl"
    if not config_file.is_file():
        raise NotFound(f"{folder} is no run folder: it holds no config.toml")
    config = configuration.load(config_file)
    rows = read_rows(metrics) if metrics.exists() else []
    drawn = _draw(rows, folder / "curves.png")
    write_atomically(folder / "report.md", _text(rows, config, drawn=drawn).encode())


def _draw(rows: Sequence[Row], path: Path) -> bool:
    """Draws every curve that has values; returns whether there was one."""
    known = {curve: curve.values(rows) for curve in CURVES}
    curves = [curve for curve in CURVES if known[curve]]
    if not curves:
        return False
    columns = 3
    lines = -(-len(curves) // columns)
    figure = Figure(figsize=(4 * columns, 2.8 * lines), layout="constrained")
    panels: list[Axes] = list(figure.subplots(lines, columns, squeeze=False).flat)
    for panel, curve in zip(panels, curves, strict=False):
        values = known[curve]
        panel.errorbar(
            [row["step"] for row in values],
            [row[curve.key] for row in values],
            yerr=[row.get(curve.error) or 0.0 for row in values] if curve.error else None,
            marker="." if len(values) < 60 else "",
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


def _text(rows: Sequence[Row], config: TrainerConfig, *, drawn: bool) -> str:
    rl = config.rl
    evaluations = [row for row in rows if row["stage"] == "evaluate"]
    steps = [row for row in rows if row["stage"] == "rl"]
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
                for row in evaluations
            ],
        ),
        "## Time",
        "",
        *_table(["spent on", "seconds", "share"], _times(rows)),
    ]
    if steps:
        lines += ["## Reinforcement learning", "", _summary(steps, rl.steps), ""]
    if drawn:
        lines += ["![Curves](curves.png)", ""]
    return "\n".join(lines)


def _summary(steps: Sequence[Row], wanted: int) -> str:
    invalid, flat = (sum(row[key] for row in steps) for key in ("invalid", "zero_variance_groups"))
    done = f"{len(steps)} steps"
    if len(steps) < wanted:
        done = f"{len(steps)} of {wanted} steps so far"
    return (
        f"{done}; {sum(row['n'] for row in steps)} episodes with a reward, "
        f"{invalid} INVALID, {flat} groups without variance."
    )


_ACTIVITIES = (
    ("waiting for episodes", "wait_seconds"),
    ("scoring", "scoring_seconds"),
    ("updates", "update_seconds"),
    ("publishing", "publish_seconds"),
    ("checkpoints", "checkpoint_seconds"),
)


def _times(rows: Sequence[Row]) -> list[tuple[object, ...]]:
    """Seconds by activity, and their shares. What a step spends on nothing of it is `other`."""
    spent = {name: sum(row.get(key) or 0.0 for row in rows) for name, key in _ACTIVITIES}
    spent["evaluations"] = sum(row["seconds"] for row in rows if row["stage"] == "evaluate")
    steps = [row for row in rows if row["stage"] == "rl"]
    told = ("wait_seconds", "scoring_seconds", "update_seconds", "publish_seconds")
    inside = sum(row.get(key) or 0.0 for row in steps for key in told)
    spent["other"] = max(0.0, sum(row["step_seconds"] for row in steps) - inside)
    total = sum(spent.values()) or 1.0
    return [(name, f"{value:.1f}", f"{value / total:.0%}") for name, value in spent.items()]


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [*("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines), ""]


def main(
    run_folder: Annotated[Path, typer.Argument(help="Folder of a run, also of one that died.")],
) -> None:
    """Draws report.md and curves.png of a run anew."""
    with told():
        write_report(run_folder)
        typer.echo(run_folder / "report.md")


if __name__ == "__main__":
    typer.run(main)
