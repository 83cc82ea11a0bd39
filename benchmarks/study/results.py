"""What a study found, from the files that its stages left: JSON, a table and a picture.

A stage that is not done is left out; nothing is filled in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from matplotlib.figure import Figure

from benchmarks.study.plan import BASE, TRAININGS
from benchmarks.study.stages import Study

_COLOURS = ("#4c78a8", "#2a9d8f", "#e76f51", "#9aa5b1", "#b07aa1")


def gather(study: Study, state: Mapping[str, Any]) -> dict[str, Any]:
    """All figures of the stages that are done."""
    found: dict[str, Any] = {
        "size": study.size.name,
        "seed": study.seed,
        "difficulty": study.size.difficulty,
        "stages": state,
        "tasks": _read(study.folder / "tasks" / "tasks.json"),
        "trainings": {},
        "bfcl": {},
    }
    for each in TRAININGS:
        evaluations = _read(study.folder / each.name / "evaluations.json")
        if evaluations is not None:
            found["trainings"][each.name] = {
                "title": each.title,
                "begins_from": each.begins_from,
                "evaluations": evaluations,
                "steps": _steps(study.folder / each.name / "run" / "metrics.jsonl"),
            }
    for name in (BASE, *(each.name for each in TRAININGS)):
        report = _read(study.folder / "bfcl" / name / "report.json")
        if report is not None and f"bfcl-{name}" in state:
            found["bfcl"][name] = report
    return found


def write(study: Study, found: Mapping[str, Any]) -> None:
    """Writes study.json, study.md and study.png into the folder."""
    (study.folder / "study.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    (study.folder / "study.md").write_text(markdown(found), encoding="utf-8")
    if found["trainings"]:
        draw(found, study.folder / "study.png")


def markdown(found: Mapping[str, Any]) -> str:
    """Two tables: held-out rewards and BFCL."""
    rows = [
        (
            training["title"],
            each["label"],
            f"{each['mean_reward']:.3f} ± {each['reward_sem']:.3f}",
            each["n"],
            each["invalid"],
            *(f"{each[part]:.3f}" for part in ("sub_goals", "interactions", "forbidden")),
        )
        for training in found["trainings"].values()
        for each in training["evaluations"]
    ]
    heads = ("model", "evaluation", "held-out reward ± SEM", "n", "invalid")
    lines = _table((*heads, "sub-goals", "interactions", "forbidden acts"), rows)
    if found["bfcl"]:
        categories = list(next(iter(found["bfcl"].values()))["scores"])
        rows = [
            (name, *(_accuracy(report["scores"][each]) for each in categories))
            for name, report in found["bfcl"].items()
        ]
        lines += _table(("BFCL, accuracy ± SEM (n)", *categories), rows)
    return "\n".join(lines)


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Held-out reward by GRPO step, and BFCL accuracy, with standard errors."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    trainings = found["trainings"]
    for colour, (name, training) in zip(_COLOURS, trainings.items(), strict=False):
        points = _curve(trainings, name)
        left.errorbar(
            [step for step, _ in points],
            [each["mean_reward"] for _, each in points],
            yerr=[each["reward_sem"] for _, each in points],
            label=training["title"],
            color=colour,
            marker="o",
            capsize=3,
        )
    left.set_ylim(0, 1)
    left.set_xlabel("GRPO step")
    left.set_ylabel("mean reward, with SEM")
    left.set_title(f"Held-out domains ({found['difficulty']})")
    left.legend(fontsize=7)
    reports = found["bfcl"]
    categories = list(next(iter(reports.values()))["scores"]) if reports else []
    width = 0.8 / max(len(reports), 1)
    for number, (name, report) in enumerate(reports.items()):
        scores = [report["scores"][each] for each in categories]
        right.bar(
            [place + number * width for place in range(len(categories))],
            [each["accuracy"] or 0.0 for each in scores],
            width,
            yerr=[each["sem"] or 0.0 for each in scores],
            label=name,
            capsize=2,
        )
    right.set_xticks([place + 0.4 - width / 2 for place in range(len(categories))], categories)
    right.tick_params(axis="x", labelsize=7)
    right.set_ylim(0, 1)
    right.set_title("BFCL accuracy, with SEM")
    if reports:
        right.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def _curve(trainings: Mapping[str, Any], name: str) -> list[tuple[int, dict[str, Any]]]:
    """Evaluations by GRPO step; one that began from another training begins where that ended."""
    training = trainings[name]
    points: list[tuple[int, dict[str, Any]]] = []
    before = trainings.get(training["begins_from"])
    if before:
        points.append((0, before["evaluations"][-1]))
    for each in training["evaluations"]:
        label = each["label"]
        if label.startswith("step-"):
            points.append((int(label.removeprefix("step-")), each))
        elif label == "after-rl":
            points.append((len(training["steps"]), each))
        elif label == "after-sft":
            points.append((0, each))
    return points


def _steps(path: Path) -> list[dict[str, Any]]:
    """Reward of each GRPO step's batch."""
    rows = (orjson.loads(line) for line in path.read_bytes().splitlines())
    kept = ("step", "mean_reward", "reward_sem", "n", "invalid", "zero_variance_groups")
    return [{key: row[key] for key in kept} for row in rows if row["stage"] == "rl"]


def _accuracy(score: Mapping[str, Any]) -> str:
    if score["accuracy"] is None:
        return "-"
    sem = f" ± {score['sem']:.3f}" if score["sem"] is not None else ""
    return f"{score['accuracy']:.3f}{sem} ({score['n']})"


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return [
        "| " + " | ".join(heads) + " |",
        "|" + " --- |" * len(heads),
        *("| " + " | ".join(map(str, row)) + " |" for row in rows),
        "",
    ]


def _read(path: Path) -> Any:
    return orjson.loads(path.read_bytes()) if path.exists() else None
