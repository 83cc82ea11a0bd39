"""What may differ between the start of a run and its resumption, and what may not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.config.file import TrainerConfig

FREE = (
    "run.folder",
    "run.metrics_port",
    "run.rank_timeout_seconds",
    "run.tensorboard",
    "rollout.address",
    "rollout.batch_timeout_seconds",
    "rollout.patience_seconds",
    "rollout.timeout_seconds",
    "deepspeed.threads",
    "checkpoint.",
)
"""Keys, or whole sections, that do not decide the result."""

AMENDABLE = (
    "model.logits_chunk",
    "model.recompute",
    "model.tokens_per_row",
    "deepspeed.adam_",
    "deepspeed.gradient_clip",
    "deepspeed.weight_decay",
    "sft.learning_rate",
    "sft.warmup_steps",
    "sft.final_lr_fraction",
    "dpo.learning_rate",
    "dpo.warmup_steps",
    "dpo.final_lr_fraction",
    "rl.learning_rate",
    "rl.warmup_steps",
    "rl.clip_",
    "rl.dual_clip",
    "rl.entropy_coefficient",
    "evaluation.",
)
"""Beginnings of keys that a run can go on with another value of, where that is asked for."""


@dataclass(frozen=True)
class Change:
    """A key whose value decides the result, and is another one than at the run's start."""

    key: str
    before: Any
    now: Any

    @property
    def amendable(self) -> bool:
        """Whether the run can go on with it."""
        return self.key.startswith(AMENDABLE)

    def __str__(self) -> str:
        return f"{self.key} is {self.now!r} and was {self.before!r}"


def changes(before: TrainerConfig, now: TrainerConfig) -> list[Change]:
    """What decides the result and differs, in the order of the file."""
    old, new = before.flat(), now.flat()
    return [
        Change(key, old[key], value)
        for key, value in new.items()
        if value != old[key] and not key.startswith(FREE)
    ]
