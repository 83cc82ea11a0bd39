"""Rows: every policy token once, nothing else, within the budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.tiny import make_groups
from trainer.packing import Sample, blank_row, pack


def sample(ids: list[int], mask: list[bool], prompt: int, name: str = "s") -> Sample:
    return Sample(name, np.array(ids), np.array(mask), np.zeros(len(ids), np.float32), prompt, 0.5)


@given(
    st.integers(0, 1000),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(4, 20),
    st.integers(1, 200),
)
def test_masks_cover_exactly_the_policys_tokens(
    seed: int, groups: int, size: int, length: int, budget: int
) -> None:
    made = make_groups(seed, groups=groups, size=size, length=length)
    samples = {s.sample_id: s for group in made for s in group}
    seen: list[str] = []
    for row in pack(made, budget):
        for index, name in enumerate(row.sample_ids):
            own = row.sample_index == index
            wanted = samples[name]
            assert row.targets[own].tolist() == wanted.token_ids[wanted.policy_mask].tolist()
            assert row.old_logprobs[own].tolist() == wanted.logprobs[wanted.policy_mask].tolist()
            assert np.allclose(row.advantages[own], wanted.advantage)
            # A target at position t of its own sequence is predicted from position t - 1.
            predicted_at = row.position_ids[row.predictors[own]]
            assert predicted_at.tolist() == (np.flatnonzero(wanted.policy_mask) - 1).tolist()
            seen.append(name)
    assert sorted(seen) == sorted(samples)


@given(st.integers(0, 100), st.integers(30, 120))
def test_rows_keep_the_budget_and_lay_tokens_in_order(seed: int, budget: int) -> None:
    for row in pack(make_groups(seed, groups=4), budget):
        assert row.tokens <= budget
        cursor = 0
        for tree in row.trees:
            assert tree.prompt[0] == cursor
            assert row.position_ids[tree.prompt[0]] == 0
            cursor = tree.prompt[1]
            for start, end in tree.branches:
                assert start == cursor
                assert row.position_ids[start] == tree.prompt[1] - tree.prompt[0]
                cursor = end
        assert cursor == row.tokens


def test_a_shared_prompt_is_computed_once() -> None:
    group = make_groups(groups=1, size=4, prompt=20)[0]
    (row,) = pack([group], 1000)
    assert row.tokens == 20 + sum(len(s.token_ids) - 20 for s in group)
    assert len(row.trees) == 1
    assert len(row.trees[0].branches) == 4


def test_a_tree_that_does_not_fit_is_cut_between_branches() -> None:
    group = make_groups(groups=1, size=6, prompt=20)[0]
    rows = pack([group], 40)
    assert len(rows) > 1
    assert all(tree.prompt[1] - tree.prompt[0] == 20 for row in rows for tree in row.trees)


def test_a_sample_longer_than_a_row_gets_its_own() -> None:
    group = make_groups(groups=1, size=1, prompt=30)[0]
    (row,) = pack([group], 8)
    assert row.tokens == len(group[0].token_ids)


def test_the_first_policy_token_is_predicted_from_the_prompts_end() -> None:
    one = sample([1, 2, 3, 4], [False, False, True, False], 2, "a")
    two = sample([1, 2, 5, 6], [False, False, True, True], 2, "b")
    (row,) = pack([[one, two]], 100)
    assert row.token_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert row.position_ids.tolist() == [0, 1, 2, 3, 2, 3]
    assert row.predictors.tolist() == [1, 1, 4]
    assert row.targets.tolist() == [3, 5, 6]


def test_samples_without_policy_tokens_are_left_out() -> None:
    assert pack([[sample([1, 2, 3], [False] * 3, 2)]], 100) == []


def test_a_blank_row_carries_no_loss() -> None:
    assert len(blank_row().targets) == 0
    assert blank_row().tokens == 2


@pytest.mark.parametrize(("mask", "prompt"), [([True, True], 1), ([False, True], 0)])
def test_a_sample_begins_with_a_prompt(mask: list[bool], prompt: int) -> None:
    with pytest.raises(ValueError, match="must begin with a prompt"):
        sample([1, 2], mask, prompt)
