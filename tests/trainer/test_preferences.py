"""Pairs of sibling actions, and the loss that prefers one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trainer.loss import preference_loss
from trainer.packing import Sample, pack
from trainer.preferences import action_pairs

PROMPT, OBSERVED = [1, 2, 3], [9, 9]


def episode(name: str, *turns: list[int]) -> Sample:
    """A prompt, then turns of the policy with an observation between."""
    ids, mask = list(PROMPT), [False] * len(PROMPT)
    for number, turn in enumerate(turns):
        ids += (OBSERVED if number else []) + turn
        mask += ([False] * len(OBSERVED) if number else []) + [True] * len(turn)
    array = np.array(mask)
    return Sample(
        name,
        np.array(ids, dtype=np.int64),
        array,
        np.where(array, -1.0, 0.0).astype(np.float32),
        len(PROMPT),
    )


def action(sample: Sample) -> list[int]:
    return [int(token) for token in sample.token_ids[sample.policy_mask]]


def test_the_best_and_the_worst_action_at_each_shared_prefix_are_paired() -> None:
    group = [
        (episode("a", [5], [6]), 1.0),
        (episode("b", [5], [7]), 0.2),
        (episode("c", [4], [6]), 0.0),
        (episode("d", [8], [6]), 0.3),
        (episode("e", [5], [7]), None),
    ]
    (first, second) = action_pairs([group], min_gap=0.1)
    assert [action(sample) for sample in first] == [[5], [4]]
    assert first[0].prompt_tokens == first[1].prompt_tokens == len(PROMPT)
    assert [action(sample) for sample in second] == [[6], [7]]
    assert list(second[0].token_ids[: second[0].prompt_tokens]) == [*PROMPT, 5, *OBSERVED]
    assert np.array_equal(second[0].token_ids[:-1], second[1].token_ids[:-1])


def test_actions_that_led_to_the_same_are_no_pair() -> None:
    group = [(episode("a", [5]), 0.5), (episode("b", [6]), 0.55), (episode("c", [6]), None)]
    assert action_pairs([group], min_gap=0.1) == []
    assert len(action_pairs([group], min_gap=0.05)) == 1


def test_siblings_that_act_alike_are_no_pair() -> None:
    group = [(episode("a", [5]), 1.0), (episode("b", [5]), 0.0)]
    assert action_pairs([group], min_gap=0.1) == []


def test_different_prefixes_are_never_compared() -> None:
    group = [(episode("a", [5], [6]), 1.0), (episode("b", [4], [7]), 1.0)]
    assert action_pairs([group], min_gap=0.1) == []


def test_a_pair_stays_in_one_row_however_long() -> None:
    group = [(episode("a", list(range(10, 40))), 1.0), (episode("b", list(range(40, 70))), 0.0)]
    (row,) = pack(action_pairs([group], 0.1), 20, whole=True)
    assert row.sample_ids == ("a@3", "b@3")


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_the_loss_is_that_of_the_paper(beta: float) -> None:
    """arXiv 2305.18290, eq. 7."""
    rng = np.random.default_rng(4)
    index = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])
    new = torch.tensor(-rng.random(8) * 3, requires_grad=True)
    reference = torch.tensor(-rng.random(8) * 3)
    total, margins = preference_loss(new, reference, index, beta)
    torch.autograd.backward(total)
    expected = 0.0
    for chosen, rejected in ((0, 1), (2, 3)):
        gains = (new - reference).detach()
        won, lost = float(gains[index == chosen].sum()), float(gains[index == rejected].sum())
        expected -= math.log(1 / (1 + math.exp(-beta * (won - lost))))
    assert total.item() == pytest.approx(expected)
    assert len(margins) == 2
    assert new.grad is not None
    assert (new.grad[index % 2 == 0] < 0).all()
    assert (new.grad[index % 2 == 1] > 0).all()
