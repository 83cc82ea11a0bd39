from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.rollout.policy.sampling import Choice, sample, uniform


@given(st.integers(min_value=0, max_value=2**64 - 1), st.integers(min_value=0, max_value=2**40))
def test_noise_is_a_function_of_seed_and_position(seed: int, position: int) -> None:
    noise = uniform(seed, position)
    assert 0 <= noise < 1
    assert noise == uniform(seed, position)
    assert noise != uniform(seed, position + 1)


def test_noise_is_uniform_and_fixed_for_ever() -> None:
    draws = torch.tensor([uniform(seed, at) for seed in range(50) for at in range(100)])
    counts = torch.histc(draws, bins=10, min=0, max=1)
    assert float(((counts - 500) ** 2 / 500).sum()) < 27.9  # chi-squared, 9 degrees, p = 0.001
    assert uniform(7, 330) == pytest.approx(0.22819191929712124, abs=1e-15)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_tokens_follow_the_distribution(temperature: float) -> None:
    logits = torch.tensor([[1.0, -1.0, 0.5, 2.0, -float("inf")]])
    draws = 4000
    choices = [Choice(temperature, 1.0, (i + 0.5) / draws) for i in range(draws)]
    tokens, logprobs = sample(logits.expand(draws, -1), choices)
    expected = (logits[0] / temperature).softmax(-1)
    shares = torch.bincount(torch.tensor(tokens), minlength=5) / draws
    torch.testing.assert_close(shares, expected, atol=1 / draws, rtol=0)
    plain = logits[0].log_softmax(-1)
    assert logprobs == pytest.approx([float(plain[token]) for token in tokens], abs=1e-6)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    kept = {
        top_p: {sample(logits, [Choice(1.0, top_p, u / 100)])[0][0] for u in range(100)}
        for top_p in (0.01, 0.39, 0.41, 0.7, 0.89, 1.0)
    }
    assert kept == {
        0.01: {1},
        0.39: {1},
        0.41: {1, 3},
        0.7: {1, 3},
        0.89: {1, 2, 3},
        1.0: {0, 1, 2, 3},
    }


def test_top_p_beyond_the_first_candidates() -> None:
    logits = torch.zeros(1, 5000)
    tokens = {sample(logits, [Choice(1.0, 0.9, u / 500)])[0][0] for u in range(500)}
    assert len(tokens) == 500


def test_rows_do_not_depend_on_each_other() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 1000)
    choices = [
        Choice(0.0, 1.0, 0.3),
        Choice(1.0, 1.0, 0.999999),
        Choice(0.7, 1.0, 0.0),
        Choice(1.0, 0.5, 0.6),
        Choice(2.0, 0.9, 0.2),
        Choice(1.0, 1.0, 0.5),
    ]
    tokens, logprobs = sample(logits, choices)
    for row, choice in enumerate(choices):
        alone = sample(logits[row : row + 1], [choice])
        assert alone[0] == [tokens[row]]
        assert alone[1] == pytest.approx([logprobs[row]])
    assert tokens[0] == int(logits[0].argmax())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_numbers_show_in_the_log_probability(temperature: float) -> None:
    logits = torch.full((1, 10), float("nan"))
    tokens, logprobs = sample(logits, [Choice(temperature, 1.0, 0.5)])
    assert 0 <= tokens[0] < 10
    assert not math.isfinite(logprobs[0])
