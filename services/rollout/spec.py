"""What a run is: the values behind `RunSpec` of rollout.proto, whose comments define each field.

Defaults are filled in, so that two spellings of one specification are equal, with one digest.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import Field, model_validator

from services.rollout.agents import ReferenceAgent
from synthagent.tokens import Sampling
from synthagent.worlds.rubric import REWARD_PRESETS
from synthagent.worlds.spec import Split
from synthagent.worlds.values import Value, canonical_json

DEFAULT_POLICY = "default"
MAX_UNSTEPPED_EPISODES = 1_000_000

RunId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=48)]


class PolicyAgentSpec(Value):
    """A policy model that acts."""

    policy: str = DEFAULT_POLICY
    sampling: Sampling
    max_episode_tokens: int = Field(2048, ge=64, le=1_048_576)


class ModelAgentSpec(Value):
    """A chat model that acts; None and 0 mean what its role is configured with."""

    role: Literal["teacher"] = "teacher"
    temperature: float | None = Field(None, ge=0, le=2)
    max_turn_tokens: int = Field(0, ge=0, le=32_768)


class Selection(Value):
    """Which tasks a run works on."""

    task_ids: tuple[str, ...] = ()
    split: Split | None = None
    difficulty: str = ""
    count: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Selection:
        if self.task_ids and (self.split or self.difficulty or self.count):
            raise ValueError("give task_ids or the other fields, not both")
        if not self.task_ids and self.split is None:
            raise ValueError("give task_ids, or a split to draw from")
        if len(set(self.task_ids)) != len(self.task_ids):
            raise ValueError("a task_id stands twice; group_size asks for more episodes of a task")
        return self


class Training(Value):
    """The steps of a training run."""

    steps: int = Field(ge=1, le=1_000_000)
    groups_per_step: int = Field(ge=1, le=10_000)
    max_staleness: int = Field(0, ge=0)
    first_policy_version: int = Field(0, ge=0)

    def needed_version(self, step: int) -> int:
        """Oldest policy version that may sample for that step."""
        return self.first_policy_version + step - self.max_staleness


class RunSpec(Value):
    """A run's specification; exactly one of `reference`, `policy` and `model` acts."""

    reference: ReferenceAgent | None = None
    policy: PolicyAgentSpec | None = None
    model: ModelAgentSpec | None = None
    tasks: Selection
    group_size: int = Field(1, ge=1, le=1024)
    max_turns: int = Field(16, ge=1, le=1000)
    reward_preset: str = "paper"
    seed: int = Field(0, ge=0, lt=2**64)
    training: Training | None = None
    facts_in_instruction: bool = False

    @model_validator(mode="after")
    def _check(self) -> RunSpec:
        if sum(agent is not None for agent in (self.reference, self.policy, self.model)) != 1:
            raise ValueError("one agent must act: set reference, policy or model")
        if self.model and self.training:
            raise ValueError("a chat model gives no tokens to train on; set no training steps")
        if self.reward_preset not in REWARD_PRESETS:
            known = ", ".join(sorted(REWARD_PRESETS))
            raise ValueError(f"no reward_preset {self.reward_preset!r}; known are {known}")
        return self

    @property
    def agent(self) -> str:
        """Name of the agent that acts."""
        if self.reference:
            return self.reference.value
        return self.policy.policy if self.policy else self.model.role if self.model else ""

    @property
    def canonical(self) -> str:
        """The specification as canonical JSON: what is stored."""
        # What is not used is left out, as in specifications stored before there was such a thing.
        absent = {name for name in ("model", "facts_in_instruction") if not getattr(self, name)}
        return canonical_json(self.model_dump(mode="json", exclude=absent)).decode()

    def groups_total(self, tasks: int) -> int:
        """Groups of the whole run over that many tasks."""
        return self.training.steps * self.training.groups_per_step if self.training else tasks

    def episodes_total(self, tasks: int) -> int:
        """Episodes of the whole run over that many tasks."""
        return self.groups_total(tasks) * self.group_size


def digest(canonical: str) -> str:
    """SHA-256 of a specification's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical.encode()).hexdigest()
