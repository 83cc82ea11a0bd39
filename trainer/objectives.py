"""What an update of each stage optimises: from the scores of a row to a loss and its reports."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from trainer.algorithms import Ratio
from trainer.config import RlSettings
from trainer.engine import Scores
from trainer.loss import (
    Clipping,
    Correction,
    imitation_loss,
    importance_weights,
    policy_loss,
    preference_loss,
    reference_divergence,
)


def imitate(scores: Scores) -> tuple[Tensor, dict[str, Tensor]]:
    """Supervised fine-tuning."""
    return imitation_loss(scores.logprobs), {}


@dataclass(frozen=True)
class Prefer:
    """Direct preference optimisation; rows hold whole pairs, the chosen action first."""

    beta: float

    def __call__(self, scores: Scores) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss summed over pairs."""
        total, margins = preference_loss(
            scores.logprobs, scores.reference_logprobs, scores.sample_index, self.beta
        )
        # Reports are divided by tokens; spread over them, a pair counts once.
        per_pair = len(scores.logprobs) / max(1, len(margins))
        return total, {
            "preferred": (margins > 0).float().sum() * per_pair,
            "margin": margins.sum() * per_pair,
        }


@dataclass(frozen=True)
class Reinforce:
    """Policy optimisation. `on_policy`: the row's own scores are those before the update."""

    clipping: Clipping
    ratio: Ratio = Ratio.TOKEN
    correction: Correction = field(default_factory=Correction)
    entropy_coefficient: float = 0.0
    kl_coefficient: float = 0.0
    on_policy: bool = False

    @classmethod
    def of(cls, settings: RlSettings) -> Reinforce:
        """The objective that the configuration describes."""
        return cls(
            Clipping(settings.clip_low, settings.clip_high, settings.dual_clip),
            settings.ratio,
            Correction(settings.correction, settings.correction_mode, settings.correction_cap),
            entropy_coefficient=settings.entropy_coefficient,
            kl_coefficient=settings.kl_coefficient,
            on_policy=settings.old_logprobs == "recomputed" and settings.minibatches == 1,
        )

    def __call__(self, scores: Scores) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss summed over tokens."""
        old = scores.logprobs.detach() if self.on_policy else scores.old_logprobs
        importance, bounded = importance_weights(
            old, scores.sampled_logprobs, scores.sample_index, self.correction
        )
        loss = policy_loss(
            scores.logprobs,
            old,
            scores.advantages,
            self.clipping,
            weights=scores.weights * importance,
            ratio=self.ratio,
            sample_index=scores.sample_index,
        )
        total = loss.total
        if self.entropy_coefficient:
            total = total - self.entropy_coefficient * (scores.entropies * scores.weights).sum()
        gap = (old - scores.sampled_logprobs).detach()
        reports = {
            "clip_fraction": loss.clipped,
            "kl": loss.divergence,
            "entropy": scores.entropies.detach().sum(),
            # How far the engine that sampled and the trainer disagree, or the policy has moved.
            "sampling_gap": gap.abs().sum(),
            # Tokens whose importance weight met its bound; none where there is no correction.
            "corrected_fraction": bounded.sum(),
        }
        if self.kl_coefficient:
            distance = reference_divergence(scores.logprobs, scores.reference_logprobs)
            total = total + self.kl_coefficient * (distance * scores.weights).sum()
            reports["reference_kl"] = distance.detach().sum()
        return total, reports
