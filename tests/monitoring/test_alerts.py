"""Every alert fires and resolves, by `promtool test rules` on the rules as they are committed."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from synthagent.monitoring import rules
from tests.monitoring.programs import program

pytestmark = pytest.mark.prometheus


@dataclass(frozen=True)
class Story:
    """Series in promtool's notation, a sample a minute; when the alert fires, and when it is over.

    Both are in minutes; `labels` are those of the alert besides its severity.
    """

    series: dict[str, str]
    fires: int
    resolved: int
    labels: dict[str, str]
    evaluated: str = "1m"


def stays(value: int, minutes: int) -> str:
    """A gauge that stays at a value."""
    return f"{value}x{minutes}"


def grows(by: int, minutes: int, then: int, rest: int) -> str:
    """A counter that grows by so much a minute, then by so much."""
    return f"0+{by}x{minutes} {by * minutes}+{then}x{rest}"


def _calls(code: str) -> str:
    labels = f'service="synthagent.api.v1.ToolMock",method="Session",code="{code}"'
    return f"synthagent_grpc_requests_total{{{labels}}}"


_MODEL = 'synthagent_model_calls_total{role="judge",purpose="vote",outcome="%s"}'
_COMMITS = 'synthagent_store_commit_seconds_bucket{le="%s"}'

STORIES: dict[str, Story] = {
    "SynthAgentErrorBudgetBurnsFast": Story(
        {_calls("OK"): grows(100, 90, 100, 600), _calls("UNAVAILABLE"): grows(10, 90, 0, 600)},
        fires=80,
        resolved=600,
        labels={"slo": "calls"},
    ),
    "SynthAgentErrorBudgetBurnsSlowly": Story(
        {
            "synthagent_episodes_total": grows(100, 1440, 100, 6000),
            "synthagent_episodes_invalid_total": grows(4, 1440, 0, 6000),
        },
        fires=1430,
        resolved=7000,
        labels={"slo": "verdicts"},
        evaluated="10m",
    ),
    "SynthAgentTargetDown": Story(
        {'up{job="synthagent/synthagent",instance="a"}': f"{stays(0, 20)} {stays(1, 30)}"},
        fires=10,
        resolved=30,
        labels={"job": "synthagent/synthagent", "instance": "a"},
    ),
    "SynthAgentEpisodesWait": Story(
        {"synthagent_episodes_queue_age_seconds": f"{stays(400, 30)} {stays(3, 30)}"},
        fires=20,
        resolved=40,
        labels={},
    ),
    "SynthAgentNoEpisodeEnds": Story(
        {
            "synthagent_episodes_running": stays(4, 200),
            "synthagent_episodes_total": f"{stays(7, 120)} 7+1x80",
        },
        fires=100,
        resolved=130,
        labels={},
    ),
    "SynthAgentModelServerUnavailable": Story(
        {_MODEL % "answered": grows(10, 60, 10, 60), _MODEL % "unavailable": grows(10, 60, 0, 60)},
        fires=50,
        resolved=90,
        labels={"role": "judge"},
    ),
    "SynthAgentModelServerOverloaded": Story(
        {
            'synthagent_model_requests_waiting{role="user"}': f"{stays(90, 60)} {stays(1, 60)}",
            'synthagent_model_concurrency_limit{role="user"}': stays(32, 120),
        },
        fires=50,
        resolved=70,
        labels={"role": "user"},
    ),
    "SynthAgentModelAnswersUnusable": Story(
        {_MODEL % "answered": grows(10, 99, 10, 99), _MODEL % "malformed": grows(10, 99, 0, 99)},
        fires=90,
        resolved=150,
        labels={"role": "judge"},
    ),
    "SynthAgentUserUnfaithful": Story(
        {
            'synthagent_user_audits_total{outcome="faithful"}': grows(10, 99, 10, 99),
            'synthagent_user_audits_total{outcome="unfaithful"}': grows(5, 99, 0, 99),
        },
        fires=90,
        resolved=150,
        labels={},
    ),
    "SynthAgentJudgeAbstains": Story(
        {
            'synthagent_judge_votes_total{vote="yes"}': grows(1, 99, 10, 99),
            'synthagent_judge_votes_total{vote="abstain"}': grows(5, 99, 0, 99),
        },
        fires=90,
        resolved=150,
        labels={},
    ),
    "SynthAgentTasksRejected": Story(
        {
            'synthagent_tasks_rejected_total{gate="novelty"}': grows(100, 180, 0, 180),
            'synthagent_tasks_admitted_total{split="train"}': grows(1, 180, 100, 180),
        },
        fires=170,
        resolved=300,
        labels={},
    ),
    "SynthAgentStoreSlow": Story(
        {
            _COMMITS % "1.0": grows(10, 60, 30, 60),
            _COMMITS % "2.5": grows(30, 60, 30, 60),
            _COMMITS % "+Inf": grows(30, 60, 30, 60),
        },
        fires=50,
        resolved=90,
        labels={},
    ),
    "SynthAgentAuditLinesLost": Story(
        {'synthagent_audit_lines_lost_total{instance="a"}': "0x5 0+1x20 20x60"},
        fires=20,
        resolved=60,
        labels={"instance": "a"},
    ),
    "SynthAgentPolicyVersionsDiffer": Story(
        {
            'synthagent_policy_version{policy="default",instance="a"}': stays(9, 120),
            'synthagent_policy_version{policy="default",instance="b"}': (
                f"{stays(7, 60)} {stays(9, 60)}"
            ),
        },
        fires=50,
        resolved=70,
        labels={"policy": "default"},
    ),
    "SynthAgentTrainerStalled": Story(
        {"synthagent_trainer_step": f"0+1x5 {stays(5, 180)} 6+1x60"},
        fires=150,
        resolved=220,
        labels={},
    ),
}


def promtool_test(alert: rules.Alert, story: Story, rule_file: Path) -> dict[str, Any]:
    """The file that promtool reads."""
    fired = {
        "exp_labels": {"severity": "page" if alert.page else "ticket", **story.labels},
        "exp_annotations": None,
    }
    times = [(0, []), (story.fires, [fired]), (story.resolved, [])]
    return {
        "rule_files": [str(rule_file)],
        "evaluation_interval": story.evaluated,
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": k, "values": v} for k, v in story.series.items()],
                "alert_rule_test": [
                    {"alertname": alert.name, "eval_time": f"{minute}m", "exp_alerts": expected}
                    for minute, expected in times
                ],
            }
        ],
    }


@pytest.fixture(scope="module")
def rule_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed rules as a file of Prometheus, without annotations: promtool compares those
    with their templates filled in, and `test_the_file_of_rules_is_sound` reads them."""
    committed = Path("k8s/components/alerts/prometheus-rule.yaml")
    spec = yaml.safe_load(committed.read_text(encoding="utf-8"))["spec"]
    for group in spec["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations", None)
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return path


def test_the_file_of_rules_is_sound(tmp_path: Path) -> None:
    committed = Path("k8s/components/alerts/prometheus-rule.yaml")
    spec = yaml.safe_load(committed.read_text(encoding="utf-8"))["spec"]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    said = subprocess.run(
        [program("promtool"), "check", "rules", path], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    count = len(list(rules.recordings())) + len(rules.ALERTS)
    assert f"{count} rules found" in said.stdout


def test_there_is_a_story_of_every_alert() -> None:
    assert set(STORIES) == {alert.name for alert in rules.ALERTS}


@pytest.mark.parametrize("alert", rules.ALERTS, ids=lambda alert: alert.name)
def test_it_fires_and_resolves(alert: rules.Alert, rule_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(promtool_test(alert, STORIES[alert.name], rule_file)))
    said = subprocess.run(
        [program("promtool"), "test", "rules", path], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr
