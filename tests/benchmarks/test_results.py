import json
from pathlib import Path

from benchmarks.results import Result, write


def test_rows_have_exactly_the_agreed_fields(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write([Result("calls", 50.0, "calls/s", "echo", 80.0, 0.5)], path)
    (row,) = json.loads(path.read_text())
    assert row == {
        "name": "calls",
        "value": 50.0,
        "unit": "calls/s",
        "reference": "echo",
        "reference_value": 80.0,
        "ratio": 0.625,
    }
    assert [item.name for item in tmp_path.iterdir()] == ["results.json"]


def test_a_goal_is_a_bound_from_below_or_above() -> None:
    assert Result("rate", 50, "1/s", "echo", 100, 0.5).reached is True
    assert Result("rate", 49, "1/s", "echo", 100, 0.5).reached is False
    assert Result("memory", 260, "MB", "goal", 250, 1.0, at_least=False).reached is False
    assert Result("p99", 1, "ms", "echo", 1).reached is None
