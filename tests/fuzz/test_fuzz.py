"""A short, seeded part of `make fuzz`, and that the confinement finds what it must find."""

import pytest

from tests.fuzz import confined
from tests.fuzz.__main__ import run
from tests.fuzz.confined import Job
from tests.fuzz.targets import TARGETS


def test_nothing_is_found() -> None:
    """All targets in turn, in one process."""
    result = run(Job(list(TARGETS), seed="make test", runs=800, warm_up=300, seconds=60.0))
    assert not result.why, f"{result.target}: {result.output}"
    assert result.runs == 800


@pytest.mark.parametrize(
    ("target", "why", "said"),
    [
        ("opens_a_file", "it reached outside", "FORBIDDEN: open ('/etc/passwd'"),
        ("opens_a_socket", "it reached outside", "FORBIDDEN: socket."),
        ("starts_a_process", "it reached outside", "FORBIDDEN: "),
        ("runs_code", "it reached outside", "FORBIDDEN: exec"),
        ("attaches_a_database", "it reached outside", "FORBIDDEN: sqlite3.connect"),
        ("raises", "it raised", "ZeroDivisionError"),
        ("grows", "the process grew", "growth_bytes"),
    ],
)
def test_the_confinement_finds(target: str, why: str, said: str) -> None:
    """Targets that do what must be found."""
    result = run(Job([target], module="tests.fuzz.misdeeds", runs=100, warm_up=0))
    assert result.why.startswith(why), result.output
    assert said in result.output
    assert result.target == target


def test_an_input_is_the_same_for_the_same_seed() -> None:
    assert confined.random_input("s", 3) == confined.random_input("s", 3)
    assert confined.random_input("s", 3) != confined.random_input("s", 4)
