"""The whole loop against a real gRPC server: what it publishes and records, and that a run which
is cut and resumed ends with the same weights as one which is not."""

from __future__ import annotations

import asyncio
import math
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from synthagent.api.v1 import rollout_pb2
from synthagent.metrics import TrainerMetrics
from tests.trainer.processes import serving, started, train
from tests.trainer.scripted_rollout import ScriptedRollout
from tests.trainer.tiny import load_plain, write_model
from trainer.batch_log import read_batches
from trainer.checkpoint import file_sha256
from trainer.metrics import mirror, read_rows


@pytest.mark.timeout(900)
async def test_a_run_that_is_cut_ends_like_one_that_is_not(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    straight, cut, pair = ScriptedRollout(), ScriptedRollout(fail_at_step=1), ScriptedRollout()
    async with serving(straight) as first, serving(cut) as second, serving(pair) as third:
        code, said = await train(model, tmp_path / "straight", first)
        assert code == 0, said
        code, said = await train(model, tmp_path / "cut", second)
        assert code == 3, said
        assert "the script says so" in said
        cut.fail_at_step = None
        code, said = await train(model, tmp_path / "cut", second)
        assert code == 0, said
        assert "resumed after rl step 1" in said
        await kill_a_rank(pair, model, tmp_path / "pair", third)
        code, said = await train(model, tmp_path / "pair", third, ranks=2)
        assert code == 0, said
        assert "resumed after" in said

    report = (tmp_path / "straight" / "report.md").read_text()
    assert "| after-rl | 0.500 | 0.100 | 3 | 0 |" in report
    assert "9 INVALID, 3 groups without variance" in report
    assert (tmp_path / "straight" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "straight" / "tensorboard").glob("events.*"))
    check_records(tmp_path / "straight")
    check_records(tmp_path / "cut")
    check_records(tmp_path / "pair", ranks=2)
    assert [version for version, _ in straight.published] == [1, 2, 3, 4]
    # The cut run publishes the version it resumes from again, with the same content.
    assert [version for version, _ in cut.published] == [1, 2, 2, 3, 4]
    assert dict(cut.published) == dict(straight.published)

    weights = load_file(tmp_path / "straight" / "model" / "model.safetensors")
    for name, other in load_file(tmp_path / "cut" / "model" / "model.safetensors").items():
        assert torch.equal(other, weights[name]), name
    for name, other in load_file(tmp_path / "pair" / "model" / "model.safetensors").items():
        torch.testing.assert_close(other, weights[name], atol=1e-4, rtol=0, msg=name)
    trained = dict(load_plain(tmp_path / "straight" / "model").named_parameters())
    initial = dict(load_plain(model).named_parameters())
    assert all(torch.equal(trained[name], weight) for name, weight in weights.items())
    assert not any(torch.equal(trained[name], weight) for name, weight in initial.items())


async def kill_a_rank(script: ScriptedRollout, model: Path, folder: Path, address: str) -> None:
    """Kills the second of two ranks while they wait for a batch: the first ends, and says why."""
    ranks = started(model, folder, address, ranks=2)

    def kill(request: object) -> None:
        if isinstance(request, rollout_pb2.StreamBatchRequest) and request.step == 1:
            os.kill(ranks[1].pid, signal.SIGKILL)

    script.on_call = kill
    (code, said), (killed, _) = await asyncio.gather(*(rank.end() for rank in ranks))
    script.on_call = lambda _: None
    assert killed == -signal.SIGKILL
    assert code == 7, said
    assert "trainer (rank 0): another rank has ended or cannot be reached" in said
    assert "Traceback" not in said


