"""The data that routes are drawn from, and the wanted mix of a request."""

from __future__ import annotations

import pytest

from services.task_synthesis import routes
from services.task_synthesis.personas import groups
from services.task_synthesis.routes import Weight
from synthagent.errors import InvalidInput
from synthagent.worlds.compose import DIFFICULTIES, domains
from synthagent.worlds.spec import Split

KNOWN = routes.values(Split.TRAIN, groups())


def targets(*weights: Weight, **only: tuple[str, ...]) -> routes.Targets:
    return routes.targets(KNOWN, weights, field="model.routes", only=only)


def test_there_is_enough_to_draw_from_and_splits_share_nothing() -> None:
    ours = {split: set(routes.domains(split)) for split in Split}
    assert len(ours[Split.TRAIN]) + len(ours[Split.HELD_OUT]) >= 40
    assert min(map(len, ours.values())) >= 10
    assert not ours[Split.TRAIN] & ours[Split.HELD_OUT]
    for split in Split:
        assert not ours[split] & {name for other in Split for name in domains(other)}
        assert all(routes.split_of(name) is split for name in ours[split])
    assert routes.split_of("bakery") is None
    assert len(routes.tool_families()) >= 16
    assert set(routes.difficulties()) == set(DIFFICULTIES)
    assert set(KNOWN) == set(routes.DIMENSIONS)


def test_every_value_says_what_it_is() -> None:
    texts = [
        *routes.domains(Split.TRAIN).values(),
        *routes.domains(Split.HELD_OUT).values(),
        *routes.tool_families().values(),
        *routes.difficulties().values(),
    ]
    assert all(len(text.split()) >= 3 for text in texts)
    assert len(set(texts)) == len(texts)


def test_a_dimension_that_is_not_named_is_even() -> None:
    wanted = targets(Weight("length", "short", 3), Weight("length", "long", 1))
    assert wanted["length"] == {"short": 0.75, "long": 0.25}
    assert set(wanted["domain"].values()) == {1 / len(KNOWN["domain"])}
    for shares in wanted.values():
        assert sum(shares.values()) == pytest.approx(1.0)


def test_weights_may_be_of_any_size_and_nothing_weighs_nothing() -> None:
    wanted = targets(
        Weight("length", "short", 1e308),
        Weight("length", "long", 1e308),
        Weight("length", "medium", 0.0),
    )
    assert wanted["length"] == {"short": 0.5, "long": 0.5}


def test_what_the_request_names_elsewhere_narrows_a_dimension() -> None:
    wanted = targets(domain=("payroll", "ice_rink"), difficulty=("mini",))
    assert wanted["domain"] == {"payroll": 0.5, "ice_rink": 0.5}
    assert wanted["difficulty"] == {"mini": 1.0}


@pytest.mark.parametrize(
    ("weights", "field", "words"),
    [
        ([Weight("lenght", "short", 1)], "[0].dimension", "did you mean 'length'"),
        ([Weight("length", "shorts", 1)], "[0].value", "did you mean 'short'"),
        ([Weight("length", "short", -1)], "[0].weight", "at least 0"),
        ([Weight("length", "short", float("nan"))], "[0].weight", "at least 0"),
        ([Weight("length", "short", float("inf"))], "[0].weight", "at least 0"),
        ([Weight("length", "short", 1), Weight("length", "short", 2)], "[1].value", "second"),
        ([Weight("length", "short", 0)], "", "All weights of the dimension length are 0"),
        ([Weight("domain", "ice_rink", 1)], "[0].value", "no domain 'ice_rink'"),
    ],
)
def test_weights_that_are_refused(weights: list[Weight], field: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        targets(*weights)
    assert caught.value.field == f"model.routes{field}"
