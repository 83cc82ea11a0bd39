"""Base of every section, and the sections that every run has, whatever it trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

RewardPresetName = Literal["paper", "paper_code", "no_restriction_gate", "no_interaction"]


class Section(BaseModel):
    """Base of every section: frozen, closed, with its documentation beneath each field."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class RunSettings(Section):
    """[run]: what this run is and where it leaves its files."""

    name: str = Field(default="train", pattern=r"^[a-z0-9][a-z0-9-]{0,23}$")
    """Beginning of the names of the runs it creates at the rollout service."""
    folder: Path = Path("runs/train")
    """Receives config.toml, metrics.jsonl, checkpoints/, weights/ and model/."""
    seed: int = Field(default=0, ge=0)
    """Seed of task order, sampling and shuffling."""
    tensorboard: bool = True
    """Whether metrics are also written for TensorBoard, into tensorboard/ of the folder."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of Prometheus metrics on rank 0; 0 takes a free one. None: no port."""
    rank_timeout_seconds: float = Field(default=300.0, ge=1)
    """Longest wait for all ranks to appear, and longest silence of one that has: then all end, to
    be started again."""


class ModelSettings(Section):
    """[model]: the policy's initial weights and how they are computed with."""

    name: str = "smollm2-135m-instruct"
    """A model name known to SynthAgent, or a folder in the Hugging Face layout."""
    trainable_layers: int | None = Field(default=None, ge=1)
    """Train only this many of the last layers and the final norm. None: train everything."""
    tokens_per_row: int = Field(default=1024, ge=16)
    """Most tokens of one forward pass (micro-batch). Longer episodes get a row of their own."""
    logits_chunk: int = Field(default=256, ge=1)
    """Positions whose logits are in memory at once."""
    recompute: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""


class LoraSettings(Section):
    """[lora]: low-rank adapters instead of whole matrices. There is no dropout: with it, the policy
    that trains would not be the one that samples."""

    enabled: bool = False
    """Train adapters on the model's matrices and leave the model itself as it is."""
    rank: int = Field(default=16, ge=1, le=512)
    """Rank of each adapter. A vLLM server needs a --max-lora-rank of at least this."""
    alpha: float = Field(default=32.0, gt=0)
    """Adapters are multiplied by this over the rank."""
    target_modules: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
    )
    """Names of the modules whose matrices are adapted."""
    seed: int = Field(default=0, ge=0)
    """Seed of the adapters' first values."""
    publish: Literal["merged", "adapter"] = "merged"
    """What the rollout service gets. merged: the model with the adapters added, for any engine.
    adapter: the adapter alone, for a vLLM server started with --enable-lora."""


class RolloutSettings(Section):
    """[rollout]: the service that runs episodes."""

    address: str = "127.0.0.1:50051"
    """host:port of the rollout service."""
    policy: str = "default"
    """Name of the policy to train and publish."""
    first_policy_version: int = Field(default=0, ge=0)
    """Version of the policy at the start. 0: the service samples with its initial weights. Above 0:
    the initial weights are published under it first, as on a service that has served other runs."""
    timeout_seconds: float = Field(default=600.0, gt=0)
    """Deadline of a unary call; publishing waits until the engine has loaded the weights."""
    transfer_ranks: int | None = Field(default=None, ge=1)
    """GPUs of a vLLM server, started with --weight-transfer-config, that get the weights by NCCL
    from the GPU of rank 0. None: they are read from the file."""
    batch_timeout_seconds: float = Field(default=86_400.0, gt=0)
    """Longest wait for a batch or an evaluation."""
    patience_seconds: float = Field(default=300.0, ge=0)
    """How long to wait for a service that has answered and is away now, as while it restarts. At
    the start it must be there. 0: not at all."""


class TaskSettings(Section):
    """[tasks]: the tasks to train on."""

    split: Literal["train", "held_out"] = "train"
    """Split by domain."""
    difficulty: str = ""
    """Only this difficulty. Empty: any."""
    count: int = Field(default=0, ge=0)
    """How many, drawn by the seed. 0: all."""


class DeepSpeedSettings(Section):
    """[deepspeed]: how the optimizer's state is sharded and in which precision it is computed."""

    stage: Literal[1, 2, 3] = 1
    """ZeRO stage: 1 shards optimizer state, 2 also gradients, 3 also weights."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of weights and activations. Master weights and Adam moments are always float32."""
    offload_optimizer: bool = False
    """Keep optimizer state in host memory. For GPUs."""
    offload_parameters: bool = False
    """Keep weights in host memory between uses. Stage 3 only. For GPUs."""
    gradient_clip: float = Field(default=1.0, ge=0)
    """Largest global norm of the gradient; 0 does not clip."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the second moment."""
    adam_epsilon: float = Field(default=1e-8, gt=0)
    """Added to the denominator of Adam's update."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of each rank. None: the cores of the machine over the ranks on it."""

    @model_validator(mode="after")
    def _check(self) -> DeepSpeedSettings:
        if self.offload_parameters and self.stage != 3:
            raise ValueError("offload_parameters needs stage = 3: below it every rank holds all")
        return self


class EvaluationSettings(Section):
    """[evaluation]: the policy on tasks of domains that it is not trained on."""

    before: bool = True
    """Evaluate the initial policy."""
    after_sft: bool = True
    """Evaluate after the warm start."""
    after_dpo: bool = True
    """Evaluate after direct preference optimisation."""
    after_rl: bool = True
    """Evaluate at the end."""
    every_steps: int | None = Field(default=None, ge=1)
    """Also after every so many GRPO steps. None: not between."""
    split: Literal["train", "held_out"] = "held_out"
    """Split by domain."""
    difficulty: str = ""
    """Only this difficulty. Empty: any."""
    count: int = Field(default=0, ge=0)
    """Tasks. 0: all."""
    episodes_per_task: int = Field(default=1, ge=1)
    """Episodes of each task."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Sampling temperature; 0 is greedy."""
    reward_preset: RewardPresetName | None = None
    """How verdicts become rewards here. None: that of [rl]."""


class CheckpointSettings(Section):
    """[checkpoint]: what a resumed run goes on from."""

    every_steps: int = Field(default=10, ge=1)
    """Steps between checkpoints. Each stage's last step is always saved."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints to keep; older ones are deleted once a newer one is complete. Two are kept at
    least: whether the latest leads anywhere shows only in the update after it."""
    enabled: bool = True
    """Whether to save any."""
