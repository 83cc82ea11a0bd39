"""The training engine: DeepSpeed ZeRO around the policy, one exact update at a time.

Lifecycle: `TrainingEngine(...)` on every rank, any number of `update`s, `close`. An update takes
any number of rows on each rank; every token of it weighs the same, on whatever rank and in whatever
row it lies. Ranks with fewer rows compute blank ones, so collective operations stay in step.
A loss or gradient that is not finite raises before it can reach a checkpoint or the rollout engine.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

os.environ.setdefault("DS_ACCELERATOR", "cpu" if not Path("/dev/nvidiactl").exists() else "cuda")

import deepspeed
import torch
import transformers
from deepspeed import comm
from torch import Tensor

from synthagent.errors import SynthAgentError
from trainer.config import DeepSpeedSettings, ModelSettings
from trainer.packing import Row, blank_row
from trainer.policy import PolicyScorer, freeze_lower_layers, load_model, load_weights


class TrainingDiverged(SynthAgentError):
    """A loss or gradient is not finite; nothing was saved or published after it."""

    reason = "TRAINING_DIVERGED"


@dataclass(frozen=True)
class Scores:
    """What a row's forward pass gave: [targets] each, on the engine's device.

    All but `logprobs` and `entropies` are the row's, moved there.
    """

    logprobs: Tensor
    entropies: Tensor
    sampled_logprobs: Tensor
    old_logprobs: Tensor
    reference_logprobs: Tensor
    advantages: Tensor
    weights: Tensor
    sample_index: Tensor


class Objective(Protocol):
    """Maps scores to a loss summed over tokens, and to sums worth reporting."""

    def __call__(self, scores: Scores) -> tuple[Tensor, dict[str, Tensor]]:
        """Sums over the row's targets."""
        ...


@dataclass(frozen=True)
class Update:
    """One optimizer step, over all ranks.

    `loss` is the sum over the update's divisor; `means` are the objective's other sums over the
    number of policy tokens; `gradient_norm` is before clipping; of the `tokens` computed,
    `policy_tokens` carried loss.
    """

    loss: float
    means: dict[str, float]
    gradient_norm: float
    tokens: int
    policy_tokens: int
    seconds: float


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int
    world_size: int

    @property
    def first(self) -> bool:
        """Whether this is the rank that talks and writes."""
        return self.rank == 0


def join_ranks(threads: int | None) -> Ranks:
    """Joins the process group that torchrun describes, or makes one of a single rank."""
    if "RANK" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in alone.items()})
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    # DeepSpeed calls collectives by names that torch is about to retire.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.", FutureWarning)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # its progress is not the user's
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # no types there
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // local_ranks))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    # Rank 0 evaluates and publishes while the others wait: far longer than a collective.
    with redirect_stdout(sys.stderr):
        deepspeed.init_distributed(backend, timeout=timedelta(hours=24), verbose=False)
    return Ranks(comm.get_rank(), comm.get_world_size())