@pytest.mark.timeout(900)
async def test_preferences_and_a_reference_on_two_ranks(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    settings = (
        "sft.enabled=false",
        "dpo.enabled=true",
        'dpo.runs=["stored"]',
        "dpo.epochs=2",
        "dpo.learning_rate=1e-2",
        "rl.algorithm=dapo",
        "rl.groups_per_step=2",
        "rl.oversampling=1.5",
        "rl.max_episode_tokens=64",
        "rl.kl_coefficient=0.1",
        "rl.minibatches=2",
        "rl.correction=token",
    )
    async with serving(ScriptedRollout()) as address:
        code, said = await train(model, tmp_path / "straight", address, *settings, ranks=2)
        assert code == 0, said
    rows = read_rows(tmp_path / "straight" / "metrics.jsonl")
    stages = [(row["stage"], row.get("label", row["step"])) for row in rows]
    assert stages[1:4] == [("dpo", 1), ("dpo", 2), ("evaluate", "after-dpo")]
    assert rows[1]["loss"] == pytest.approx(math.log(2), abs=1e-3)  # no preference yet
    assert rows[2]["loss"] < rows[1]["loss"]
    assert rows[2]["preferred"] == 1
    assert [row["unused_groups"] for row in rows[4:7]] == [1, 1, 1]
    assert rows[4]["reference_kl"] >= 0
    assert rows[6]["reference_kl"] > 0
    assert without_metric(rows) == []


@pytest.mark.timeout(900)
async def test_a_run_that_is_cut_loses_no_evaluation_and_renames_no_weights(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    settings = (
        "sft.enabled=false",
        "dpo.enabled=true",
        'dpo.runs=["stored"]',
        "evaluation.every_steps=1",
    )
    script = ScriptedRollout()
    async with serving(script) as address:
        [process] = started(model, tmp_path / "run", address, *settings)

        def kill(request: object) -> None:
            if isinstance(request, rollout_pb2.WatchRunRequest) and request.run_id.endswith(
                "after-dpo"
            ):
                os.kill(process.pid, signal.SIGKILL)

        script.on_call = kill
        code, said = await process.end()
        assert code == -signal.SIGKILL, said
        script.on_call = lambda _: None
        script.fail_at_step = 2  # behind the evaluation that follows the checkpoint of step 2
        code, said = await train(model, tmp_path / "run", address, *settings)
        assert code == 3, said
        assert "resumed after dpo step 1" in said
        script.fail_at_step = None
        code, said = await train(model, tmp_path / "run", address, *settings)
        assert code == 0, said
        assert "resumed after rl step 2" in said
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row.get("label", row["step"]) for row in rows] == [
        *("before", 1, "after-dpo", 1, "step-1", 2, "step-2", 3, "after-rl")
    ]
    # What preferences made of the initial policy is version 1, and never published as version 0.
    assert [version for version, _ in script.published] == [1, 1, 2, 3, 3, 4]
    assert len(set(script.published)) == 4


@pytest.mark.timeout(900)
async def test_a_run_that_goes_back_measures_from_the_policy_that_it_then_has(
    tmp_path: Path,
) -> None:
    model, folder = write_model(tmp_path / "model"), tmp_path / "run"
    settings = ("rl.steps=1", "rl.kl_coefficient=0.1", "checkpoint.keep=9")
    script = ScriptedRollout()
    async with serving(script) as address:
        code, said = await train(model, folder, address, *settings)
        assert code == 0, said
        first = file_sha256(folder / "reference-rl.safetensors")
        (folder / "checkpoints" / "latest").write_text("sft-000001")
        code, said = await train(
            model, folder, address, *settings, "sft.learning_rate=2e-2", "--amend"
        )
        assert code == 0, said
        assert "resumed after sft step 1" in said
    second = file_sha256(folder / "reference-rl.safetensors")
    assert [digest for version, digest in script.published if version == 1] == [first, second]
    assert first != second


def without_metric(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The scalars of these rows that Prometheus would not see."""
    metrics = TrainerMetrics()
    return [
        f"{row['stage']}: {name}"
        for row in rows
        for name, value in row.items()
        if isinstance(value, int | float) and not mirror(metrics, row["stage"], name, value)
    ]


def check_records(folder: Path, ranks: int = 1) -> None:
    rows = read_rows(folder / "metrics.jsonl")
    stages = [(row["stage"], row.get("label", row["step"])) for row in rows]
    assert stages == [
        ("evaluate", "before"),
        ("sft", 1),
        ("sft", 2),
        ("evaluate", "after-sft"),
        ("rl", 1),
        ("rl", 2),
        ("rl", 3),
        ("evaluate", "after-rl"),
    ]
    assert without_metric(rows) == []
    assert [row["policy_version"] for row in rows] == [0, 0, 0, 1, 2, 3, 4, 4]
    for row in rows[4:7]:
        assert (row["n"], row["invalid"], row["groups"]) == (9, 3, 3)
        assert row["zero_variance_groups"] == 1
        assert (row["staleness"], row["staleness_max"], row["episode_staleness"]) == (0, 0, 0)
        assert row["imbalance"] == pytest.approx(1.0 if ranks == 1 else 4 / 3)
        assert row["imbalance_computed"] == 1 if ranks == 1 else row["imbalance_computed"] > 1
        assert row["fetch_seconds"] > 0
        assert 0 < row["wait_seconds"] < row["step_seconds"]
        assert 8 < row["episode_tokens"] <= 20
        assert row["mean_reward"] == pytest.approx((0.5 * 6 + 1.0 * 3) / 9)
        assert 0 < row["policy_tokens"] < row["tokens"]
    batches = read_batches(folder / "batches.jsonl")
    assert [(batch.step, batch.policy_version) for batch in batches] == [(1, 1), (2, 2), (3, 3)]
    for batch in batches:
        assert batch.batch_id.endswith(f"-rl.step-{batch.step - 1}")
        assert len(set(batch.trajectory_ids)) == 12
        # Group 1 does not vary, and the last of each group is INVALID.
        wanted = [f"-{group}-{index}" for group in (0, 2) for index in range(3)]
        assert [name[-4:] for name in batch.trained_ids] == wanted
        assert batch.rank_tokens == ((300,) if ranks == 1 else (200, 100))
