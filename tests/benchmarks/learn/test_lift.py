import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.learn.lift import Lift, Mean, lift_of, lift_over_seeds

BEFORE = {"a": 0.0, "b": 0.5, "c": 0.25, "d": 0.25}
AFTER = {"a": 0.5, "b": 0.75, "c": 0.5, "d": 0.75}


def test_a_mean_has_the_standard_error_of_its_sample() -> None:
    mean = Mean.of([0.0, 0.5, 0.25, 0.25])
    assert mean.mean == 0.25
    assert mean.sem == pytest.approx(math.sqrt(0.125 / 3) / 2)
    assert mean.n == 4


def test_one_value_is_worth_no_certainty() -> None:
    assert Mean.of([0.3]).sem == math.inf
    with pytest.raises(ValueError, match="at least one value"):
        Mean.of([])


def test_both_errors_are_given_and_the_larger_one_decides() -> None:
    lift = lift_of(BEFORE, AFTER)
    assert lift.lift == pytest.approx(0.375)
    # Squares about the means: 0.0625 of the differences, 0.125 before, 0.0625 after.
    assert lift.errors["paired"] == pytest.approx(math.sqrt(0.0625 / 3) / 2)
    assert lift.errors["unpaired"] == pytest.approx(math.sqrt((0.125 + 0.0625) / 3) / 2)
    assert lift.sem == lift.errors["unpaired"]
    assert lift.reached


@pytest.mark.parametrize(
    ("lift", "sem", "verdict"),
    [
        (0.10, 0.04, "reached"),
        (0.10, 0.05, "missed"),
        (0.09, 0.01, "missed"),
        (0.3, math.inf, "missed"),
    ],
)
def test_the_goal_is_both_a_size_and_a_certainty(lift: float, sem: float, verdict: str) -> None:
    some = Mean(0.5, 0.1, 9)
    given = Lift(some, some, lift, {"paired": 0.001, "unpaired": sem})
    assert given.reached is (verdict == "reached")


def test_only_tasks_judged_both_times_count() -> None:
    lift = lift_of({**BEFORE, "lost": 1.0}, {**AFTER, "new": 0.0})
    assert (lift.before.n, lift.after.n) == (4, 4)
    assert lift.lift == lift_of(BEFORE, AFTER).lift
    with pytest.raises(ValueError, match="1 tasks were judged both"):
        lift_of(BEFORE, {"a": 1.0})


def test_over_seeds_the_spread_of_their_lifts_counts_too() -> None:
    worse = {task: reward - 0.25 for task, reward in AFTER.items()}
    lift = lift_over_seeds([(BEFORE, AFTER), (BEFORE, worse)])
    assert lift.lift == pytest.approx(0.25)
    assert lift.errors["seeds"] == pytest.approx(0.125)  # of 0.375 and 0.125
    assert set(lift.errors) == {"paired", "unpaired", "seeds"}
    with pytest.raises(ValueError, match="at least two"):
        lift_over_seeds([(BEFORE, AFTER)])


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=20))
def test_a_lift_is_the_difference_of_its_means(pairs: list[tuple[float, float]]) -> None:
    before = {str(number): pair[0] for number, pair in enumerate(pairs)}
    after = {str(number): pair[1] for number, pair in enumerate(pairs)}
    lift = lift_of(before, after)
    assert lift.lift == pytest.approx(lift.after.mean - lift.before.mean, abs=1e-9)
