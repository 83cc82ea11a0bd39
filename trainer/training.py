"""The parts of the loop: one evaluation, one publication, one SFT stage, one GRPO step.

`Training` holds what they share on one rank. Rank 0 talks to the rollout service about runs and
weights and keeps the records; all ranks stream their share of a batch and take part in updates.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from deepspeed import comm
from rich.console import Console

from synthagent.errors import PreconditionFailed
from synthagent.models import resolve_model
from trainer import stream, weights
from trainer.advantage import reward_statistics
from trainer.checkpoint import Checkpoints, Progress
from trainer.config import TrainerConfig
from trainer.credit import describe, divisor, give_credit, outcome_of
from trainer.engine import Ranks, TrainingEngine, Update, learning_rate
from trainer.metrics import MetricsLog
from trainer.objectives import Prefer, Reinforce, imitate
from trainer.packing import Row, Sample, pack
from trainer.preferences import action_pairs
from trainer.progress import Bar
from trainer.run_folder import RunFolder
from trainer.stream import RolloutLink

T = TypeVar("T")


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
                self.config.rl,
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
        batches = self._shuffled(samples, sft.epochs, sft.trajectories_per_step)[: sft.max_steps]
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
                update = self.engine.update(rows, imitate, learning_rate=rate)
                self._record_step("sft", step, [update], update.seconds)
                self.place = self.place.model_copy(update={"stage": "sft", "step": step + 1})
                bar.show(step + 1, len(batches))
                self._checkpoint(last=step + 1 == len(batches))

    def prefer(self) -> None:
        """Direct preference optimisation on pairs of sibling actions of stored runs."""
        dpo = self.config.dpo
        groups = [
            [(episode.sample, episode.reward) for episode in group]
            for run_id in dpo.runs
            for group in self.link.stored_groups(run_id)
        ]
        pairs = action_pairs(groups, dpo.min_gap)
        if not pairs:
            raise PreconditionFailed(
                f"no siblings of the runs {', '.join(dpo.runs)} act differently at a shared prefix "
                f"with rewards {dpo.min_gap} apart; name other runs, or lower dpo.min_gap"
            )
        if self.place.stage != "dpo":
            self.engine.reset_optimizer()
            self.place = self.place.model_copy(update={"stage": "dpo", "step": 0})
        self._hold_reference("dpo")
        batches = self._shuffled(pairs, dpo.epochs, dpo.pairs_per_step)[: dpo.max_steps]
        with self._bar("dpo", done=self.place.step, total=len(batches)) as bar:
            for step in range(self.place.step, len(batches)):
                share = batches[step][self.ranks.rank :: self.ranks.world_size]
                rows = pack(share, self.config.model.tokens_per_row, whole=True)
                rate = learning_rate(
                    step,
                    peak=dpo.learning_rate,
                    warmup=dpo.warmup_steps,
                    total=len(batches),
                    final_fraction=dpo.final_lr_fraction,
                )
                update = self.engine.update(
                    self._referenced(rows),
                    Prefer(dpo.beta),
                    learning_rate=rate,
                    divisor=float(len(share)),
                )
                self._record_step("dpo", step, [update], update.seconds, pairs=len(batches[step]))
                self.place = self.place.model_copy(update={"stage": "dpo", "step": step + 1})
                bar.show(step + 1, len(batches))
                self._checkpoint(last=step + 1 == len(batches))

    def begin_reinforcing(self, version: int) -> str:
        """Creates the run whose batches are trained on, from policy `version`; returns its name."""
        run_id = self.folder.run_id("rl")
        if self.place.stage != "rl":
            # The gradients of another objective: Adam's moments start anew.
            self.engine.reset_optimizer()
            self.place = self.place.model_copy(update={"stage": "rl", "step": 0})
        if self.config.rl.kl_coefficient:
            self._hold_reference("rl")
        if self.ranks.first:
            spec = stream.training_spec(
                self.config.tasks,
                self.config.rl,
                self.config.rollout.policy,
                self.config.run.seed,
                version,
            )
            self.link.create_run(run_id, spec)
        self.engine.barrier()
        return run_id

    def reinforce(self, step: int, run_id: str) -> None:
        """One step: batch, credit, updates, new policy version, checkpoint."""
        started = time.perf_counter()
        groups = self.link.stream_batch(
            run_id, step, rank=self.ranks.rank, world_size=self.ranks.world_size
        )
        waited = time.perf_counter() - started
        rl = self.config.rl
        version = self.place.policy_version
        batch = self._gathered([outcome_of(group, rl, version) for group in groups])
        credit = give_credit(groups, batch, rl)
        training_started = time.perf_counter()
        updates = self._policy_updates(step, credit.groups)
        train_seconds = time.perf_counter() - training_started
        self.publish(self.place.policy_version + 1)
        statistics = reward_statistics([reward for group in batch for reward in group.rewards])
        self._record_step(
            "rl",
            step,
            updates,
            train_seconds,
            mean_reward=statistics.mean,
            reward_sem=statistics.sem,
            n=statistics.n,
            invalid=statistics.invalid,
            groups=len(batch),
            zero_variance_groups=credit.zero_variance_groups,
            unused_groups=credit.unused_groups,
            **describe(batch),
            wait_seconds=waited,
            step_seconds=time.perf_counter() - started,
        )
        self.console.print(
            f"{rl.algorithm} {step + 1}/{rl.steps}: reward {statistics.mean:.3f} ± "
            f"{statistics.sem:.3f}, {credit.zero_variance_groups} groups without variance, "
            f"{waited:.0f} s rollout, {train_seconds:.0f} s training"
        )
        self.place = self.place.model_copy(update={"stage": "rl", "step": step + 1})
        self._checkpoint(last=step + 1 == rl.steps)

    def export(self) -> None:
        """Writes the trained model for transformers."""
        weights.export_model(self.engine, resolve_model(self.config.model.name), self.folder.model)
        self.engine.barrier()

    def _policy_updates(self, step: int, groups: Sequence[Sequence[Sample]]) -> list[Update]:
        """The updates made of this rank's groups; none where no rank has anything to train on."""
        rl = self.config.rl
        parts = [groups[part :: rl.minibatches] for part in range(rl.minibatches)]
        packed = [pack(part, self.config.model.tokens_per_row) for part in parts]
        if rl.old_logprobs == "recomputed" and rl.minibatches > 1:
            # With a single update the ratio's denominator is the update's own forward pass.
            packed = [self._rescored(rows) for rows in packed]
        if rl.kl_coefficient:
            packed = [self._referenced(rows) for rows in packed]
        objective = Reinforce.of(rl)
        updates = []
        for number, (part, rows) in enumerate(zip(parts, packed, strict=True)):
            if not self.engine.anywhere(bool(rows)):
                continue
            rate = learning_rate(
                step * rl.minibatches + number, peak=rl.learning_rate, warmup=rl.warmup_steps
            )
            updates.append(
                self.engine.update(rows, objective, learning_rate=rate, divisor=divisor(part, rl))
            )
        return updates

    def _rescored(self, rows: Sequence[Row]) -> list[Row]:
        scores = self.engine.logprobs(rows)
        return [
            replace(row, old_logprobs=score.cpu().numpy())
            for row, score in zip(rows, scores, strict=True)
        ]

    def _referenced(self, rows: Sequence[Row]) -> list[Row]:
        scores = self.engine.reference_logprobs(rows)
        return [
            replace(row, reference_logprobs=score.cpu().numpy())
            for row, score in zip(rows, scores, strict=True)
        ]

    def _hold_reference(self, stage: str) -> None:
        """Takes the policy as it is at the beginning of a stage, or was when it began."""
        path = self.folder.path / f"reference-{stage}.safetensors"
        if not self.engine.anywhere(path.exists()):
            weights.write_weights(self.engine, path)
        self.engine.barrier()
        self.engine.hold_reference(path)

    def _gathered(self, own: Sequence[T]) -> list[T]:
        """What all ranks have, in the order of ranks."""
        gathered: list[Sequence[T]] = [()] * self.ranks.world_size
        comm.all_gather_object(gathered, list(own))
        return [item for theirs in gathered for item in theirs]

    def _gold_samples(self) -> list[Sample]:
        """All ranks' samples to imitate, fetched once each, in one order."""
        sft = self.config.sft
        if sft.runs:
            return self._stored_samples(sft.runs, sft.min_reward)
        spec = stream.gold_spec(self.config.tasks, self.config.rl, self.config.run.seed)
        with self._bar("gold trajectories") as bar:
            return self.link.gold_samples(self.folder.run_id("gold"), spec, bar.show)

    def _stored_samples(self, runs: Sequence[str], min_reward: float) -> list[Sample]:
        samples = [
            episode.sample
            for run_id in runs
            for group in self.link.stored_groups(run_id)
            for episode in group
            if episode.reward is not None and episode.reward >= min_reward
        ]
        if not samples:
            raise PreconditionFailed(
                f"no trajectory of the runs {', '.join(runs)} has a reward of {min_reward} or "
                "more; name other runs, or lower sft.min_reward"
            )
        return samples

    def _shuffled(self, items: Sequence[T], epochs: int, size: int) -> list[list[T]]:
        """Batches of all epochs; a function of the items and the seed, so a resume repeats it."""
        order = np.random.default_rng([self.config.run.seed, 1])
        batches = []
        for _ in range(epochs):
            shuffled = order.permutation(len(items))
            batches += [
                [items[i] for i in shuffled[start : start + size]]
                for start in range(0, len(items), size)
            ]
        return batches

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
