"""The trainer's one configuration file: TOML in, frozen and validated values out.

Every field is documented beneath itself: unit, default, and what None means. Unknown keys are
refused with the closest known one. `--set section.key=value` overrides a key; the resolved
configuration is written into the run folder and reads back as the same configuration.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rapidfuzz import process

from synthagent.errors import InvalidInput
from trainer.algorithms import ALGORITHMS, Advantage, Aggregation, Ratio


class Section(BaseModel):
    """Base of every section: frozen, closed, with its documentation beneath each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


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
    batch_timeout_seconds: float = Field(default=86_400.0, gt=0)
    """Longest wait for a batch or an evaluation."""


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
    reward_preset: Literal["paper", "paper_code"] = "paper"
    """How verdicts become rewards."""

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
        if self.ratio is Ratio.NONE and self.minibatches > 1:
            raise ValueError(
                "ratio = none is exact for one update of a batch only; set minibatches = 1"
            )
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


class CheckpointSettings(Section):
    """[checkpoint]: what a resumed run goes on from."""

    every_steps: int = Field(default=10, ge=1)
    """Steps between checkpoints. Each stage's last step is always saved."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints to keep; older ones are deleted once a newer one is complete."""
    enabled: bool = True
    """Whether to save any."""


class TrainerConfig(Section):
    """The whole file."""

    run: RunSettings = RunSettings()
    model: ModelSettings = ModelSettings()
    rollout: RolloutSettings = RolloutSettings()
    tasks: TaskSettings = TaskSettings()
    deepspeed: DeepSpeedSettings = DeepSpeedSettings()
    sft: SftSettings = SftSettings()
    dpo: DpoSettings = DpoSettings()
    rl: RlSettings = Field(default_factory=RlSettings)
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()

    def digest(self) -> str:
        """SHA-256 of what decides the result: everything but addresses, ports and threads."""
        ignored = {
            "run": {"folder", "metrics_port", "tensorboard"},
            "rollout": {"address", "timeout_seconds", "batch_timeout_seconds"},
            "deepspeed": {"threads"},
            "checkpoint": True,
        }
        content = self.model_dump(mode="json", exclude=ignored)  # type: ignore[arg-type]  # nested
        return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


def load(path: Path, overrides: Sequence[str] = ()) -> TrainerConfig:
    """Reads `path` and applies `section.key=value` overrides. Raises InvalidInput in a sentence."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"cannot read the configuration {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path} is not TOML: {error}") from error
    for override in overrides:
        _apply(content, override)
    return parse(content)


def parse(content: Mapping[str, Any]) -> TrainerConfig:
    """Validates a nested mapping. Raises InvalidInput naming the first wrong key."""
    _refuse_unknown(content)
    try:
        return TrainerConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(
            f"{where}: {first['msg']}, not {first.get('input')!r}", field=where
        ) from error


def write(config: TrainerConfig, path: Path) -> None:
    """Writes `config` as TOML that `load` reads back as the same value. None is left out."""
    lines: list[str] = []
    for section, fields in config.model_dump(mode="json", exclude_none=True).items():
        lines += ["", f"[{section}]"]
        # JSON's strings, numbers and booleans are TOML's.
        lines += [f"{key} = {orjson.dumps(value).decode()}" for key, value in fields.items()]
    path.write_text("\n".join(lines[1:]) + "\n", encoding="utf-8")


def _apply(content: dict[str, Any], override: str) -> None:
    """Sets one `section.key=value`; the value is TOML, or else a string."""
    name, equals, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise InvalidInput(f"--set {override!r}: write section.key=value, as in sft.epochs=2")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    content.setdefault(section, {})[key] = value


def _refuse_unknown(content: Mapping[str, Any]) -> None:
    sections = TrainerConfig.model_fields
    for section, fields in content.items():
        if section not in sections:
            raise InvalidInput(
                f"unknown section [{section}]{_closest(section, sections)}", field=section
            )
        kind = sections[section].annotation
        if not isinstance(fields, Mapping) or not (
            isinstance(kind, type) and issubclass(kind, Section)
        ):
            raise InvalidInput(f"[{section}] must be a section of keys", field=section)
        for key in fields:
            if key not in kind.model_fields:
                raise InvalidInput(
                    f"unknown key `{key}` in [{section}]{_closest(key, kind.model_fields)}",
                    field=f"{section}.{key}",
                )


def _closest(name: str, known: Iterable[str]) -> str:
    match = process.extractOne(name, list(known), score_cutoff=60)
    return f": did you mean `{match[0]}`?" if match else f"; known are {', '.join(sorted(known))}"
