"""A job survives its way to the other environment, and the benchmark refuses unequal losses."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.trainer.__main__ import Outcome, require_same
from benchmarks.trainer.job import EpisodeTokens, Group, Job, TrlOptions, group_of

GROUP = Group([5, 6, 7], [EpisodeTokens([8, 9], [1, 0], 0.5), EpisodeTokens([8], [1], 1.0)])


def test_a_job_reads_back_as_it_was_written(tmp_path: Path) -> None:
    job = Job("model", 2, [[GROUP]], iterations=2, trl=TrlOptions(4, gradient_checkpointing=True))
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job


def test_a_group_is_the_same_as_a_streams_episodes() -> None:
    assert group_of(GROUP.samples("0")) == GROUP
    assert GROUP.tokens == 3 + 2 + 3 + 1


def outcome(loss: float, norm: float) -> Outcome:
    step = {"seconds": 1.0, "loss": loss, "gradient_norm": norm, "peak_bytes": 1}
    return {"baseline_bytes": 1, "steps": [step], "plain_seconds": None}  # type: ignore[list-item]  # built alike


def test_what_does_not_compute_the_same_is_not_compared() -> None:
    require_same(outcome(0.5, 2.0), outcome(0.50001, 2.0), 1e-4)
    with pytest.raises(SystemExit, match="step 1: the gradient norm is"):
        require_same(outcome(0.5, 2.0), outcome(0.5, 2.1), 1e-4)
