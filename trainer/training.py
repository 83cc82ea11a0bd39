"""The parts of the loop: one evaluation, one publication, one SFT stage, one GRPO step.

`Training` holds what they share on one rank. Rank 0 talks to the rollout service about runs and
weights and keeps the records; all ranks stream their share of a batch and take part in updates.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from deepspeed import comm
from rich.console import Console
from torch import Tensor

from synthagent.errors import PreconditionFailed
from synthagent.models import resolve_model
from trainer import stream, weights
from trainer.advantage import batch_advantages, reward_statistics
from trainer.checkpoint import Checkpoints, Progress
from trainer.config import TrainerConfig
from trainer.engine import Ranks, Scores, TrainingEngine, Update, learning_rate
from trainer.loss import Clipping, imitation_loss, policy_loss
from trainer.metrics import MetricsLog
from trainer.packing import Row, Sample, pack
from trainer.progress import Bar
from trainer.run_folder import RunFolder
from trainer.stream import Episode, RolloutLink


@dataclass
class Training:
    """One rank's share of a run; `place` moves as the loop does."""

    config: TrainerConfig
    folder: RunFolder
    ranks: Ranks
    engine: TrainingEngine
    link: RolloutLink
    log: MetricsLog | None  # rank 0 only
    checkpoints: Checkpoints
    console: Console
    place: Progress

    def evaluate(self, label: str) -> None:
        """Records the policy's reward on the evaluation tasks."""
        if self.log is not None:
            started = time.perf_counter()
            spec = stream.evaluation_spec(
                self.config.evaluation,
                self.config.grpo,
                self.config.rollout.policy,
                self.config.run.seed,
            )
            with self._bar(f"evaluate {label}") as bar:
                result = self.link.evaluate(
                    self.folder.run_id(label), spec, self.place.policy_version, bar.show
                )
            self._record(
                "evaluate",
                label=label,
                mean_reward=result.mean_reward,
                reward_sem=result.reward_sem,
                n=result.n,
                invalid=result.invalid,
                seconds=time.perf_counter() - started,
            )
            self.console.print(
                f"{label}: reward {result.mean_reward:.3f} ± {result.reward_sem:.3f} "
                f"(n = {result.n}, {result.invalid} invalid)"
            )
        self.engine.barrier()

    def publish(self, version: int) -> None:
        """Makes the weights as they are the policy's `version` and moves there."""
        path, digest = weights.write_version(self.engine, self.folder.weights, version)
        if self.ranks.first:
            try:
                self.link.publish(version, path, digest)
            except PreconditionFailed as error:
                # A resumed run repeats steps whose versions the service already has or has passed.
                if version > self.folder.highest_published():
                    raise PreconditionFailed(
                        f"{error.message} Set rollout.first_policy_version above it for a new run."
                    ) from error
            self.folder.note_published(version)
        self.place = self.place.model_copy(update={"policy_version": version})
        self.engine.barrier()

    def warm_up(self) -> None:
        """Supervised fine-tuning on gold trajectories, from the step where the place is."""
        sft = self.config.sft
        samples = self._gold_samples()
        batches = self._sft_batches(samples)
        with self._bar("sft", done=self.place.step, total=len(batches)) as bar:
            for step in range(self.place.step, len(batches)):
                rows = pack(
                    [[sample] for sample in self._share(batches[step])],
                    self.config.model.tokens_per_row,
                )
                rate = learning_rate(
                    step,
                    peak=sft.learning_rate,
                    warmup=sft.warmup_steps,
                    total=len(batches),
                    final_fraction=sft.final_lr_fraction,
                )
                update = self.engine.update(rows, _imitate, learning_rate=rate)
                self._record_step("sft", step, [update], update.seconds)
                self.place = self.place.model_copy(update={"stage": "sft", "step": step + 1})
                bar.show(step + 1, len(batches))
                self._checkpoint(last=step + 1 == len(batches))

    def begin_reinforcing(self, version: int) -> str:
        """Creates the run whose batches are trained on, from policy `version`; returns its name."""
        run_id = self.folder.run_id("grpo")
        if self.place.stage != "grpo":
            # The gradients of another objective: Adam's moments start anew.
            self.engine.reset_optimizer()
            self.place = self.place.model_copy(update={"stage": "grpo", "step": 0})
        if self.ranks.first:
            spec = stream.training_spec(
                self.config.tasks,
                self.config.grpo,
                self.config.rollout.policy,
                self.config.run.seed,
                version,
            )
            self.link.create_run(run_id, spec)
        self.engine.barrier()
        return run_id

    def reinforce(self, step: int, run_id: str) -> None:
        """One GRPO step: batch, advantages, updates, new policy version, checkpoint."""
        started = time.perf_counter()
        groups = self.link.stream_batch(
            run_id, step, rank=self.ranks.rank, world_size=self.ranks.world_size
        )
        waited = time.perf_counter() - started
        grpo = self.config.grpo
        rewards = [[episode.reward for episode in group] for group in groups]
        batch = batch_advantages(rewards, divide_by_std=grpo.divide_by_std, gate=grpo.outcome_gate)
        trained = _with_advantages(groups, batch.values)
        training_started = time.perf_counter()
        updates = self._policy_updates(step, trained)
        train_seconds = time.perf_counter() - training_started
        self.publish(self.place.policy_version + 1)
        gathered: list[tuple[list[list[float | None]], int]] = [None] * self.ranks.world_size  # type: ignore[list-item]  # filled by the next call
        comm.all_gather_object(gathered, (rewards, batch.zero_variance_groups))
        flat = [reward for theirs, _ in gathered for group in theirs for reward in group]
        statistics = reward_statistics(flat)
        self._record_step(
            "grpo",
            step,
            updates,
            train_seconds,
            mean_reward=statistics.mean,
            reward_sem=statistics.sem,
            n=statistics.n,
            invalid=statistics.invalid,
            groups=sum(len(theirs) for theirs, _ in gathered),
            zero_variance_groups=sum(count for _, count in gathered),
            wait_seconds=waited,
            step_seconds=time.perf_counter() - started,
        )
        self.console.print(
            f"grpo {step + 1}/{grpo.steps}: reward {statistics.mean:.3f} ± {statistics.sem:.3f}, "
            f"{sum(count for _, count in gathered)} groups without variance, "
            f"{waited:.0f} s rollout, {train_seconds:.0f} s training"
        )
        self.place = self.place.model_copy(update={"stage": "grpo", "step": step + 1})
        self._checkpoint(last=step + 1 == grpo.steps)

    def export(self) -> None:
        """Writes the trained model for transformers."""
        weights.export_model(self.engine, resolve_model(self.config.model.name), self.folder.model)
        self.engine.barrier()

    def _policy_updates(self, step: int, groups: Sequence[Sequence[Sample]]) -> list[Update]:
        """The updates made of this rank's groups; none where no rank has anything to train on."""
        grpo = self.config.grpo
        parts = [
            pack(groups[part :: grpo.minibatches], self.config.model.tokens_per_row)
            for part in range(grpo.minibatches)
        ]
        if grpo.old_logprobs == "recomputed" and grpo.minibatches > 1:
            # With a single update the ratio's denominator is the update's own forward pass.
            parts = [self._rescored(rows) for rows in parts]
        objective = _PolicyObjective(
            Clipping(grpo.clip_low, grpo.clip_high, grpo.dual_clip),
            entropy_coefficient=grpo.entropy_coefficient,
            on_policy=grpo.old_logprobs == "recomputed" and grpo.minibatches == 1,
        )
        updates = []
        for part, rows in enumerate(parts):
            if not self.engine.anywhere(bool(rows)):
                continue
            rate = learning_rate(
                step * grpo.minibatches + part, peak=grpo.learning_rate, warmup=grpo.warmup_steps
            )
            updates.append(self.engine.update(rows, objective, learning_rate=rate))
        return updates

    def _rescored(self, rows: Sequence[Row]) -> list[Row]:
        scores = self.engine.logprobs(rows)
        return [
            replace(row, old_logprobs=score.cpu().numpy())
            for row, score in zip(rows, scores, strict=True)
        ]

    def _gold_samples(self) -> list[Sample]:
        """All ranks' gold samples, fetched once each, in one order."""
        spec = stream.gold_spec(self.config.tasks, self.config.grpo, self.config.run.seed)
        with self._bar("gold trajectories") as bar:
            return self.link.gold_samples(self.folder.run_id("gold"), spec, bar.show)

    def _sft_batches(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """Batches of all steps; a function of the samples and the seed, so a resume repeats it."""
        sft = self.config.sft
        order = np.random.default_rng([self.config.run.seed, 1])
        size = sft.trajectories_per_step
        batches = []
        for _ in range(sft.epochs):
            shuffled = order.permutation(len(samples))
            batches += [
                [samples[i] for i in shuffled[start : start + size]]
                for start in range(0, len(samples), size)
            ]
        return batches[: sft.max_steps]

    def _share(self, batch: Sequence[Sample]) -> Sequence[Sample]:
        """This rank's share: dealt out by length, so that ranks get like work."""
        by_length = sorted(batch, key=lambda sample: (-len(sample.token_ids), sample.sample_id))
        return by_length[self.ranks.rank :: self.ranks.world_size]

    def _checkpoint(self, *, last: bool) -> None:
        settings = self.config.checkpoint
        if settings.enabled and (last or self.place.step % settings.every_steps == 0):
            length = self.log.length if self.log is not None else 0
            self.place = self.place.model_copy(update={"metrics_length": length})
            self.checkpoints.save(self.engine, self.place)

    def _record_step(
        self, stage: str, step: int, updates: Sequence[Update], seconds: float, **more: float
    ) -> None:
        tokens = sum(update.tokens for update in updates)
        policy_tokens = sum(update.policy_tokens for update in updates)

        def mean(values: Sequence[float]) -> float | None:
            weighted = zip(values, updates, strict=True)
            return (
                sum(value * update.policy_tokens for value, update in weighted) / policy_tokens
                if policy_tokens
                else None
            )

        names = updates[0].means if updates else {}
        self._record(
            stage,
            step=step + 1,
            loss=mean([update.loss for update in updates]),
            gradient_norm=mean([update.gradient_norm for update in updates]),
            tokens=tokens,
            policy_tokens=policy_tokens,
            seconds=seconds,
            tokens_per_second=tokens / seconds if seconds else 0.0,
            **{name: mean([update.means[name] for update in updates]) for name in names},
            **more,
        )

    def _record(self, stage: str, **values: object) -> None:
        if self.log is not None:
            values.setdefault("step", self.place.step)
            self.log.record(stage, policy_version=self.place.policy_version, **values)

    def _bar(self, label: str, *, done: int = 0, total: int | None = None) -> Bar:
        return Bar(self.console, label, done, total)


def _imitate(scores: Scores) -> tuple[Tensor, dict[str, Tensor]]:
    return imitation_loss(scores.logprobs), {}


@dataclass(frozen=True)
class _PolicyObjective:
    """GRPO's objective on the scores of a row."""

    clipping: Clipping
    entropy_coefficient: float
    on_policy: bool

    def __call__(self, scores: Scores) -> tuple[Tensor, dict[str, Tensor]]:
        old = scores.logprobs.detach() if self.on_policy else scores.old_logprobs
        loss = policy_loss(scores.logprobs, old, scores.advantages, self.clipping)
        total = loss.total
        if self.entropy_coefficient:
            total = total - self.entropy_coefficient * scores.entropies.sum()
        reports = {
            "clip_fraction": loss.clipped,
            "kl": loss.divergence,
            "entropy": scores.entropies.detach().sum(),
            # How far the engine that sampled and the trainer disagree, or the policy has moved.
            "sampling_gap": (scores.logprobs.detach() - scores.old_logprobs).abs().sum(),
        }
        return total, reports


def _with_advantages(
    groups: Sequence[Sequence[Episode]], values: Sequence[Sequence[float | None]]
) -> list[list[Sample]]:
    """Samples to train on: without INVALID episodes and groups that carry no gradient."""
    trained = [
        [
            replace(episode.sample, advantage=value)
            for episode, value in zip(group, advantages, strict=True)
            if value is not None
        ]
        for group, advantages in zip(groups, values, strict=True)
    ]
    return [group for group in trained if group]
