"""A small trial end to end: every kind of fault strikes, and everything holds."""

from pathlib import Path

import pytest

from benchmarks.chaos.disk import why_not
from benchmarks.chaos.driving import Plan
from benchmarks.chaos.report import report
from benchmarks.chaos.schedule import WEIGHTS, FaultKind, schedule
from benchmarks.chaos.trial import try_out


@pytest.mark.replicas
@pytest.mark.timeout(600)
def test_a_small_trial_loses_nothing(tmp_path: Path) -> None:
    plan = Plan(waves=2, steps=2, groups_per_step=2, group_size=3, tasks=6)
    faults = schedule(3, sum(WEIGHTS.values()), 60.0)
    outcome = try_out(tmp_path, plan, faults, seconds=60.0, tell=lambda *_: None)
    assert not {name: found for name, found in outcome.violations.items() if found}
    content = report(outcome, 3)
    kinds = set(FaultKind) - ({FaultKind.DISK_FULL} if why_not() else set())
    assert set(content["faults"]) == kinds
    assert (content["lost"], content["duplicated"], content["wrong_reward"]) == (0, 0, 0)
    assert content["episodes"] == 96
    assert 0 < content["recovery_seconds"]["p50"] <= content["recovery_seconds"]["p99"]
