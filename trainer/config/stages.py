"""The sections of the three stages: warm start, preferences, reinforcement learning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from trainer.algorithms import ALGORITHMS, Advantage, Aggregation, Ratio
from trainer.config.sections import RewardPresetName, Section


class SftSettings(Section):
    """[sft]: the warm start on gold trajectories, or on the best of stored ones."""

    enabled: bool = True
    """Whether there is one."""
    runs: tuple[str, ...] = ()
    """Stored runs whose trajectories are imitated. Empty: gold trajectories of [tasks]."""
    min_reward: float = Field(default=1.0, gt=0, le=1)
    """Least reward of a stored trajectory that is imitated."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the trajectories."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many steps. None: after the epochs."""
    trajectories_per_step: int = Field(default=8, ge=1)
    """Trajectories of one update, over all ranks."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate."""
    warmup_steps: int = Field(default=2, ge=0)
    """Steps of linear warm-up."""
    final_lr_fraction: float = Field(default=0.1, ge=0, le=1)
    """Learning rate at the end over the peak; cosine between."""


class DpoSettings(Section):
    """[dpo]: direct preference optimisation on pairs of sibling actions of stored trajectories."""

    enabled: bool = False
    """Whether there is any. It comes between the warm start and reinforcement learning."""
    runs: tuple[str, ...] = ()
    """Stored runs of a policy whose groups give the pairs."""
    min_gap: float = Field(default=0.1, gt=0, le=1)
    """Least difference in mean reward between the best and the worst action at a prefix."""
    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull towards the policy at the beginning of the stage."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the pairs."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many steps. None: after the epochs."""
    pairs_per_step: int = Field(default=16, ge=1)
    """Pairs of one update, over all ranks."""
    learning_rate: float = Field(default=5e-7, gt=0)
    """Peak learning rate."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up."""
    final_lr_fraction: float = Field(default=0.1, ge=0, le=1)
    """Learning rate at the end over the peak; cosine between."""

    @model_validator(mode="after")
    def _check(self) -> DpoSettings:
        if self.enabled and not self.runs:
            raise ValueError("name the stored runs that give the pairs: dpo.runs")
        return self


class RlSettings(Section):
    """[rl]: reinforcement learning on batches that stream from the rollout service."""

    enabled: bool = True
    """Whether there is any."""
    algorithm: Literal["grpo", "dapo", "dr_grpo", "gspo", "rloo", "reinforce_plus_plus"] = "grpo"
    """Sets the keys of its row in `trainer/algorithms.py` that are not set here."""
    steps: int = Field(default=4, ge=1)
    """Number of steps; each trains on one batch and publishes one policy version."""
    groups_per_step: int = Field(default=8, ge=1)
    """Groups (tasks) of each batch."""
    group_size: int = Field(default=8, ge=2)
    """Episodes of each group."""
    minibatches: int = Field(default=1, ge=1)
    """Updates made of one batch; its groups are divided among them."""
    learning_rate: float = Field(default=1e-6, gt=0)
    """Learning rate after warm-up."""
    warmup_steps: int = Field(default=0, ge=0)
    """Updates of linear warm-up."""
    advantage: Advantage = Advantage.GROUP_STANDARDISED
    """How rewards become advantages: group_standardised, group_centred, leave_one_out or
    batch_standardised."""
    aggregation: Aggregation = Aggregation.SEQUENCE
    """How tokens weigh in the loss: token, sequence, sequence_sum or constant."""
    ratio: Ratio = Ratio.TOKEN
    """What is clipped: token, sequence, or none."""
    clip_low: float = Field(default=0.2, ge=0, lt=1)
    """The probability ratio is clipped below 1 minus this."""
    clip_high: float = Field(default=0.2, ge=0)
    """The probability ratio is clipped above 1 plus this."""
    dual_clip: float | None = Field(default=None, gt=1)
    """Bound on the ratio's part in the loss where the advantage is negative. None: no bound."""
    oversampling: float = Field(default=1.0, ge=1, le=16)
    """Groups sampled for each group of groups_per_step. Those without variance are left out, and
    of the others the first groups_per_step are trained on."""
    overlong_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Last part of max_episode_tokens within which an episode's reward falls linearly by 1. 0: no
    such penalty."""
    kl_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the divergence from the policy at the beginning of the stage, added to the loss of
    each token. 0: no reference is held."""
    correction: Literal["none", "token", "sequence"] = "none"
    """Importance weights for the difference between the engine's and the trainer's
    log-probabilities, of each token or of each episode. Needs temperature and top_p of 1: only
    then are the recorded log-probabilities those that were sampled with."""
    correction_mode: Literal["truncate", "mask"] = "truncate"
    """Whether a weight above correction_cap is cut to it, or what lies outside [1 / correction_cap,
    correction_cap] is left out."""
    correction_cap: float = Field(default=2.0, gt=1)
    """Bound of those weights."""
    outcome_gate: float = Field(default=0.0, ge=0, le=1)
    """A group in which no reward reaches this teaches nothing: it counts as one without variance.
    0: no gate."""
    old_logprobs: Literal["recorded", "recomputed"] = "recomputed"
    """Log-probabilities of the ratio's denominator: those recorded by the engine at sampling, or
    those of the trainer at the start of the step (free of differences in arithmetic)."""
    entropy_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the policy's entropy, added to the objective."""
    temperature: float = Field(default=1.0, gt=0, le=2)
    """Sampling temperature."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus mass of sampling."""
    max_turns: int = Field(default=16, ge=1)
    """Most outputs of the agent in an episode."""
    max_turn_tokens: int = Field(default=256, ge=1)
    """Most tokens of one output."""
    max_episode_tokens: int = Field(default=2048, ge=64)
    """Most tokens of an episode, prompt included."""
    max_staleness: int = Field(default=0, ge=0)
    """Policy versions that a trajectory may be behind the step training on it. 0: synchronous."""
    reward_preset: RewardPresetName = "paper"
    """How verdicts become rewards: paper, paper_code, or one of the ablations no_restriction_gate
    (a forbidden act costs nothing) and no_interaction (only sub-goals count)."""
    facts_in_instruction: bool = False
    """Tell the agent the private facts of its tasks, in the warm start's demonstrations too: the
    ablation of the information gap, for reward_preset = "no_interaction". Evaluations never do."""

    @property
    def sampled_groups(self) -> int:
        """Groups sampled for each step."""
        return math.ceil(self.groups_per_step * self.oversampling)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: object) -> object:
        """What the algorithm sets, beneath what is given."""
        if not isinstance(given, Mapping):
            return given
        known = ALGORITHMS.get(str(given.get("algorithm", "grpo")))
        return {**known.settings, **given} if known else given

    @model_validator(mode="after")
    def _check(self) -> RlSettings:
        if self.correction != "none" and (self.temperature != 1 or self.top_p != 1):
            raise ValueError(
                "correction needs temperature = 1 and top_p = 1; the recorded log-probabilities "
                "are not those of another sampling"
            )
        if self.correction != "none" and self.old_logprobs == "recorded":
            raise ValueError(
                "correction compares the trainer's log-probabilities with the recorded ones; set "
                'old_logprobs = "recomputed", or correction = "none"'
            )
        if self.ratio is Ratio.NONE and self.minibatches > 1:
            raise ValueError(
                "ratio = none is exact for one update of a batch only; set minibatches = 1"
            )
        return self
