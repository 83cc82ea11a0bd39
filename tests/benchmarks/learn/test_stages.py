"""Results are made once, and survive the calls that made them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer

from benchmarks.learn import report
from benchmarks.learn.__main__ import alone, open_folder
from benchmarks.learn.leftovers import end_leftovers
from benchmarks.learn.plan import SIZES, VARIANTS
from benchmarks.learn.stages import Measurement, summary
from synthagent.api.v1 import trajectory_pb2


def evaluation(*rewards: float) -> dict[str, Any]:
    return {
        "rewards": {f"task-{number}": reward for number, reward in enumerate(rewards)},
        "parts": {"sub-goals": 0.5, "asked the user": 0.25, "kept the restriction": 1.0},
        "episodes": len(rewards),
        "invalid": 0,
    }


def store(folder: Path, seed: int, *rewards: float) -> None:
    folder.mkdir(parents=True)
    steps = [{"step": 1, "mean_reward": 0.2, "reward_sem": 0.01}]
    evaluations = {"greedy": evaluation(*rewards), "sampled": evaluation(*rewards[::-1])}
    result = {"seed": seed, "seconds": 60.0, "evaluations": evaluations, "steps": steps}
    (folder / "result.json").write_bytes(orjson.dumps(result))


def test_what_is_done_is_read_and_reported(tmp_path: Path) -> None:
    """No process could start here: the results are those that lie there."""
    measurement = Measurement(tmp_path, SIZES["full"], VARIANTS["full"])
    store(tmp_path / "start", 0, 0.0, 0.1, 0.2, 0.1)
    store(tmp_path / "full" / "seed-2", 2, 0.4, 0.5, 0.6, 0.5)
    store(tmp_path / "full" / "seed-1", 1, 0.3, 0.4, 0.5, 0.4)
    start = measurement.warm_start()
    assert measurement.train(2)["evaluations"]["greedy"]["rewards"]["task-0"] == 0.4
    found = report.gather(measurement, start)
    assert list(found.lifts("sampled")) == ["seed 1", "seed 2", "all seeds"]
    report.write(found, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    seeds = {"seed-1.json", "seed-2.json"}
    assert names == {"start.json", "summary.json", "learn.md", "learn.png", *seeds}
    whole = orjson.loads((tmp_path / "out" / "summary.json").read_bytes())["lifts"]["greedy"][
        "all seeds"
    ]
    assert whole["lift"] == pytest.approx(0.35)
    assert whole["reached"] is True
    assert "| all seeds | 0.100" in (tmp_path / "out" / "learn.md").read_text()


def test_invalid_episodes_are_counted_and_never_averaged() -> None:
    def trajectory(task: str, **verdict: Any) -> trajectory_pb2.Trajectory:
        return trajectory_pb2.Trajectory(task_id=task, verdict=trajectory_pb2.Verdict(**verdict))

    found = summary(
        [
            trajectory("a", reward=1.0, sub_goal_fraction=1.0),
            trajectory("a", reward=0.5, sub_goal_fraction=0.5),
            trajectory("b", reward=0.0, sub_goal_fraction=0.0),
            trajectory("c", invalid=trajectory_pb2.Invalid()),
        ]
    )
    assert found["rewards"] == {"a": 0.75, "b": 0.0}
    assert found["parts"]["sub-goals"] == 0.5
    assert (found["episodes"], found["invalid"]) == (3, 1)


def test_a_folder_holds_one_measurement(tmp_path: Path) -> None:
    folder = tmp_path / "learn"
    with pytest.raises(typer.BadParameter, match="holds no measurement"):
        open_folder(folder, {"size": "full"}, resume=True)
    open_folder(folder, {"size": "full"}, resume=False)
    open_folder(folder, {"size": "full"}, resume=True)
    with pytest.raises(typer.BadParameter, match="choose another one"):
        open_folder(folder, {"size": "quick"}, resume=False)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(typer.BadParameter, match="holds something else"):
        open_folder(tmp_path, {"size": "full"}, resume=False)


def test_one_call_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(typer.BadParameter, match="another call"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_what_a_killed_call_left_is_ended_and_nothing_else(tmp_path: Path) -> None:
    def process(argument: str) -> subprocess.Popen[bytes]:
        # A stand-in with the arguments of a trainer: they decide.
        command = [sys.executable, "-c", "import time; time.sleep(60)", "-m", "trainer", argument]
        return subprocess.Popen(command)

    ours = process(f"run.folder={tmp_path}/start/trainer")
    others = process(f"run.folder={tmp_path}-2/start/trainer")
    try:
        assert end_leftovers(tmp_path) == 1
        assert ours.poll() is not None
        assert others.poll() is None
    finally:
        for each in (ours, others):
            each.kill()
            each.wait()
