"""What is measured, as data: sizes of the measurement, and variants of the training.

A variant says which keys of `trainer/configs/learn.toml` it changes for the warm start and for what
follows it. Variants that change the warm start have one of their own; the others share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CONFIG = Path(__file__).parents[2] / "trainer/configs/learn.toml"
HELD_OUT_SEED = 0
"""Seed of the held-out tasks: the same ones for every training, so that lifts pair by task."""

SAMPLED_EPISODES = 1
"""Episodes of each held-out task in the sampled evaluation."""

Overrides = Mapping[str, str]


@dataclass(frozen=True)
class Size:
    """How much of everything; `overrides` are of the trainer's configuration."""

    seeds: tuple[int, ...]
    train_tasks: int
    held_out_tasks: int
    overrides: Overrides


@dataclass(frozen=True)
class Variant:
    """Keys of the trainer's configuration that differ, in the warm start and behind it."""

    name: str
    what: str
    warm_start: Overrides
    training: Overrides

    @property
    def start(self) -> str:
        """Name of the warm start that it goes on from."""
        return f"start-{self.name}" if self.warm_start else "start"


SIZES = {
    "full": Size(seeds=(1, 2, 3), train_tasks=300, held_out_tasks=64, overrides={}),
    "quick": Size(
        seeds=(1,),
        train_tasks=12,
        held_out_tasks=2,
        overrides={
            "model.trainable_layers": "2",
            "sft.max_steps": "2",
            "sft.trajectories_per_step": "2",
            "rl.steps": "1",
            "rl.groups_per_step": "2",
            "rl.group_size": "2",
            "rl.max_turns": "2",
            "rl.max_turn_tokens": "16",
            "evaluation.count": "2",
        },
    ),
}

# Told the facts, nothing is asked, so that only sub-goals can count in training.
_TOLD = {
    "rl.facts_in_instruction": "true",
    "rl.reward_preset": "no_interaction",
    "evaluation.reward_preset": "paper",
}

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("full", "reinforcement learning as it is meant", {}, {}),
        Variant(
            "sft_only",
            "as many more updates by imitation instead",
            {},
            {
                "rl.enabled": "false",
                "sft.enabled": "true",
                "sft.max_steps": "10",
                "sft.learning_rate": "1e-4",
            },
        ),
        Variant(
            "no_information_gap",
            "the agent is told the private facts while it is trained",
            _TOLD,
            _TOLD,
        ),
        Variant(
            "no_restriction_gate",
            "a forbidden act costs nothing while it is trained",
            {},
            {"rl.reward_preset": "no_restriction_gate", "evaluation.reward_preset": "paper"},
        ),
    )
}
