from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthagent.worlds.criteria import Section
from synthagent.worlds.episode import CriterionResult
from synthagent.worlds.rewards import REWARD_PRESETS, Fractions, fractions, outcome_gate, reward
from tests.example_task import example_task

SHARE = st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1)
TASK = example_task()


@pytest.mark.parametrize(
    ("preset", "policy", "sub_goal", "interaction", "expected"),
    [
        ("paper", 1.0, 1.0, 1.0, 1.0),
        ("paper", 1.0, 0.5, 1.0, 0.75),
        ("paper", 0.9, 1.0, 1.0, 0.0),
        ("paper", None, 0.5, None, 0.5),
        ("paper", None, None, 0.5, 0.5),
        ("paper", 1.0, None, None, 0.0),
        ("paper", 1.0, 0.0, 0.0, 0.0),
        ("paper_code", 1.0, 1.0, 1.0, 1.0),
        ("paper_code", 1.0, 0.5, 1.0, 0.65),
        ("paper_code", 0.5, 1.0, 1.0, 1.0),
        ("paper_code", 0.49, 1.0, 1.0, 0.0),
        ("paper_code", 1.0, 0.29, 1.0, 0.0),
        ("paper_code", 1.0, 0.3, 0.0, 0.21),
        ("paper_code", 1.0, 0.5, None, 0.5),
        ("no_restriction_gate", 0.0, 1.0, 0.5, 0.75),
        ("no_interaction", 1.0, 0.5, 1.0, 0.5),
        ("no_interaction", 0.9, 1.0, 1.0, 0.0),
        ("no_interaction", 1.0, None, 1.0, 0.0),
    ],
)
def test_presets(
    preset: str,
    policy: float | None,
    sub_goal: float | None,
    interaction: float | None,
    expected: Any,
) -> None:
    worth = reward(REWARD_PRESETS[preset], Fractions(policy, sub_goal, interaction))
    assert worth == pytest.approx(expected)


@given(
    shares=st.builds(Fractions, SHARE, SHARE, SHARE),
    preset=st.sampled_from(list(REWARD_PRESETS)),
)
def test_a_reward_is_in_range_and_grows_with_its_parts(shares: Fractions, preset: str) -> None:
    worth = reward(REWARD_PRESETS[preset], shares)
    assert 0 <= worth <= 1
    if shares.sub_goal is not None:
        better = Fractions(shares.policy, 1.0, shares.interaction)
        assert reward(REWARD_PRESETS[preset], better) >= worth - 1e-12


@given(satisfied=st.lists(st.booleans(), min_size=7, max_size=7))
def test_fractions_are_shares_of_each_section(satisfied: Any) -> None:
    results = [
        CriterionResult(criterion_id=c.criterion_id, satisfied=s, explanation="")
        for c, s in zip(TASK.criteria, satisfied, strict=True)
    ]
    shares = fractions(TASK, results)
    for section, share in (
        (Section.POLICY, shares.policy),
        (Section.SUB_GOAL, shares.sub_goal),
        (Section.INTERACTION, shares.interaction),
    ):
        of = [s for c, s in zip(TASK.criteria, satisfied, strict=True) if c.section is section]
        assert share == pytest.approx(sum(of) / len(of))


def test_a_group_without_success_loses_its_shape() -> None:
    assert outcome_gate([0.2, None, 0.7], 0.9) == [0.0, None, 0.0]
    assert outcome_gate([0.2, None, 0.9], 0.9) == [0.2, None, 0.9]
    assert outcome_gate([None, None], 0.5) == [None, None]
    assert outcome_gate([], 0.5) == []
