"""What a demo run leaves behind: report.json, report.md and learning-curve.png.

Every figure comes from what the services and the trainer returned or logged; nothing is estimated.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


@dataclass
class Score:
    """Mean reward of a set of episodes, its standard error, and their number."""

    mean_reward: float
    sem: float
    n: int
    invalid: int = 0

    def row(self) -> dict[str, float | int]:
        """As report.json has it."""
        return {
            "mean_reward": round(self.mean_reward, 4),
            "sem": round(self.sem, 4),
            "n": self.n,
            "invalid": self.invalid,
        }


@dataclass
class Report:
    """The figures of one demo run, filled stage by stage."""

    requested: int = 0
    admitted: int = 0
    rejected_by_gate: dict[str, int] = field(default_factory=dict)
    agents: dict[str, Score] = field(default_factory=dict)
    policy: dict[str, Score] = field(default_factory=dict)
    rl_steps: list[dict[str, Any]] = field(default_factory=list)
    sft_steps: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_rss_mb: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""
    conversation: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The content of report.json."""
        return {
            "command": self.command,
            "tasks": {
                "requested": self.requested,
                "admitted": self.admitted,
                "rejected_by_gate": self.rejected_by_gate,
            },
            "agents": {name: score.row() for name, score in self.agents.items()},
            "policy": {name: score.row() for name, score in self.policy.items()},
            "sft": {"steps": self.sft_steps},
            "rl": {"steps": self.rl_steps},
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "peak_rss_mb": self.peak_rss_mb,
            "versions": self.versions,
        }


def write(report: Report, folder: Path) -> None:
    """Writes all three files, each in one step. The folder must exist."""
    _replace(
        folder / "report.json", orjson.dumps(report.as_dict(), option=orjson.OPT_INDENT_2) + b"\n"
    )
    _plot(report, folder / "learning-curve.png")
    _replace(folder / "report.md", markdown(report).encode())


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)  # noqa: PTH105 - replaces on every platform


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return [
        "| " + " | ".join(heads) + " |",
        "|" + " --- |" * len(heads),
        *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows),
        "",
    ]


def _score_rows(scores: Mapping[str, Score]) -> list[tuple[object, ...]]:
    return [
        (name.replace("_", " "), f"{score.mean_reward:.3f}", f"{score.sem:.3f}", score.n,
         score.invalid)
        for name, score in scores.items()
    ]  # fmt: skip


def markdown(report: Report) -> str:
    """The report as a person reads it."""
    scores = ["mean reward", "SEM", "episodes", "invalid"]
    rejected = ", ".join(f"{gate} {count}" for gate, count in report.rejected_by_gate.items())
    lines = [
        "# Demo report",
        "",
        f"Command: `{report.command}`. Peak memory of all processes: {report.peak_rss_mb} MB.",
        "",
        "## Tasks",
        "",
        f"{report.admitted} of {report.requested} requested tasks were admitted and certified.",
        "",
        f"Rejected on the way: {rejected or 'none'}.",
        "",
        "## Reference agents",
        "",
        *_table(["agent", *scores], _score_rows(report.agents)),
        "## The policy on held-out domains",
        "",
        *_table(["policy", *scores], _score_rows(report.policy)),
        "![Learning curve](learning-curve.png)",
        "",
        "## GRPO steps",
        "",
        *_table(
            ["step", "loss", "mean reward", "tokens", "seconds", "zero-variance groups", "invalid"],
            [
                (
                    number,
                    "none" if step["loss"] is None else f"{step['loss']:.4f}",
                    f"{step['mean_reward']:.3f}",
                    step["tokens"],
                    f"{step['seconds']:.1f}",
                    step["zero_variance_groups"],
                    step["invalid"],
                )
                for number, step in enumerate(report.rl_steps, start=1)
            ],
        ),
        "## Time",
        "",
        *_table(
            ["stage", "seconds"],
            [(name.replace("_", " "), f"{value:.1f}") for name, value in report.seconds.items()],
        ),
        "## One held-out conversation after training",
        "",
        "```text",
        report.conversation.rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def _plot(report: Report, path: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(report.policy)
    left.bar(
        [name.replace("_", " ") for name in names],
        [report.policy[name].mean_reward for name in names],
        yerr=[report.policy[name].sem for name in names],
        capsize=6,
        color=["#9aa5b1", "#4c78a8", "#2a9d8f"][: len(names)],
    )
    left.set_ylim(0, 1)
    left.set_ylabel("mean reward, with SEM")
    episodes = max((score.n for score in report.policy.values()), default=0)
    left.set_title(f"Held-out domains ({episodes} episodes each)")
    right.errorbar(
        range(1, len(report.rl_steps) + 1),
        [step["mean_reward"] for step in report.rl_steps],
        yerr=[step.get("reward_sem", 0.0) for step in report.rl_steps],
        marker="o",
        capsize=4,
    )
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_ylim(0, 1)
    right.set_xlabel("GRPO step (each on other tasks)")
    right.set_ylabel("mean reward of the batch, with SEM")
    right.set_title("Training domains, sampled at temperature 1")
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=120)
    os.replace(temporary, path)  # noqa: PTH105 - replaces on every platform
