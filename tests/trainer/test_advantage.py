"""Advantages: relative to the group, blind to INVALID, silent where rewards do not vary."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.advantage import batch_advantages, reward_statistics
from trainer.algorithms import Advantage

STANDARDISED, CENTRED = Advantage.GROUP_STANDARDISED, Advantage.GROUP_CENTRED

REWARDS = st.one_of(st.none(), st.integers(0, 20).map(lambda twentieths: twentieths / 20))
GROUPS = st.lists(REWARDS, min_size=1, max_size=12)


def of_group(
    rewards: Sequence[float | None], *, std: bool = True, gate: float = 0.0
) -> tuple[tuple[float | None, ...], int]:
    batch = batch_advantages([rewards], kind=STANDARDISED if std else CENTRED, gate=gate)
    return batch.values[0], batch.zero_variance_groups


@given(GROUPS, st.booleans())
def test_advantages_are_centred_and_keep_the_order_of_rewards(
    rewards: list[float | None],
    std: bool,  # noqa: FBT001 - drawn by position
) -> None:
    values, flat = of_group(rewards, std=std)
    assert len(values) == len(rewards)
    pairs = [(r, v) for r, v in zip(rewards, values, strict=True) if v is not None]
    if flat:
        assert pairs == []
        return
    assert abs(sum(v for _, v in pairs)) < 1e-6
    assert len(pairs) == sum(r is not None for r in rewards)
    by_reward = sorted(pairs, key=lambda pair: pair[0] or 0.0)
    assert [v for _, v in by_reward] == sorted(v for _, v in pairs)


@given(GROUPS)
def test_invalid_episodes_do_not_touch_the_others(rewards: list[float | None]) -> None:
    without = [reward for reward in rewards if reward is not None]
    values = [v for r, v in zip(rewards, of_group(rewards)[0], strict=True) if r is not None]
    assert values == list(of_group(without)[0])


@given(GROUPS)
def test_a_group_is_skipped_exactly_where_fewer_than_two_rewards_differ(
    rewards: list[float | None],
) -> None:
    varies = len({reward for reward in rewards if reward is not None}) > 1
    values, flat = of_group(rewards)
    assert flat == int(not varies)
    assert any(v is not None for v in values) == varies


@given(GROUPS, st.floats(0.1, 10), st.floats(-3, 3))
def test_divided_by_the_deviation_they_do_not_depend_on_scale_and_offset(
    rewards: list[float | None], scale: float, offset: float
) -> None:
    moved = [None if reward is None else reward * scale + offset for reward in rewards]
    # The gate is not of this property: below every reward it lets all pass.
    values = batch_advantages([rewards], kind=STANDARDISED, gate=-100).values[0]
    others = batch_advantages([moved], kind=STANDARDISED, gate=-100).values[0]
    for value, other in zip(values, others, strict=True):
        assert (value is None) == (other is None)
        if value is not None and other is not None:
            assert value == pytest.approx(other, abs=1e-3)


def test_values_are_those_of_the_formula() -> None:
    rewards = [0.0, 0.25, 1.0]
    values, _ = of_group([*rewards, None])
    deviation = stdev(rewards)
    assert values[:3] == pytest.approx(
        [(r - fmean(rewards)) / deviation for r in rewards], abs=1e-5
    )
    assert values[3] is None
    plain, _ = of_group([*rewards], std=False)
    assert plain == pytest.approx([r - fmean(rewards) for r in rewards])


def test_the_gate_silences_a_group_in_which_nobody_succeeded() -> None:
    assert of_group([0.1, 0.3], gate=0.5) == ((None, None), 1)
    values, flat = of_group([0.1, 0.6], gate=0.5)
    assert flat == 0
    assert None not in values


def test_statistics_exclude_invalid_episodes() -> None:
    found = reward_statistics([0.0, None, 1.0, 0.5])
    assert (found.mean, found.n, found.invalid) == (0.5, 3, 1)
    assert found.sem == pytest.approx(0.5 / 3**0.5)
    assert reward_statistics([None]).n == 0
    assert reward_statistics([1.0]).sem == 0.0
