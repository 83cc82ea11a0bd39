"""What a study does, as data: its sizes, its trained models and its order.

A trained model begins from another (`base` is the packaged model as it is) and differs from its
siblings in a few keys of the trainer's configuration. All are evaluated alike: on held-out domains,
with the information gap, under the paper's reward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

BASE = "base"
CONFIGS = Path(__file__).parent / "configs"

_SFT = {"sft.enabled": True, "rl.enabled": False}
_RL = {"sft.enabled": False, "rl.enabled": True, "evaluation.before": False}
_NO_GAP = {"rl.facts_in_instruction": True, "rl.reward_preset": "no_interaction"}


@dataclass(frozen=True)
class Training:
    """One model to train: from which, and with which keys."""

    name: str
    begins_from: str
    title: str
    settings: Mapping[str, object] = field(default_factory=dict)


TRAININGS = (
    Training("sft", BASE, "SFT only", {**_SFT, "evaluation.before": True}),
    Training("full", "sft", "SFT, then GRPO", _RL),
    Training(
        "no-restriction-gate",
        "sft",
        "GRPO without the restriction gate",
        {**_RL, "rl.reward_preset": "no_restriction_gate"},
    ),
    Training(
        "sft-no-gap",
        BASE,
        "SFT without the information gap",
        {**_SFT, **_NO_GAP, "evaluation.before": False},
    ),
    Training(
        "no-information-gap",
        "sft-no-gap",
        "SFT and GRPO without the information gap",
        {**_RL, **_NO_GAP},
    ),
)


@dataclass(frozen=True)
class Bfcl:
    """How much of the BFCL is asked; 0 means all of a category."""

    limit: int
    multi_turn_limit: int
    turn_tokens: int
    places: int
    categories: str = "simple,multiple,irrelevance,multi_turn_base"


@dataclass(frozen=True)
class Size:
    """How much of everything a study does."""

    name: str
    difficulty: str
    train_tasks: int
    held_out_tasks: int
    bfcl: Bfcl
    bfcl_models: tuple[str, ...]
    """Models that are asked."""
    policy: Mapping[str, str]
    """Settings of the services' policy engine."""

    @property
    def config(self) -> Path:
        """The trainer's configuration that every training of this size begins with."""
        return CONFIGS / f"{self.name}.toml"


SIZES = {
    size.name: size
    for size in (
        Size(
            name="cpu",
            difficulty="mini",
            train_tasks=160,
            held_out_tasks=40,
            bfcl=Bfcl(limit=50, multi_turn_limit=2, turn_tokens=128, places=8),
            bfcl_models=(BASE, "sft", "full"),
            policy={
                "SYNTHAGENT_POLICY_DTYPE": "bfloat16",
                "SYNTHAGENT_POLICY_MAX_SEQUENCES": "24",
                "SYNTHAGENT_POLICY_DEVICE": "cpu",
            },
        ),
        Size(
            name="quick",
            difficulty="mini",
            train_tasks=6,
            held_out_tasks=2,
            bfcl=Bfcl(2, 1, turn_tokens=16, places=4, categories="simple,irrelevance"),
            bfcl_models=(BASE, "full"),
            policy={
                "SYNTHAGENT_POLICY_DTYPE": "bfloat16",
                "SYNTHAGENT_POLICY_MAX_SEQUENCES": "8",
                "SYNTHAGENT_POLICY_DEVICE": "cpu",
            },
        ),
        Size(
            name="gpu",
            difficulty="standard",
            train_tasks=2000,
            held_out_tasks=150,
            bfcl=Bfcl(limit=0, multi_turn_limit=0, turn_tokens=256, places=64),
            bfcl_models=(BASE, "sft", "full", "no-restriction-gate", "no-information-gap"),
            policy={
                "SYNTHAGENT_POLICY_DTYPE": "bfloat16",
                "SYNTHAGENT_POLICY_MAX_SEQUENCES": "128",
                "SYNTHAGENT_POLICY_MAX_SEQUENCE_TOKENS": "4096",
                "SYNTHAGENT_POLICY_DEVICE": "cuda:0",
            },
        ),
    )
}


@dataclass(frozen=True)
class Stage:
    """One thing to do. `kind` is tasks, train or bfcl; `subject` a model's name."""

    kind: str
    subject: str = ""

    @property
    def name(self) -> str:
        """Its name in the state file."""
        return f"{self.kind}-{self.subject}" if self.subject else self.kind


def stages(size: Size) -> list[Stage]:
    """Everything in order: the path from synthesis to a score first, the ablations after it."""
    path = ("sft", "full")
    ablations = [each.name for each in TRAININGS if each.name not in path]
    order = [Stage("tasks")]
    for names in ((BASE, *path), ablations):
        order += [Stage("train", name) for name in names if name != BASE]
        order += [Stage("bfcl", name) for name in names if name in size.bfcl_models]
    return order


PATH = ("tasks", "train-sft", "train-full", "bfcl-base", "bfcl-sft", "bfcl-full")
"""Names of the stages from synthesis to a benchmark score, without the ablations."""


def training(name: str) -> Training:
    """The training of that name. Raises KeyError."""
    return {each.name: each for each in TRAININGS}[name]
