"""`synthagent rollout`, `trajectories` and `judge` against a real server."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.synthagent.cli.conftest import Invoke

Json = Callable[..., Any]


@pytest.fixture
def task_id(invoke_json: Json) -> str:
    made = invoke_json("tasks", "synthesize", "--count", "1", "--difficulty", "mini", "--seed", "3")
    return str(made["task_ids"][0])


def test_a_run_is_rolled_out_listed_shown_and_judged_again(
    invoke: Invoke, invoke_json: Json, task_id: str
) -> None:
    command = (
        "rollout",
        "--task",
        task_id,
        "--agent",
        "gold",
        "--group-size",
        "2",
        "--run-id",
        "first",
    )
    result = invoke_json(*command)
    assert (result["state"], result["episodes"], result["invalid"]) == ("succeeded", 2, 0)
    assert result["mean_reward"] == 1.0
    assert {row["task_id"] for row in result["trajectories"]} == {task_id}
    again = invoke(*command)  # the same run, which has ended
    assert "succeeded: 2 episodes, 0 INVALID, mean reward 1.000" in again.stdout
    trajectory_id = result["trajectories"][0]["trajectory_id"]

    listed = invoke_json("trajectories", "list", "first")["trajectories"]
    assert listed == result["trajectories"]
    assert trajectory_id in invoke("trajectories", "list").stdout

    shown = invoke("trajectories", "show", trajectory_id).stdout
    for part in ("must not", "private", "call", "reward 1.000 (paper)", "engine", "yes"):
        assert part in shown
    document = invoke_json("trajectories", "show", trajectory_id)
    assert document["trajectory"]["trajectory_id"] == trajectory_id
    assert document["task"]["task_id"] == task_id

    judged = invoke_json("judge", trajectory_id, "--preset", "paper_code")
    assert judged["verdict"]["reward"] == 1.0
    assert judged["verdict"]["reward_preset"] == "paper_code"
    assert "reward 1.000 (paper)" in invoke("judge", "trajectory", trajectory_id, "--again").stdout


def test_an_agent_is_told_the_private_facts_on_request(invoke_json: Json, task_id: str) -> None:
    command = ("rollout", "--task", task_id, "--agent", "gold", "--preset", "no_interaction")
    told = invoke_json(*command, "--facts-in-instruction")
    assert told["mean_reward"] == 1.0
    shown = invoke_json("trajectories", "show", told["trajectories"][0]["trajectory_id"])
    assert shown["trajectory"]["facts_in_instruction"]
    assert not any("user" in event for event in shown["trajectory"]["events"])


def test_tasks_are_drawn_from_a_split_or_a_domain(
    invoke: Invoke, invoke_json: Json, task_id: str
) -> None:
    domain = invoke_json("tasks", "show", task_id)["domain"]
    by_domain = invoke_json("rollout", "--domain", domain, "--agent", "noop", "--count", "1")
    assert by_domain["episodes"] == 1
    assert by_domain["mean_reward"] == 0.0
    by_split = invoke_json(
        "rollout", "--split", "train", "--difficulty", "mini", "--count", "1", "--agent", "noop"
    )
    assert by_split["episodes"] == 1
    assert "No stored task" in invoke("rollout", "--domain", "nowhere", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("rollout", "--agent", "gold"), 2, "say which tasks"),
        (("rollout", "--agent", "golden", "--split", "train"), 2, "known are policy, model"),
        (("rollout", "--task", "x", "--split", "train"), 2, "no other selection"),
        (("rollout", "--task", "nowhere", "--agent", "noop"), 4, "nowhere"),
        (("rollout", "--split", "train", "--preset", "generous"), 2, "known are paper, paper_code"),
        (("trajectories", "show", "nowhere"), 4, "nowhere"),
        (("trajectories", "list", "nowhere"), 4, "nowhere"),
        (("judge", "nowhere"), 4, "nowhere"),
        (("judge", "calibrate", __file__), 2, "no labelled set"),
    ],
)
def test_a_failure_has_its_exit_code_and_says_why(
    invoke: Invoke, arguments: tuple[str, ...], code: int, told: str
) -> None:
    result = invoke(*arguments, code=code)
    assert told in " ".join(result.output.replace("│", " ").split())


def test_calibration_without_a_model_says_what_to_set(
    invoke: Invoke, invoke_json: Json, task_id: str, tmp_path: Path
) -> None:
    run = invoke_json("rollout", "--task", task_id, "--agent", "noop", "--run-id", "labelled")
    shown = invoke_json("trajectories", "show", run["trajectories"][0]["trajectory_id"])
    item = {
        "id": "one",
        "task_id": task_id,
        "events": shown["trajectory"]["events"],
        "criterion_id": shown["task"]["criteria"][0]["criterion_id"],
        "label": "YES",
    }
    file = tmp_path / "labelled.jsonl"
    file.write_text(json.dumps(item))
    result = invoke("judge", "calibrate", file, code=4)
    assert "SYNTHAGENT_JUDGE__BASE_URL" in result.stderr
