"""Schedules: the same again from the same seed, every kind and every service struck."""

import pytest

from benchmarks.chaos.schedule import DATABASE, LONGEST, WEIGHTS, WORKER, FaultKind, schedule
from benchmarks.cluster import SERVICES


def test_a_schedule_follows_from_its_seed() -> None:
    assert schedule(7, 120, 300.0) == schedule(7, 120, 300.0)
    assert schedule(7, 120, 300.0) != schedule(8, 120, 300.0)


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_strikes_as_soon_as_the_deck_is_through(seed: int) -> None:
    count = sum(WEIGHTS.values())
    struck = [fault.kind for fault in schedule(seed, count, 60.0)]
    assert {kind: struck.count(kind) for kind in FaultKind} == WEIGHTS


def test_faults_are_spread_over_the_time_in_order() -> None:
    faults = schedule(1, 100, 200.0)
    times = [fault.at for fault in faults]
    assert times == sorted(times)
    assert all(2.0 * number <= at <= 2.0 * (number + 1) for number, at in enumerate(times))


def test_every_service_the_database_and_workers_are_struck() -> None:
    faults = schedule(1, 120, 300.0)
    killed = {fault.target for fault in faults if fault.kind is FaultKind.KILL}
    assert killed == {*SERVICES, DATABASE, WORKER}
    for kind in (FaultKind.FREEZE, FaultKind.CLOCK_JUMP, FaultKind.OUT_OF_MEMORY):
        assert {fault.target for fault in faults if fault.kind is kind} == set(SERVICES)


def test_faults_last_as_long_as_their_kind_allows() -> None:
    for fault in schedule(3, 200, 300.0):
        longest = LONGEST.get(fault.kind, 0.0)
        assert 0.2 * longest <= fault.seconds <= longest
