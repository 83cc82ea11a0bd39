"""The whole loop against a real gRPC server: what it publishes and records, and that a run which
is cut and resumed ends with the same weights as one which is not."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import torch
from safetensors.torch import load_file

from synthagent.api.v1 import rollout_pb2_grpc
from tests.trainer.scripted_rollout import ScriptedRollout
from tests.trainer.tiny import load_plain, write_model
from trainer.metrics import read_rows


@asynccontextmanager
async def serving(script: ScriptedRollout) -> AsyncIterator[str]:
    server = grpc.aio.server()
    rollout_pb2_grpc.add_RolloutServicer_to_server(script, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)


async def train(
    model: Path, folder: Path, address: str, *more: str, ranks: int = 1
) -> tuple[int, str]:
    """Exit code and output of a trainer; `more` overrides keys of its configuration."""
    config = folder.with_suffix(".toml")
    config.write_text(f"""
        [run]
        folder = "{folder}"
        seed = 3
        [model]
        name = "{model}"
        tokens_per_row = 64
        [rollout]
        address = "{address}"
        [deepspeed]
        precision = "float32"
        threads = 1
        [sft]
        trajectories_per_step = 2
        learning_rate = 1e-2
        [rl]
        steps = 3
        groups_per_step = 3
        group_size = 4
        learning_rate = 1e-2
        [checkpoint]
        every_steps = 1
    """)
    launcher = (
        ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
        if ranks > 1
        else ()
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *launcher, "-m", "trainer", str(config)),
        *(part for override in more for part in ("--set", override)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
    )
    output, _ = await asyncio.wait_for(process.communicate(), 100)
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.mark.timeout(300)
async def test_a_run_that_is_cut_ends_like_one_that_is_not(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    straight, cut, pair = ScriptedRollout(), ScriptedRollout(fail_at_step=1), ScriptedRollout()
    async with serving(straight) as first, serving(cut) as second, serving(pair) as third:
        (code, said), (cut_code, cut_said), (pair_code, pair_said) = await asyncio.gather(
            train(model, tmp_path / "straight", first),
            train(model, tmp_path / "cut", second),
            train(model, tmp_path / "pair", third, ranks=2),
        )
        assert code == 0, said
        assert pair_code == 0, pair_said
        assert cut_code == 3, cut_said
        assert "the script says so" in cut_said
        cut.fail_at_step = None
        resumed_code, resumed_said = await train(model, tmp_path / "cut", second)
        assert resumed_code == 0, resumed_said
        assert "resumed after rl step 1" in resumed_said

    report = (tmp_path / "straight" / "report.md").read_text()
    assert "| after-rl | 0.500 | 0.100 | 3 | 0 |" in report
    assert "9 INVALID, 3 groups without variance" in report
    assert (tmp_path / "straight" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "straight" / "tensorboard").glob("events.*"))
    check_records(tmp_path / "straight")
    check_records(tmp_path / "cut")
    check_records(tmp_path / "pair")
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


@pytest.mark.timeout(300)
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


def check_records(folder: Path) -> None:
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
    assert [row["policy_version"] for row in rows] == [0, 0, 0, 1, 2, 3, 4, 4]
    for row in rows[4:7]:
        assert (row["n"], row["invalid"], row["groups"]) == (9, 3, 3)
        assert row["zero_variance_groups"] == 1
        assert row["staleness"] == row["policy_version"] - 1  # the script's version is always 0
        assert 8 < row["episode_tokens"] <= 20
        assert row["mean_reward"] == pytest.approx((0.5 * 6 + 1.0 * 3) / 9)
        assert 0 < row["policy_tokens"] < row["tokens"]
