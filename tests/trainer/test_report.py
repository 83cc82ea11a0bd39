"""The report is drawn from a run's folder, whatever state the run left it in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from synthagent.errors import NotFound
from trainer import config as configuration
from trainer.metrics import MetricsLog
from trainer.report import write_report


def run_folder(path: Path) -> MetricsLog:
    path.mkdir()
    configuration.write(
        configuration.parse({"run": {"name": "died"}, "rl": {"steps": 5}}), path / "config.toml"
    )
    return MetricsLog(path / "metrics.jsonl", port=None)


def test_a_run_that_died_is_told_as_far_as_it_came(tmp_path: Path) -> None:
    log = run_folder(tmp_path / "run")
    log.record(
        "evaluate",
        step=0,
        label="before",
        mean_reward=0.25,
        reward_sem=0.05,
        n=8,
        invalid=1,
        seconds=4.0,
    )
    for step in (1, 2):
        log.record(
            "rl",
            step=step,
            loss=0.5,
            mean_reward=0.25 * step,
            reward_sem=0.1,
            n=7,
            invalid=1,
            zero_variance_groups=2,
            staleness=0.5,
            sampling_gap=0.01,
            imbalance=1.5,
            wait_seconds=3.0,
            scoring_seconds=0.5,
            update_seconds=2.0,
            publish_seconds=1.0,
            checkpoint_seconds=1.5,
            seconds=2.5,
            step_seconds=7.0,
        )
    with (tmp_path / "run" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"stage":"rl","st')
    done = subprocess.run(
        [sys.executable, "-m", "trainer.report", str(tmp_path / "run")],
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ,
    )
    assert done.stdout.strip() == f"{tmp_path}/run/report.md"
    text = (tmp_path / "run" / "report.md").read_text()
    assert "| before | 0.250 | 0.050 | 8 | 1 |" in text
    assert "2 of 5 steps so far; 14 episodes with a reward, 2 INVALID, 4 groups" in text
    assert "| waiting for episodes | 6.0 | 29% |" in text  # of 21: 14 in steps, 3 and 4 outside
    assert "| evaluations | 4.0 | 19% |" in text
    assert "| other | 1.0 | 5% |" in text
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_a_row_has_a_report_and_another_folder_has_none(tmp_path: Path) -> None:
    run_folder(tmp_path / "run")
    write_report(tmp_path / "run")
    assert "# died" in (tmp_path / "run" / "report.md").read_text()
    assert not (tmp_path / "run" / "curves.png").exists()
    with pytest.raises(NotFound, match="is no run folder"):
        write_report(tmp_path)
