"""The rows that a run leaves, and what Prometheus reads from it."""

from __future__ import annotations

import urllib.request
from pathlib import Path

from trainer.metrics import MetricsLog, read_rows

STEP = {"loss": 0.5, "tokens": 100, "seconds": 2.0, "tokens_per_second": 50.0}


def test_rows_are_read_back_and_cut_to_a_checkpoint(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", port=None)
    log.record("evaluate", label="before", mean_reward=0.25)
    log.record("sft", step=1, **STEP)
    length = log.length
    log.record("sft", step=2, **STEP)
    resumed = MetricsLog(tmp_path / "metrics.jsonl", port=None)
    resumed.cut(length)
    resumed.record("sft", step=2, **STEP)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [(row["stage"], row.get("step")) for row in rows] == [
        ("evaluate", None),
        ("sft", 1),
        ("sft", 2),
    ]


def test_prometheus_serves_loss_step_time_and_throughput(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", port=0)
    log.record("sft", step=1, **STEP)
    log.record(
        "rl",
        step=1,
        mean_reward=0.75,
        zero_variance_groups=2,
        invalid=1,
        **{**STEP, "loss": None},
    )
    with urllib.request.urlopen(f"http://127.0.0.1:{log.port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'synthagent_trainer_loss{phase="sft"} 0.5' in text
    assert 'synthagent_trainer_step_seconds_sum{phase="rl"} 2.0' in text
    assert "synthagent_trainer_tokens_per_second 50.0" in text
    assert "synthagent_trainer_tokens_total 200.0" in text
    assert "synthagent_trainer_zero_variance_groups_total 2.0" in text
    assert "synthagent_trainer_invalid_trajectories_total 1.0" in text
    log.close()
