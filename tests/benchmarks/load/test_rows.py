"""Goals of the load can be missed, and a row says so."""

from array import array
from collections import Counter

from benchmarks.load import rows
from benchmarks.load.driving import Driven
from benchmarks.load.phases import Crowded, Held, Overloaded
from benchmarks.load.watch import Watch
from benchmarks.results import Result


def driven(calls: int = 1000, told: int = 0, **errors: int) -> Driven:
    return Driven(10.0, array("d", [0.01]) * calls, Counter(errors), told)


def held(growth: float = 0.0, **errors: int) -> Held:
    watch = Watch([], 60.0)
    watch.samples = [(float(second), 200.0 + growth * second) for second in range(60)]
    watch.cpu_seconds = 5.0
    return Held(driven(**errors), watch)


def missed(results: list[Result]) -> list[str]:
    return [result.name for result in results if result.reached is False]


def test_steps_of_a_core_are_compared_with_the_peer() -> None:
    assert missed(rows.of_peer(2000.0, 1000.0, 9)) == []
    name = "load_steps_per_core_second_9_sessions"
    assert missed(rows.of_peer(1999.0, 1000.0, 9)) == [name]


def test_errors_and_growth_of_sessions_are_missed_goals() -> None:
    good = rows.of_sessions("embedded", held(), 50, 400.0)
    assert missed(good) == []
    by_name = {result.name.removeprefix("load_embedded_50_sessions"): result for result in good}
    assert by_name[""].value == 100.0
    assert by_name["_per_core_second"].ratio == 0.5
    assert by_name["_memory_slope"].value == 0.0
    bad = rows.of_sessions("embedded", held(growth=0.5, UNAVAILABLE=1), 50, 400.0)
    assert missed(bad) == ["load_embedded_50_sessions_errors", "load_embedded_50_sessions_memory"]


def test_a_refusal_without_a_time_a_collapse_and_an_error_are_missed_goals() -> None:
    refused = driven(0, told=30, RESOURCE_EXHAUSTED=30)
    assert (
        missed(rows.of_twice_the_sessions(Crowded(0.1, driven(), driven(), refused, driven())))
        == []
    )
    silent = driven(0, told=29, RESOURCE_EXHAUSTED=29, UNAVAILABLE=1)
    bad = Crowded(0.1, driven(), driven(790, INTERNAL=1), silent, driven(UNAVAILABLE=1))
    assert missed(rows.of_twice_the_sessions(bad)) == [
        "load_twice_the_sessions_answered",
        "load_twice_the_sessions_refused_with_retry_info",
        "load_twice_the_sessions_errors",
        "load_twice_the_sessions_after_errors",
    ]


def test_calls_may_be_refused_and_not_fail() -> None:
    twice = driven(900, told=50, RESOURCE_EXHAUSTED=50, CANCELLED=950)
    assert missed(rows.of_twice_the_calls(Overloaded(driven(), twice, driven()))) == []
    bad = Overloaded(driven(), driven(700, UNAVAILABLE=1), driven(INTERNAL=1))
    assert missed(rows.of_twice_the_calls(bad)) == [
        "load_twice_the_calls_answered",
        "load_twice_the_calls_errors",
        "load_twice_the_calls_after_errors",
    ]
