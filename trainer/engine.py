"""The training engine: DeepSpeed ZeRO around the policy, one exact update at a time.

Lifecycle: `TrainingEngine(...)` on every rank, any number of `update`s, `close`. An update takes
any number of rows on each rank; every token of it weighs the same, on whatever rank and in whatever
row it lies. Ranks with fewer rows compute blank ones, so collective operations stay in step.
A loss or gradient that is not finite raises before it can reach a checkpoint or the rollout engine.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

os.environ.setdefault("DS_ACCELERATOR", "cpu" if not Path("/dev/nvidiactl").exists() else "cuda")

import deepspeed
import numpy as np
import torch
import transformers
from deepspeed import comm
from torch import Tensor

from trainer.config import DeepSpeedSettings, ModelSettings
from trainer.failures import TrainingDiverged
from trainer.packing import Row, blank_row
from trainer.policy import PolicyScorer, freeze_lower_layers, load_model, load_weights
from trainer.ranks import Ranks
from trainer.zero import deepspeed_config

if TYPE_CHECKING:
    from trainer.lora import Adapters

# DeepSpeed would compile it for reductions within a machine, which gloo does as well. A process
# killed over that leaves a lock in torch's cache, for which all later ones would wait for ever.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _return_heap() -> None:
    """Gives free memory of the heap back to the system, where the C library is glibc.

    What loading and backward passes freed in small pieces would otherwise stay with the process
    while the optimizer needs memory of its own.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


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


class TrainingEngine:
    """A policy under training on all ranks."""

    def __init__(
        self,
        model_folder: Path,
        model: ModelSettings,
        settings: DeepSpeedSettings,
        *,
        entropy_gradient: bool = False,
        adapters: Adapters | None = None,
    ) -> None:
        """Loads the model from `model_folder` and shards it; `adapters`: only they train.

        Raises NotFound, and InvalidInput where adapters do not fit the model.
        """
        transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # theirs
        dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
        language_model = load_model(model_folder, dtype=dtype)
        if adapters is None:
            freeze_lower_layers(language_model, model.trainable_layers)
        else:
            adapters.attach(language_model)
        self.adapters = adapters
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
        _return_heap()
        self.scorer = scorer
        self._model_folder, self._dtype = model_folder, dtype
        self._reference: PolicyScorer | None = None
        self.stage = settings.stage
        self.ranks = Ranks(comm.get_rank(), comm.get_world_size())
        self.device = self.deepspeed.device
        self.updates = 0
        """Updates that left finite weights, since the start or the last `restore_state`."""

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
        _return_heap()
        self.deepspeed.step()
        norm = float(self.deepspeed.get_global_grad_norm() or 0.0)
        self._require_finite(norm, "gradient norm")
        self._require_finite_weights()
        self.updates += 1
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

        None means the model as it was loaded. Every rank holds the whole of it, for scoring only;
        with adapters only another adapter, from a file of `write_reference`.
        """
        if self.adapters is not None:
            self.adapters.hold_reference(self, weights)
            return
        model = load_model(self._model_folder, dtype=self._dtype)
        if weights is not None:
            load_weights(model, weights)
        scorer = PolicyScorer(model, chunk=self.scorer.model.lm_head.chunk, recompute=False)
        scorer.requires_grad_(requires_grad=False)
        self._reference = scorer.eval().to(self.device)

    def reference_logprobs(self, rows: Sequence[Row]) -> list[Tensor]:
        """Log-probabilities of each row's targets under the reference. On all ranks."""
        if self.adapters is not None:
            with self.adapters.reference():
                return self.logprobs(rows)
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

    def save_state(self, folder: Path, tag: str) -> None:
        """Writes weights, optimizer and random state of all ranks below `folder`/`tag`.

        Raises OSError where there is no room.
        """
        try:
            self.deepspeed.save_checkpoint(str(folder), tag=tag, save_latest=False)
            torch.save(_random_state(), folder / tag / self._random_name)
        except RuntimeError as error:
            # torch's writer, in C++, tells of a failed write in no other way.
            if "PytorchStreamWriter" in str(error) or "inline_container" in str(error):
                raise OSError(errno.ENOSPC, "writing failed", str(folder / tag)) from error
            raise

    def restore_state(self, folder: Path, tag: str) -> bool:
        """Loads what `save_state` wrote, into a fresh engine; False where it is not there."""
        path, _ = self.deepspeed.load_checkpoint(str(folder), tag=tag)
        if path is None:
            return False
        state = torch.load(folder / tag / self._random_name, weights_only=False)
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        torch.set_rng_state(state["torch"])
        self.updates = 0
        return True

    @property
    def _random_name(self) -> str:
        return f"random-rank-{self.ranks.rank:03d}.pt"

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
            raise TrainingDiverged(f"the {what} is {value} at update {self.updates + 1}")

    def _require_finite_weights(self) -> None:
        """One pass over what trains: a rate too high may overflow weights of a finite gradient."""
        parts = [getattr(p, "ds_tensor", p) for p in self.scorer.parameters() if p.requires_grad]
        bounds = [torch.stack(torch.aminmax(part.detach())) for part in parts if part.numel()]
        finite = bool(torch.stack([bound.float() for bound in bounds]).isfinite().all())
        if self.anywhere(not finite):
            raise TrainingDiverged(f"a weight is not finite after update {self.updates + 1}")


def _random_state() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # libraries draw from the global state
        "torch": torch.get_rng_state(),
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
