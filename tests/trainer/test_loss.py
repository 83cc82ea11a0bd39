"""The clipped objective, bound by bound."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.loss import Clipping, Correction, imitation_loss, importance_weights, policy_loss

CLIP = Clipping(0.2, 0.28)


def loss_and_slope(
    ratio: float, advantage: float, clipping: Clipping = CLIP
) -> tuple[float, float]:
    """Loss of one token, and its derivative by the token's log-probability."""
    new = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    old, advantages = torch.zeros(1, dtype=torch.float64), torch.tensor([advantage])
    total = policy_loss(new, old, advantages.double(), clipping).total
    torch.autograd.backward(total)
    assert new.grad is not None
    return total.item(), new.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 1.0, -1.0, -1.0),
        (1.2, 1.0, -1.2, -1.2),  # within the bounds
        (1.5, 1.0, -1.28, 0.0),  # a good token has risen enough
        (0.5, 1.0, -0.5, -0.5),  # a good token that fell is pulled back
        (0.5, -1.0, 0.8, 0.0),  # a bad token has fallen enough
        (1.5, -1.0, 1.5, 1.5),  # a bad token that rose is pushed down
    ],
)
def test_asymmetric_clipping(ratio: float, advantage: float, loss: float, slope: float) -> None:
    found = loss_and_slope(ratio, advantage)
    assert found == pytest.approx((loss, slope))


def test_dual_clip_bounds_the_loss_of_a_bad_token_only() -> None:
    dual = Clipping(0.2, 0.28, dual=3.0)
    assert loss_and_slope(20.0, -1.0, dual) == pytest.approx((3.0, 0.0))
    assert loss_and_slope(2.0, -1.0, dual) == loss_and_slope(2.0, -1.0)
    assert loss_and_slope(20.0, 1.0, dual) == loss_and_slope(20.0, 1.0)


@given(st.lists(st.floats(-4, 0), min_size=1, max_size=20))
def test_on_policy_the_gradient_is_the_plain_policy_gradient(values: list[float]) -> None:
    logprobs = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    advantages = torch.linspace(-1, 1, len(values), dtype=torch.float64)
    found = policy_loss(logprobs, logprobs.detach(), advantages, CLIP)
    torch.autograd.backward(found.total)
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, -advantages)
    assert found.clipped.item() == 0
    assert found.divergence.item() == pytest.approx(0, abs=1e-12)


def test_reports_count_clipped_tokens_and_divergence() -> None:
    new, old = torch.log(torch.tensor([1.5, 1.0, 0.5])), torch.zeros(3)
    found = policy_loss(new, old, torch.tensor([1.0, 1.0, -1.0]), CLIP)
    assert found.clipped.item() == 2
    expected = sum(1 / r - 1 + math.log(r) for r in (1.5, 1.0, 0.5))
    assert found.divergence.item() == pytest.approx(expected)


def test_imitation_loss_is_the_sum_of_negative_log_likelihoods() -> None:
    assert imitation_loss(torch.tensor([-1.0, -2.5])).item() == 3.5


@pytest.mark.parametrize(
    ("correction", "weights", "bounded"),
    [
        (Correction(), [1.0, 1.0, 1.0, 1.0], [False] * 4),
        (Correction("token", "truncate", 2.0), [2.0, 0.25, 1.5, 1.0], [True, False, False, False]),
        (Correction("token", "mask", 2.0), [0.0, 0.0, 1.5, 1.0], [True, True, False, False]),
        # The episodes' own ratios are 3 x 0.25 and 1.5 x 1: neither meets the bound.
        (Correction("sequence", "truncate", 2.0), [0.75, 0.75, 1.5, 1.5], [False] * 4),
        (Correction("sequence", "mask", 1.4), [0.75, 0.75, 0.0, 0.0], [False, False, True, True]),
    ],
)
def test_importance_weights_and_which_of_them_met_a_bound(
    correction: Correction, weights: list[float], bounded: list[bool]
) -> None:
    ratios = torch.tensor([3.0, 0.25, 1.5, 1.0])
    found, met = importance_weights(
        ratios.log(), torch.zeros(4), torch.tensor([0, 0, 1, 1]), correction
    )
    assert found.tolist() == pytest.approx(weights)
    assert met.tolist() == bounded
