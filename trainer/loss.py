"""Objectives on the log-probabilities of the policy's tokens, as weighted sums over tokens.

A row's tokens come with a weight each; the engine divides the sum by one number for the whole
update (all ranks, all micro-batches). Weights and divisor together are the aggregation, so an
episode counts the same wherever it was computed. An episode's tokens lie in one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from trainer.algorithms import Ratio


@dataclass(frozen=True)
class Clipping:
    """Bounds of the probability ratio, [1 - low, 1 + high]; `dual` bounds bad tokens' loss."""

    low: float
    high: float
    dual: float | None = None


@dataclass(frozen=True)
class Correction:
    """Importance weights for sampling by an engine that computes otherwise than the trainer.

    The weight is p_trainer / p_engine before the update, of each token or of each episode, without
    gradient: at most `cap` (`truncate`), or 0 outside [1 / `cap`, `cap`] (`mask`). Yao et al.,
    "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025).
    """

    level: Literal["none", "token", "sequence"] = "none"
    mode: Literal["truncate", "mask"] = "truncate"
    cap: float = 2.0


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
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    clipping: Clipping,
    *,
    weights: Tensor | None = None,
    ratio: Ratio = Ratio.TOKEN,
    sample_index: Tensor | None = None,
) -> PolicyLoss:
    """Policy objective, negated and summed over tokens; all inputs [tokens], in nats.

    Token ratio: SYNTHAGENT section 3.4 (GRPO) with the asymmetric bounds of DAPO (arXiv 2503.14476,
    eq. 8) and, where asked for, dual clipping (arXiv 1912.09729, eq. 5). Sequence ratio: GSPO
    (arXiv 2507.18071, eq. 5 and 7); needs `sample_index`, the episode of each token. No ratio:
    plain policy gradient. `weights` are those of the aggregation; 1 by default.
    """
    log_ratio = logprobs - old_logprobs
    with torch.no_grad():
        divergence = ((-log_ratio).exp() - 1 + log_ratio).sum()
    if ratio is Ratio.NONE:
        objective = logprobs * advantages
        clipped = torch.zeros((), device=logprobs.device)
    else:
        if ratio is Ratio.SEQUENCE:
            if sample_index is None:
                raise ValueError("the ratio of a sequence needs the episode of each token")
            log_ratio = _episode_means(log_ratio, sample_index)[sample_index]
        value = log_ratio.exp()
        bounded = value.clamp(1 - clipping.low, 1 + clipping.high)
        objective = torch.minimum(value * advantages, bounded * advantages)
        if clipping.dual is not None:
            floor = clipping.dual * advantages
            objective = torch.where(advantages < 0, torch.maximum(objective, floor), objective)
        with torch.no_grad():
            clipped = (bounded * advantages < value * advantages).sum()
    if weights is not None:
        objective = objective * weights
    return PolicyLoss(-objective.sum(), clipped, divergence)


def reference_divergence(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """The k3 estimate of KL(policy || reference) of each token (arXiv 2402.03300, eq. 4)."""
    log_ratio = reference_logprobs - logprobs
    return log_ratio.exp() - log_ratio - 1


def importance_weights(
    logprobs: Tensor, sampled_logprobs: Tensor, sample_index: Tensor, correction: Correction
) -> tuple[Tensor, Tensor]:
    """Weight of each token, without gradient, and whether it met its bound; both [tokens].

    See Correction.
    """
    log_ratio = (logprobs - sampled_logprobs).detach()
    if correction.level == "none":
        return torch.ones_like(log_ratio), torch.zeros_like(log_ratio, dtype=torch.bool)
    if correction.level == "sequence":
        log_ratio = _episode_sums(log_ratio, sample_index)[sample_index]
    weights = log_ratio.exp()
    if correction.mode == "truncate":
        return weights.clamp(max=correction.cap), weights > correction.cap
    outside = (weights > correction.cap) | (weights < 1 / correction.cap)
    return weights.masked_fill(outside, 0.0), outside


def imitation_loss(logprobs: Tensor) -> Tensor:
    """Negative log-likelihood of the gold tokens, summed; `logprobs` [tokens] in nats."""
    return -logprobs.sum()


def preference_loss(
    logprobs: Tensor, reference_logprobs: Tensor, sample_index: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """DPO's loss summed over pairs (arXiv 2305.18290, eq. 7), and the margins [pairs] in nats.

    Samples 2k and 2k + 1 are the chosen and the rejected action of pair k; `beta` is the strength
    of the reference.
    """
    gains = _episode_sums(logprobs - reference_logprobs, sample_index)
    margins = gains[0::2] - gains[1::2]
    return -functional.logsigmoid(beta * margins).sum(), margins.detach()


def _episode_sums(values: Tensor, sample_index: Tensor) -> Tensor:
    count = int(sample_index.max()) + 1 if len(sample_index) else 0
    return torch.zeros(count, dtype=values.dtype, device=values.device).index_add(
        0, sample_index, values
    )


def _episode_means(values: Tensor, sample_index: Tensor) -> Tensor:
    return _episode_sums(values, sample_index) / torch.bincount(sample_index).to(values.dtype)
