"""Stages with real services; the trainings themselves are what `make score` runs."""

import asyncio
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from benchmarks.study import stages
from benchmarks.study.plan import SIZES, training
from benchmarks.study.slices import Slice, SliceOver
from benchmarks.study.stages import Study
from synthagent.api.v1 import rollout_pb2, task_pb2
from synthagent.client import SynthAgentClient
from synthagent.embedded import services


@pytest.mark.timeout(300)  # two starts of all services
def test_synthesis_leaves_a_database_that_a_training_begins_with(tmp_path: Path) -> None:
    size = replace(SIZES["cpu"], train_tasks=2, held_out_tasks=1)
    study = Study(size, tmp_path)
    stages.make_tasks(study, Slice())
    counts = orjson.loads((tmp_path / "tasks" / "tasks.json").read_bytes())
    assert (counts["train"]["admitted"], counts["held_out"]["admitted"]) == (2, 1)
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy2(tmp_path / "tasks" / "synthagent.db", copy / "synthagent.db")
    with closing(sqlite3.connect(copy / "synthagent.db")) as database:
        assert database.execute("SELECT count(*) FROM task").fetchone() == (3,)
    (found,) = _evaluated(study, copy)
    assert (found["label"], found["mean_reward"], found["sub_goals"]) == ("before", 1.0, 1.0)
    assert (found["interactions"], found["forbidden"]) == (1.0, 0.0)


def _evaluated(study: Study, folder: Path) -> list[dict[str, object]]:
    """A trainer's folder and its evaluation, here by the gold agent; what is read from them."""
    run = folder / "run"
    run.mkdir()
    (run / "run.json").write_bytes(orjson.dumps({"token": "abcd"}))
    row = {"stage": "evaluate", "label": "before", "mean_reward": 1.0, "reward_sem": 0.0}
    rows = [{**row, "n": 1, "invalid": 0}, {"stage": "sft", "step": 1}]
    (run / "metrics.jsonl").write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in rows))

    async def play(address: str) -> None:
        async with SynthAgentClient(address) as client:
            spec = rollout_pb2.RunSpec(
                reference=rollout_pb2.REFERENCE_AGENT_GOLD,
                tasks=rollout_pb2.TaskSelection(split=task_pb2.SPLIT_HELD_OUT),
                max_turns=64,
            )
            for name in ("sft-abcd-before", "sft-abcd-rl", "sft-0000-before"):
                await client.create_run(name, spec)
                async for _ in client.watch_run(name):
                    pass

    environment = stages._environment(study, folder, "base")
    # No model is needed: reference agents act, and nothing is written as a policy's tokens.
    environment = {**environment, "SYNTHAGENT_TOKENIZE_REFERENCE_AGENTS": "false"}
    with services(folder, environment) as address:
        asyncio.run(play(address))
        return asyncio.run(stages._evaluations(address, run))


def test_a_training_is_told_where_it_begins_and_where_it_leaves_its_model(tmp_path: Path) -> None:
    study = Study(SIZES["gpu"], tmp_path, seed=3)
    settings = stages._settings(study, training("full"), "host:1")
    assert settings["model.name"] == str(tmp_path / "sft" / "run" / "model")
    assert settings["run.folder"] == str(tmp_path / "full" / "run")
    assert (settings["run.seed"], settings["rollout.address"]) == (3, "host:1")
    assert stages._settings(study, training("sft"), "")["model.name"] == "smollm2-135m-instruct"


@pytest.mark.parametrize("stage", [stages.train, stages.score_bfcl])
def test_nothing_is_begun_at_the_end_of_a_slice(tmp_path: Path, stage: stages.Named) -> None:
    with pytest.raises(SliceOver):
        stage(Study(SIZES["cpu"], tmp_path), "sft", Slice(minutes=0.5))
    assert not (tmp_path / "sft").exists()
