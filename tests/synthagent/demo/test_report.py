import json
from pathlib import Path

from synthagent.demo.report import Report, Score, markdown, write

STEP = {
    "loss": 0.25,
    "mean_reward": 0.5,
    "tokens": 1200,
    "seconds": 3.5,
    "zero_variance_groups": 1,
    "invalid": 2,
}


def filled() -> Report:
    report = Report(requested=3, admitted=2, rejected_by_gate={"novelty": 1}, command="make demo")
    report.agents["gold"] = Score(1.0, 0.0, 2)
    report.policy |= {
        "before": Score(0.1, 0.05, 24),
        "after_sft": Score(0.6, 0.04, 24),
        "after_rl": Score(0.7, 0.04, 23, invalid=1),
    }
    report.rl_steps = [STEP, STEP | {"loss": None, "tokens": 0}]
    report.seconds = {"synthesize": 1.25, "total": 9.0}
    report.conversation = "user Please book a court."
    return report


def test_all_three_files_are_left_and_the_json_has_every_figure(tmp_path: Path) -> None:
    write(filled(), tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["tasks"] == {"requested": 3, "admitted": 2, "rejected_by_gate": {"novelty": 1}}
    assert report["agents"]["gold"] == {"mean_reward": 1.0, "sem": 0.0, "n": 2, "invalid": 0}
    assert set(report["policy"]) == {"before", "after_sft", "after_rl"}
    assert set(STEP) <= set(report["rl"]["steps"][0])
    assert report["seconds"] == {"synthesize": 1.2, "total": 9.0}
    assert {"peak_rss_mb", "versions"} <= set(report)
    assert (tmp_path / "learning-curve.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "learning-curve.png",
        "report.json",
        "report.md",
    ]


def test_a_step_without_an_update_has_no_loss() -> None:
    rows = [line for line in markdown(filled()).splitlines() if line.startswith(("| 1 ", "| 2 "))]
    assert rows[0].startswith("| 1 | 0.2500 |")
    assert rows[1].startswith("| 2 | none |")
