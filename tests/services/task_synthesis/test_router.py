"""The mix of routes is held although routes fail, and nothing blocks."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.task_synthesis.router import PATIENCE, Router, distances

WEIGHTS = {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}
EVEN = dict.fromkeys(("short", "medium", "long"), 1 / 3)


def admit(
    router: Router, count: int, fails: dict[str, float], *, in_flight: int = 1, seed: int = 0
) -> int:
    """Settles items in order until `count` are admitted; how many that took."""
    rng = Random(seed)
    flying: list[dict[str, str]] = []
    admitted = tried = 0
    while admitted < count:
        while len(flying) < min(in_flight, count - admitted):
            flying.append(router.draw())
            tried += 1
        route = flying.pop(0)
        succeeds = rng.random() >= fails.get(route["domain"], 0.0)
        router.settle(route, admitted=succeeds)
        admitted += succeeds
        assert tried < 100 * count, "the request is blocked"
    return tried


@settings(max_examples=60, deadline=None)
@given(
    fails=st.fixed_dictionaries({value: st.floats(0.0, 0.8) for value in WEIGHTS}),
    in_flight=st.integers(1, 8),
    seed=st.integers(0, 2**32),
)
def test_targets_are_held_under_failing_routes(
    fails: dict[str, float], in_flight: int, seed: int
) -> None:
    router = Router({"domain": WEIGHTS, "length": EVEN}, seed)
    admit(router, 200, fails, in_flight=in_flight, seed=seed)
    found = router.distances()
    assert found["domain"] <= 0.08
    assert found["length"] <= 0.08
    assert router.distance() == pytest.approx(sum(found.values()) / 2)


def test_drawing_by_weight_alone_would_not_hold_them() -> None:
    """What the bound of the property is worth: the naive mix under the same failures."""
    fails = {"a": 0.8, "b": 0.0, "c": 0.5, "d": 0.1}
    rng = Random(0)
    drawn = rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=2000)
    kept = [value for value in drawn if rng.random() >= fails[value]]
    naive = sum(abs(share - kept.count(v) / len(kept)) for v, share in WEIGHTS.items()) / 2
    router = Router({"domain": WEIGHTS}, 0)
    admit(router, 200, fails)
    assert router.distance() < 0.03
    assert naive > 0.25


@pytest.mark.parametrize("hopeless", ["a", "d"])
def test_a_hopeless_value_is_wanted_still_and_blocks_nothing(hopeless: str) -> None:
    router = Router({"domain": WEIGHTS, "length": EVEN}, 1)
    count = 200
    tried = admit(router, count, {hopeless: 1.0}, in_flight=4)
    share = WEIGHTS[hopeless]
    assert router.attempted("domain", hopeless) <= PATIENCE * share * (count + 1) + PATIENCE
    assert router.attempted("domain", hopeless) >= PATIENCE * share * count / 2, "still wanted"
    assert tried <= count * (1 + PATIENCE * share) + PATIENCE
    others = {v: s.admitted for v in WEIGHTS for s in router.shares() if s.value == v}
    for value, target in WEIGHTS.items():
        if value != hopeless:
            assert others[value] >= target - 0.01, "nobody pays for it with their share"
    assert router.distances()["length"] <= 0.02


def test_one_good_value_among_hopeless_ones_is_enough() -> None:
    values = dict.fromkeys("abcdefghij", 0.1)
    for count in (1, 3, 30):
        router = Router({"domain": values}, count)
        tried = admit(router, count, dict.fromkeys("abcdefghi", 1.0), in_flight=4)
        assert tried <= 10 * count, "what items_per_task allows by default"


def test_decisions_follow_from_seed_and_settlements() -> None:
    def routes(seed: int) -> list[dict[str, str]]:
        router = Router({"domain": WEIGHTS, "length": EVEN}, seed)
        found = []
        for number in range(30):
            found.append(router.draw())
            router.settle(found[-1], admitted=number % 3 > 0)
        return found

    assert routes(5) == routes(5)
    assert routes(5) != routes(6)


def test_a_router_that_is_led_through_what_happened_goes_on_as_before() -> None:
    first, second = (Router({"domain": WEIGHTS, "length": EVEN}, 7) for _ in range(2))
    for number in range(20):
        route = first.draw()
        second.follow(route)
        for router in (first, second):
            router.settle(route, admitted=number % 2 > 0)
    assert [first.draw() for _ in range(10)] == [second.draw() for _ in range(10)]


def test_dimensions_do_not_move_in_step() -> None:
    router = Router({"domain": dict.fromkeys("pqr", 1 / 3), "length": EVEN}, 0)
    pairs = set()
    for _ in range(60):
        route = router.draw()
        router.settle(route, admitted=True)
        pairs.add((route["domain"], route["length"]))
    assert len(pairs) == 9


def test_nothing_admitted_is_nothing_of_the_mix() -> None:
    router = Router({"domain": WEIGHTS}, 0)
    assert router.distances() == {"domain": 1.0}
    route = router.draw()
    router.settle(route, admitted=True)
    assert router.distance() == pytest.approx(1.0 - WEIGHTS[route["domain"]])
    assert distances(()) == {}


def test_a_value_that_left_the_targets_is_counted_nowhere() -> None:
    router = Router({"domain": {"a": 1.0}}, 0)
    router.follow({"domain": "gone"})
    router.settle({"domain": "gone"}, admitted=True)
    assert router.attempted("domain", "gone") == 0
    assert router.distance() == 1.0
