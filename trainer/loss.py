"""Objectives on the log-probabilities of the policy's tokens, as sums over tokens.

Both return a sum; the engine divides by the number of policy tokens in the whole update (all ranks,
all micro-batches), so every token weighs the same wherever it was computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Clipping:
    """Bounds of the probability ratio, [1 - low, 1 + high]; `dual` bounds bad tokens' loss."""

    low: float
    high: float
    dual: float | None = None


@dataclass(frozen=True)
class PolicyLoss:
    """`total` is the loss summed over tokens; the rest, without gradient, tells how it went.

    `clipped` counts tokens whose ratio was clipped; `divergence` sums the k3 estimate of
    KL(old || new) (Schulman, "Approximating KL divergence", 2020).
    """

    total: Tensor
    clipped: Tensor
    divergence: Tensor


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clipping: Clipping
) -> PolicyLoss:
    """Clipped policy objective, negated and summed over tokens; all inputs [tokens], in nats.

    SYNTHAGENT section 3.4 (GRPO) with the asymmetric bounds of DAPO (arXiv 2503.14476, eq. 8) and,
    where asked for, dual clipping (arXiv 1912.09729, eq. 5).
    """
    log_ratio = logprobs - old_logprobs
    ratio = log_ratio.exp()
    bounded = ratio.clamp(1 - clipping.low, 1 + clipping.high)
    objective = torch.minimum(ratio * advantages, bounded * advantages)
    if clipping.dual is not None:
        floor = clipping.dual * advantages
        objective = torch.where(advantages < 0, torch.maximum(objective, floor), objective)
    with torch.no_grad():
        clipped = (bounded * advantages < ratio * advantages).sum()
        divergence = ((-log_ratio).exp() - 1 + log_ratio).sum()
    return PolicyLoss(-objective.sum(), clipped, divergence)


def imitation_loss(logprobs: Tensor) -> Tensor:
    """Negative log-likelihood of the gold tokens, summed; `logprobs` [tokens] in nats."""
    return -logprobs.sum()
