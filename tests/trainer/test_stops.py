"""What stops a run: one clear sentence, an exit code, and a checkpoint from which it goes on.

Real processes: the disk is full by the kernel's limit on file sizes, weights really diverge, and a
rank is stopped, missing or told to end by signals.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import time
from pathlib import Path

import pytest

from synthagent.api.v1 import rollout_pb2
from tests.trainer.processes import rank_variables, serving, start, started, train, written
from tests.trainer.scripted_rollout import ScriptedRollout
from tests.trainer.tiny import write_model
from trainer import config as configuration
from trainer.metrics import read_rows

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


async def test_a_full_disk_at_any_write_is_named_and_the_run_resumes(
    model: Path, tmp_path: Path
) -> None:
    folder, script = tmp_path / "run", ScriptedRollout()
    # Once the named part of the run begins, no file may grow beyond so many bytes.
    full = [
        ("before", 0, "metrics.jsonl"),
        ("gold", 16384, "checkpoints/sft-000001.partial"),
        ("after-sft", 16384, "weights/policy-v000002.safetensors"),
    ]
    async with serving(script) as address:
        for part, limit, file in full:
            [process] = started(model, folder, address)

            def fill(
                request: object, part: str = part, limit: int = limit, pid: int = process.pid
            ) -> None:
                if isinstance(request, rollout_pb2.WatchRunRequest) and request.run_id.endswith(
                    part
                ):
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, limit))

            script.on_call = fill
            code, said = await process.end()
            assert code == 6, said
            [sentence] = re.findall("^trainer: .*", said, re.MULTILINE)
            assert f"no room to write {folder}/{file}" in sentence
            assert "start again: it resumes" in sentence
            assert "Traceback" not in said
            assert not list(folder.glob("checkpoints/*.partial"))
        script.on_call = lambda _: None
        code, said = await train(model, folder, address)
    assert code == 0, said
    assert "resumed after sft step 2" in said
    stages = [(row["stage"], row["step"]) for row in read_rows(folder / "metrics.jsonl")]
    assert stages.count(("sft", 1)) == stages.count(("rl", 3)) == 1


async def test_weights_that_diverge_stop_the_run_and_it_goes_on_amended(
    model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    async with serving(ScriptedRollout()) as address:
        code, said = await train(model, folder, address, "rl.learning_rate=1e30")
        assert code == 5, said
        [sentence] = re.findall("^trainer: .*", said, re.MULTILINE)
        assert re.search(r"the (loss|gradient norm) is (nan|inf) at update", sentence)
        # The step before gave finite weights from which no update was finite: it was put aside.
        assert f"{folder}/checkpoints/sft-000002 is from before it" in sentence
        assert (folder / "checkpoints" / "latest").read_text() == "sft-000002"
        code, said = await train(model, folder, address)
        assert code == 2, said
        assert "rl.learning_rate is 0.01 and was 1e+30. Start with --amend" in said
        code, said = await train(model, folder, address, "--amend", "--resume")
    assert code == 0, said
    assert "resumed after sft step 2" in said
    assert configuration.load(folder / "config-1.toml").rl.learning_rate == 1e30
    assert (folder / "model" / "model.safetensors").is_file()


async def test_a_rank_that_is_stopped_is_missed(model: Path, tmp_path: Path) -> None:
    script = ScriptedRollout()
    async with serving(script) as address:
        ranks = started(model, tmp_path / "run", address, "run.rank_timeout_seconds=5", ranks=2)

        def stop(request: object) -> None:
            if isinstance(request, rollout_pb2.StreamBatchRequest):
                os.kill(ranks[1].pid, signal.SIGSTOP)

        script.on_call = stop
        began = time.monotonic()
        code, said = await ranks[0].end()
        os.kill(ranks[1].pid, signal.SIGKILL)
        await ranks[1].end()
    assert code == 7, said
    assert "trainer (rank 0): rank 1 has given no sign of life for 5 s" in said
    assert time.monotonic() - began < 200


async def test_a_rank_that_never_comes_is_named_and_one_that_waits_can_be_told_to_end(
    model: Path, tmp_path: Path
) -> None:
    config = str(written(model, tmp_path / "run", "127.0.0.1:9"))
    first, _ = rank_variables(2)
    waiting = start([config, "--set", "run.rank_timeout_seconds=2"], first)
    second, _ = rank_variables(2)
    told = start([config], second)
    code, said = await waiting.end()
    assert code == 7, said
    assert "2 ranks did not meet at 127.0.0.1:" in said
    assert "missing: 1" in said
    os.kill(told.pid, signal.SIGTERM)
    code, said = await told.end()
    assert code == 143, said
    assert "trainer (rank 0): told to end (SIGTERM)" in said


async def test_a_damaged_checkpoint_or_none_is_said_before_anything_is_changed(
    model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    config = str(written(model, folder, "127.0.0.1:9"))
    code, said = await start([config, "--set", "rollout.timeout_seconds=2"]).end()
    assert code == 3, said
    assert "127.0.0.1:9" in said
    code, said = await start([config, "--resume"]).end()
    assert code == 2, said
    assert "holds no checkpoint" in said
    checkpoints = folder / "checkpoints"
    (checkpoints / "sft-000002").mkdir(parents=True)
    (checkpoints / "sft-000002" / "manifest.json").write_text("{damaged")
    (checkpoints / "latest").write_text("sft-000002")
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    ends = await asyncio.gather(start([config]).end(), start([config, "--resume"]).end())
    for code, said in ends:
        assert code == 4, said
        assert "manifest.json: it is not JSON" in said
        assert "Nothing was changed." in said
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before
