"""The report of a trial: one JSON object, and a table for people."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.chaos.leftovers import TOLERANCE
from benchmarks.chaos.trial import Outcome

_SHOWN = 20  # violations of each invariant


def report(outcome: Outcome, seed: int) -> dict[str, Any]:
    """What happened. `invariants` counts violations; `violations` tells the first of each."""
    seconds = [blow.recovery_seconds for blow in outcome.blows]
    kinds: dict[str, list[float]] = defaultdict(list)
    for blow in outcome.blows:
        kinds[blow.fault.kind.value].append(blow.recovery_seconds)
    counts = {name: len(found) for name, found in outcome.violations.items()}
    return {
        "holds": outcome.holds,
        "seed": seed,
        "episodes": outcome.plan.episodes,
        "lost": counts["lost"],
        "duplicated": counts["duplicated"],
        "wrong_reward": counts["wrong_reward"],
        "invalid": outcome.invalid,
        "faults_total": len(outcome.blows),
        "faults_while_episodes_ran": outcome.struck_under_way,
        "faults": dict(sorted((kind, len(found)) for kind, found in kinds.items())),
        "faults_left_out": outcome.left_out,
        "recovery_seconds": _quantiles(seconds),
        "recovery_seconds_by_kind": {kind: _quantiles(found) for kind, found in kinds.items()},
        "invariants": counts,
        "violations": {name: found[:_SHOWN] for name, found in outcome.violations.items() if found},
        "undisturbed_seconds": round(outcome.calm_seconds, 1),
        "disturbed_seconds": round(outcome.rough_seconds, 1),
        "calls_made_again": dict(sorted(outcome.heard.repeated.items())),
        "tool_calls_of_held_sessions": outcome.heard.session_calls,
        "memory": _memory(outcome),
        "also_done": dict(Counter(outcome.events)),
    }


def _quantiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def _memory(outcome: Outcome) -> dict[str, Any]:
    if outcome.memory is None:
        return {}
    before, after = outcome.memory
    survivors = before.by_process.keys() & after.by_process.keys()
    return {
        "tolerance": TOLERANCE,
        "megabytes_before": {name: round(each, 1) for name, each in before.by_service.items()},
        "megabytes_after": {name: round(each, 1) for name, each in after.by_service.items()},
        "survivors": [
            [round(before.by_process[each], 1), round(after.by_process[each], 1)]
            for each in sorted(survivors)
        ],
    }


def schedule_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """Each fault that struck, in order of time."""
    return [
        {
            "at": round(blow.fault.at, 2),
            "kind": blow.fault.kind.value,
            "target": blow.fault.target,
            "seconds": round(blow.fault.seconds, 2),
            "recovery_seconds": round(blow.recovery_seconds, 2),
        }
        for blow in sorted(outcome.blows, key=lambda blow: blow.fault.at)
    ]


def show(console: Console, content: dict[str, Any]) -> None:
    """Prints what matters as tables."""
    struck = Table("fault", "count", "recovery p50, s", "p99, s")
    for kind, count in content["faults"].items():
        took = content["recovery_seconds_by_kind"][kind]
        struck.add_row(kind, str(count), f"{took['p50']:.2f}", f"{took['p99']:.2f}")
    for kind, why in content["faults_left_out"].items():
        struck.add_row(kind, "0", why, "")
    console.print(struck)
    checked = Table("invariant", "violations")
    for name, count in content["invariants"].items():
        checked.add_row(name, str(count), style="red" if count else "green")
    console.print(checked)
    for found in content["violations"].values():
        for each in found[:3]:
            console.print(f"- {each}", style="red", markup=False)
    names = (
        "faults_total",
        "faults_while_episodes_ran",
        "episodes",
        "lost",
        "duplicated",
        "wrong_reward",
        "recovery_seconds",
    )
    console.print({name: content[name] for name in names})