class TrainingEngine:
    """A policy under training on all ranks."""

    def __init__(
        self,
        model_folder: Path,
        model: ModelSettings,
        settings: DeepSpeedSettings,
        *,
        entropy_gradient: bool = False,
    ) -> None:
        """Loads the model from `model_folder` and shards it. Raises NotFound."""
        dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
        language_model = load_model(model_folder, dtype=dtype)
        freeze_lower_layers(language_model, model.trainable_layers)
        scorer = PolicyScorer(
            language_model,
            chunk=model.logits_chunk,
            recompute=model.recompute,
            entropy_gradient=entropy_gradient,
        )
        scorer.train()
        with redirect_stdout(sys.stderr):  # DeepSpeed prints its memory; stdout is the user's
            self.deepspeed, _, _, _ = deepspeed.initialize(
                model=scorer,
                model_parameters=[p for p in scorer.parameters() if p.requires_grad],
                config=deepspeed_config(settings),
            )
        self.scorer = scorer
        self._model_folder, self._dtype = model_folder, dtype
        self._reference: PolicyScorer | None = None
        self.stage = settings.stage
        self.ranks = Ranks(comm.get_rank(), comm.get_world_size())
        self.device = self.deepspeed.device

    def update(
        self,
        rows: Sequence[Row],
        objective: Objective,
        *,
        learning_rate: float,
        divisor: float | None = None,
    ) -> Update:
        """One optimizer step on the rows of all ranks. Raises TrainingDiverged.

        The loss is the objective's sum over `divisor`, of which each rank gives its share; None
        means the number of policy tokens.
        """
        started = time.perf_counter()
        own = sum(len(r.targets) for r in rows)
        targets, tokens, whole = self._sum(
            [own, sum(r.tokens for r in rows), own if divisor is None else divisor]
        )
        if not targets or not whole:
            raise ValueError("an update needs at least one token that carries loss")
        sums: dict[str, Tensor] = {}
        for row in self._in_step(rows):
            scores = self._score(row)
            total, reports = objective(scores)
            for name, value in {"loss": total.detach(), **reports}.items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value.float()
            # ZeRO averages over ranks; the loss is a sum over all of them.
            self.deepspeed.backward(total * (self.ranks.world_size / whole))
        names = sorted(sums)
        means = dict(zip(names, self._sum([float(sums[n]) for n in names]), strict=True))
        means = {
            name: value / (whole if name == "loss" else targets) for name, value in means.items()
        }
        self._require_finite(means["loss"], "loss")
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = learning_rate
        self.deepspeed.step()
        norm = float(self.deepspeed.get_global_grad_norm() or 0.0)
        self._require_finite(norm, "gradient norm")
        return Update(
            loss=means.pop("loss"),
            means=means,
            gradient_norm=norm,
            tokens=int(tokens),
            policy_tokens=int(targets),
            seconds=time.perf_counter() - started,
        )

    def logprobs(self, rows: Sequence[Row]) -> list[Tensor]:
        """Log-probabilities of each row's targets now, without gradient."""
        with torch.no_grad():
            scored = [self._score(row).logprobs for row in self._in_step(rows)]
        return scored[: len(rows)]

    def hold_reference(self, weights: Path | None) -> None:
        """Takes a policy to measure distance from: `weights`, a file of `write_weights`.

        None means the model as it was loaded. Every rank holds the whole of it, for scoring only.
        """
        model = load_model(self._model_folder, dtype=self._dtype)
        if weights is not None:
            load_weights(model, weights)
        scorer = PolicyScorer(model, chunk=self.scorer.model.lm_head.chunk, recompute=False)
        scorer.requires_grad_(requires_grad=False)
        self._reference = scorer.eval().to(self.device)

    def reference_logprobs(self, rows: Sequence[Row]) -> list[Tensor]:
        """Log-probabilities of each row's targets under the reference."""
        if self._reference is None:
            raise ValueError("no reference is held")
        with torch.no_grad():
            return [
                self._reference(ids[None], positions[None], row.trees, predictors, targets)[0]
                for row in rows
                for ids, positions, predictors, targets in [self._moved(row)]
            ]

    def reset_optimizer(self) -> None:
        """Forgets Adam's moments, as between two stages with different gradients."""
        inner = self.deepspeed.optimizer.optimizer
        for state in inner.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    value.zero_()
            if isinstance(state.get("step"), int):
                state["step"] = 0

    @contextmanager
    def gathered(self, parameter: torch.nn.Parameter) -> Iterator[Tensor]:
        """The whole parameter, whatever the stage; to be entered on all ranks."""
        if self.stage == 3:
            with deepspeed.zero.GatheredParameters([parameter]):
                yield parameter.data
        else:
            yield parameter.data

    def anywhere(self, condition: bool) -> bool:  # noqa: FBT001  # a question with one subject
        """Whether `condition` holds on any rank."""
        flag = torch.tensor([int(condition)], device=self.device)
        comm.all_reduce(flag, op=comm.ReduceOp.MAX)
        return bool(flag)

    def barrier(self) -> None:
        """Waits for all ranks."""
        comm.barrier()

    def close(self) -> None:
        """Releases DeepSpeed's hooks and buffers."""
        self.deepspeed.destroy()

    def _score(self, row: Row) -> Scores:
        ids, positions, predictors, targets = self._moved(row)
        logprobs, entropies = self.deepspeed(
            ids[None], positions[None], row.trees, predictors, targets
        )
        along = (
            row.sampled_logprobs,
            row.old_logprobs,
            row.reference_logprobs,
            row.advantages,
            row.weights,
            row.sample_index,
        )
        moved = (torch.from_numpy(array).to(self.device) for array in along)
        return Scores(logprobs, entropies, *moved)

    def _moved(self, row: Row) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Token ids, positions, predictors and targets on the engine's device."""
        ids, positions, predictors, targets = (
            torch.from_numpy(array).to(self.device)
            for array in (row.token_ids, row.position_ids, row.predictors, row.targets)
        )
        return ids, positions, predictors, targets

    def _in_step(self, rows: Sequence[Row]) -> list[Row]:
        """`rows`, with blank ones up to the number of the rank that has most."""
        count = torch.tensor([len(rows)], device=self.device)
        comm.all_reduce(count, op=comm.ReduceOp.MAX)
        return [*rows, *[blank_row()] * (int(count) - len(rows))]

    def _sum(self, values: Sequence[float]) -> list[float]:
        """Sums over ranks."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        comm.all_reduce(total)
        return [float(value) for value in total]

    def _require_finite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"the {what} is {value} at update {self.deepspeed.global_steps}; "
                "the last checkpoint is intact: lower the learning rate and resume from it"
            )


def deepspeed_config(settings: DeepSpeedSettings) -> dict[str, Any]:
    """DeepSpeed's configuration. `step()` ends an accumulation, so rows may vary in number."""
    zero: dict[str, Any] = {"stage": settings.stage, "overlap_comm": False}
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if settings.offload_parameters and settings.stage == 3:
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "steps_per_print": None,
        "zero_optimization": zero,
        "bf16": {"enabled": settings.precision == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "gradient_clipping": settings.gradient_clip,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": 0.0,
                "betas": [settings.adam_beta1, settings.adam_beta2],
                "eps": settings.adam_epsilon,
                "weight_decay": settings.weight_decay,
                # DeepSpeed's own Adam needs a compiler for every machine it meets.
                "torch_adam": not settings.offload_optimizer,
            },
        },
    }


def learning_rate(
    step: int, *, peak: float, warmup: int, total: int | None = None, final_fraction: float = 1.0
) -> float:
    """Learning rate of step `step` (from 0): linear warm-up, then cosine to `final_fraction`.

    A function of the step alone: it needs no state in a checkpoint.
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if total is None or total <= warmup + 1:
        return peak
    progress = min(1.0, (step - warmup) / (total - warmup - 1))
    return peak * (final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * progress)) / 2)
