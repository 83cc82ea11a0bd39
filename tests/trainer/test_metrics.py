"""The rows that a run leaves, and what Prometheus reads from it."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.proto import event_pb2

from synthagent.errors import Corrupt
from synthagent.metrics import TRAINER_GAUGES, TrainerMetrics
from trainer.metrics import MetricsLog, mirror, read_rows

STEP = {"loss": 0.5, "tokens": 100, "seconds": 2.0, "tokens_per_second": 50.0}


def test_rows_are_read_back_and_cut_to_a_checkpoint(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", port=None)
    log.record("evaluate", step=0, label="before", mean_reward=0.25)
    log.record("sft", step=1, **STEP)
    length = log.length
    log.record("sft", step=2, **STEP)
    resumed = MetricsLog(tmp_path / "metrics.jsonl", port=None)
    resumed.cut(length)
    resumed.record("sft", step=2, **STEP)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [(row["stage"], row.get("step")) for row in rows] == [
        ("evaluate", 0),
        ("sft", 1),
        ("sft", 2),
    ]


def test_half_a_row_of_a_process_that_died_is_left_out_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"stage":"sft","step":1}\n{"stage":"sf')
    assert [row["step"] for row in read_rows(path)] == [1]
    path.write_bytes(b'{"stage":"sf\n{"stage":"sft","step":1}\n')
    with pytest.raises(Corrupt, match=r"metrics\.jsonl, line 1, is damaged"):
        read_rows(path)


def test_tensorboard_reads_what_was_recorded(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", port=None, tensorboard=tmp_path / "board")
    log.record("sft", step=7, **STEP)
    log.close()
    [file] = (tmp_path / "board").iterdir()
    events = [event_pb2.Event.FromString(record) for record in records(file.read_bytes())]
    found = {
        value.tag: (event.step, value.simple_value)
        for event in events
        for value in event.summary.value
    }
    assert found["sft/loss"] == (7, 0.5)
    assert found["sft/tokens"] == (7, 100)
    assert "sft/step" not in found


def records(content: bytes) -> Iterator[bytes]:
    """The records of a TFRecord file: length, its checksum, data, its checksum."""
    while content:
        length = int.from_bytes(content[:8], "little")
        yield content[12 : 12 + length]
        content = content[16 + length :]


def test_every_metric_of_a_step_is_documented() -> None:
    assert all(meaning.endswith(".") for meaning in TRAINER_GAUGES.values())
    assert not mirror(TrainerMetrics(), "rl", "unheard_of", 1.0)


def test_prometheus_serves_loss_step_time_and_throughput(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", port=0)
    log.record("evaluate", step=0, mean_reward=0.25, seconds=4.0)
    log.record("sft", step=1, **STEP)
    log.record(
        "rl",
        step=1,
        mean_reward=0.75,
        zero_variance_groups=2,
        invalid=1,
        staleness=0.5,
        wait_seconds=3.0,
        step_seconds=6.0,
        **{**STEP, "loss": None},
    )
    with urllib.request.urlopen(f"http://127.0.0.1:{log.port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'synthagent_trainer_loss{phase="sft"} 0.5' in text
    assert 'synthagent_trainer_step_seconds_sum{phase="sft"} 2.0' in text
    assert 'synthagent_trainer_step_seconds_sum{phase="rl"} 6.0' in text
    assert 'synthagent_trainer_activity_seconds_total{activity="wait"} 3.0' in text
    assert 'synthagent_trainer_staleness{phase="rl"} 0.5' in text
    assert 'synthagent_trainer_evaluation_reward{phase="evaluate"} 0.25' in text
    assert "synthagent_trainer_tokens_per_second 50.0" in text
    assert "synthagent_trainer_tokens_total 200.0" in text
    assert "synthagent_trainer_zero_variance_groups_total 2.0" in text
    assert "synthagent_trainer_invalid_trajectories_total 1.0" in text
    log.close()
