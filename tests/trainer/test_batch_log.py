from __future__ import annotations

from pathlib import Path

import pytest

from synthagent.errors import Corrupt
from trainer.batch_log import BatchLog, TrainedBatch, read_batches


def batch(step: int) -> TrainedBatch:
    return TrainedBatch(
        step=step,
        batch_id=f"r.step-{step - 1}",
        policy_version=step,
        trajectory_ids=(f"r.{step}.0", f"r.{step}.1"),
        trained_ids=(f"r.{step}.1",),
        rank_tokens=(30, 20),
        rank_tokens_computed=(12, 0),
    )


def test_each_step_stands_once_whatever_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "batches.jsonl"
    log = BatchLog(path)
    log.cut(0)  # there is none yet
    for step in (1, 2, 3):
        log.append(batch(step))
    with path.open("ab") as file:
        file.write(b'{"step": 4, "batch')  # the process died here
    log.cut(2)
    assert read_batches(path) == [batch(1), batch(2)]
    log.append(batch(3))
    assert read_batches(path) == [batch(1), batch(2), batch(3)]


def test_a_damaged_file_is_named_and_left(tmp_path: Path) -> None:
    path = tmp_path / "batches.jsonl"
    path.write_bytes(b'{"step": 1}\n')
    with pytest.raises(Corrupt, match=r"batches\.jsonl is damaged \(Field required\)"):
        BatchLog(path).cut(1)
    with pytest.raises(Corrupt, match="damaged"):
        read_batches(path)
    assert path.read_bytes() == b'{"step": 1}\n'
