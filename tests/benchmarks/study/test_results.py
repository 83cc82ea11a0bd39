from pathlib import Path
from typing import Any

import orjson
import pytest
import typer

from benchmarks.study import results
from benchmarks.study.__main__ import State
from benchmarks.study.plan import SIZES
from benchmarks.study.stages import Study, verdict_parts
from synthagent.api.v1 import trajectory_pb2


def _evaluation(label: str, reward: float) -> dict[str, Any]:
    return {
        "label": label,
        "mean_reward": reward,
        "reward_sem": 0.05,
        "n": 40,
        "invalid": 1,
        "sub_goals": 0.5,
        "interactions": 0.25,
        "forbidden": 0.1,
    }


def _put(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(value))


def _score(accuracy: float | None) -> dict[str, Any]:
    return {"accuracy": accuracy, "sem": None if accuracy is None else 0.02, "n": 50}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A study whose SFT and RL are done, and the base model's score."""
    _put(tmp_path / "sft" / "evaluations.json", [_evaluation("after-sft", 0.3)])
    _put(
        tmp_path / "full" / "evaluations.json",
        [_evaluation("step-2", 0.4), _evaluation("after-rl", 0.5)],
    )
    step = {"stage": "rl", "mean_reward": 0.4, "reward_sem": 0.1, "n": 8, "invalid": 0}
    rows = [{**step, "step": number, "zero_variance_groups": 1} for number in range(1, 5)]
    metrics = b"\n".join(map(orjson.dumps, [{"stage": "sft"}, *rows])) + b"\n"
    for name in ("sft", "full"):
        path = tmp_path / name / "run" / "metrics.jsonl"
        path.parent.mkdir()
        path.write_bytes(metrics if name == "full" else b'{"stage":"sft"}\n')
    _put(
        tmp_path / "bfcl" / "base" / "report.json",
        {"scores": {"multiple": _score(0.25), "irrelevance": _score(None)}},
    )
    return Study(SIZES["cpu"], tmp_path)


def test_what_is_done_is_shown_and_nothing_else(study: Study) -> None:
    found = results.gather(study, {"bfcl-base": 3.0})
    assert list(found["trainings"]) == ["sft", "full"]
    assert len(found["trainings"]["full"]["steps"]) == 4
    text = results.markdown(found)
    assert "| SFT, then GRPO | after-rl | 0.500 ± 0.050 | 40 | 1 | 0.500 | 0.250 | 0.100 |" in text
    assert "| base | 0.250 ± 0.020 (50) | - |" in text
    assert "gap" not in text
    assert not results.gather(study, {})["bfcl"]  # a report of a stage that is under way


def test_a_curve_begins_where_its_start_ended(study: Study) -> None:
    found = results.gather(study, {})
    curve = results._curve(found["trainings"], "full")
    assert [(step, each["mean_reward"]) for step, each in curve] == [(0, 0.3), (2, 0.4), (4, 0.5)]
    results.write(study, found)
    assert (study.folder / "study.png").stat().st_size > 10_000
    assert orjson.loads((study.folder / "study.json").read_bytes()) == found


def test_invalid_verdicts_have_no_parts() -> None:
    verdicts = [
        trajectory_pb2.Verdict(reward=0.0, policy_fraction=0.5, sub_goal_fraction=1.0),
        trajectory_pb2.Verdict(reward=1.0, policy_fraction=1.0, sub_goal_fraction=0.5),
        trajectory_pb2.Verdict(invalid=trajectory_pb2.Invalid(detail="away")),
    ]
    assert verdict_parts(verdicts) == {"forbidden": 0.5, "sub_goals": 0.75, "interactions": 0.0}
    assert verdict_parts(verdicts[2:]) == {}


def test_the_state_outlives_a_call_and_belongs_to_one_study(tmp_path: Path) -> None:
    state = State(tmp_path, {"size": "cpu"})
    state.add("tasks", 2.0, done=True)
    state.add("train-sft", 5.0, done=False)
    again = State(tmp_path, {"size": "cpu"})
    assert again.done == {"tasks": 2.0}
    again.add("train-sft", 1.5, done=True)
    assert State(tmp_path, {"size": "cpu"}).done == {"tasks": 2.0, "train-sft": 6.5}
    with pytest.raises(typer.BadParameter, match="another study"):
        State(tmp_path, {"size": "gpu"})
