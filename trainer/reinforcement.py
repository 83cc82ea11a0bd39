"""Reinforcement learning: batch k, credit, updates, a new policy version, a checkpoint.

Rollouts go on while a step trains where `rl.max_staleness` allows it: the next batch is asked for
as soon as the rollout service may admit it, and is fetched and decoded beside the training. What a
batch holds is a stored row, so fetching it early changes nothing that is trained on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from synthagent.errors import Corrupt
from trainer import stream
from trainer.advantage import reward_statistics
from trainer.batch_log import BatchLog, TrainedBatch
from trainer.credit import Credit, GroupOutcome, describe, divisor, give_credit, outcome_of
from trainer.engine import Update, learning_rate
from trainer.objectives import Reinforce
from trainer.packing import Row, Sample, pack
from trainer.staleness import require_fresh
from trainer.stream import Batch
from trainer.training import Training


@dataclass(frozen=True)
class _Fetched:
    """A rank's share of a step's batch, the outcomes of all ranks, and how long it waited."""

    mine: Batch
    outcomes: list[GroupOutcome]
    policy_version: int
    started: float
    wait_seconds: float


@dataclass(frozen=True)
class _Trained:
    """A step's updates, the tokens of this rank's rows, and the seconds it took."""

    updates: list[Update]
    tokens: int
    seconds: float


class Reinforcement:
    """The stage, on one rank."""

    def __init__(self, training: Training, policy_version: int) -> None:
        """Creates the run whose batches are trained on, from `policy_version`, or finds it."""
        self._training = training
        self._settings = training.config.rl
        self._run_id = training.folder.run_id("rl")
        self._log: BatchLog | None = None
        begins = training.place.stage != "rl"
        if begins:
            # The gradients of another objective: Adam's moments start anew.
            training.engine.reset_optimizer()
            training.place = training.place.model_copy(update={"stage": "rl", "step": 0})
        if self._settings.kl_coefficient:
            training.hold_reference("rl", begins=begins)
        if training.ranks.first:
            self._log = BatchLog(training.folder.batches)
            self._log.cut(training.place.step)
            spec = stream.training_spec(
                training.config.tasks,
                self._settings,
                training.config.rollout.policy,
                training.config.run.seed,
                policy_version,
            )
            training.link.create_run(self._run_id, spec)
        training.engine.barrier()

    def step(self, step: int) -> None:
        """One step. Raises Corrupt where its batch is not what it must be."""
        training, rl = self._training, self._settings
        fetched = self._fetch(step)
        if rl.max_staleness:
            self._fetch_ahead(step + 1)
        credit = give_credit(fetched.mine.groups, fetched.outcomes, rl)
        trained = self._train(step, credit.groups)
        training.publish(training.place.policy_version + 1)
        if not rl.max_staleness:  # only the version that was just published may sample for it
            self._fetch_ahead(step + 1)
        self._record(step, fetched, credit, trained)
        training.place = training.place.model_copy(update={"stage": "rl", "step": step + 1})
        training.checkpoint(last=step + 1 == rl.steps)

    def _fetch(self, step: int) -> _Fetched:
        training, rl = self._training, self._settings
        version, ranks = training.place.policy_version, training.ranks
        started = time.perf_counter()
        mine = training.link.stream_batch(
            self._run_id, step, rank=ranks.rank, world_size=ranks.world_size
        )
        waited = time.perf_counter() - started
        outcomes = training.gathered([outcome_of(group, rl, version) for group in mine.groups])
        ages = [age for outcome in outcomes for age in outcome.ages]
        arrived = sorted(age.trajectory_id for age in ages)
        if arrived != sorted(mine.trajectory_ids):
            raise Corrupt(
                f"the ranks' shares of batch {mine.batch_id} hold {len(arrived)} trajectories, "
                f"{len(set(arrived))} different ones, instead of the {len(mine.trajectory_ids)} "
                "that the batch names; nothing was trained on them"
            )
        require_fresh(ages, rl.max_staleness, version)
        return _Fetched(mine, outcomes, version, started, waited)

    def _fetch_ahead(self, step: int) -> None:
        if step < self._settings.steps:
            ranks = self._training.ranks
            self._training.link.fetch_ahead(
                self._run_id, step, rank=ranks.rank, world_size=ranks.world_size
            )

    def _train(self, step: int, groups: Sequence[Sequence[Sample]]) -> _Trained:
        """The updates made of this rank's groups; none where no rank has anything to train on."""
        training, rl = self._training, self._settings
        started = time.perf_counter()
        parts = [groups[part :: rl.minibatches] for part in range(rl.minibatches)]
        packed = [pack(part, training.config.model.tokens_per_row) for part in parts]
        computed = sum(row.tokens for rows in packed for row in rows)
        if rl.old_logprobs == "recomputed" and rl.minibatches > 1:
            # With a single update the ratio's denominator is the update's own forward pass.
            packed = [self._rescored(rows) for rows in packed]
        if rl.kl_coefficient:
            packed = [training.referenced(rows) for rows in packed]
        objective = Reinforce.of(rl)
        updates = []
        for number, (part, rows) in enumerate(zip(parts, packed, strict=True)):
            if not training.engine.anywhere(bool(rows)):
                continue
            rate = learning_rate(
                step * rl.minibatches + number, peak=rl.learning_rate, warmup=rl.warmup_steps
            )
            updates.append(
                training.engine.update(
                    rows, objective, learning_rate=rate, divisor=divisor(part, rl)
                )
            )
        return _Trained(updates, computed, time.perf_counter() - started)

    def _rescored(self, rows: Sequence[Row]) -> list[Row]:
        with self._training.clock.measured("scoring"):
            scores = self._training.engine.logprobs(rows)
        return [
            replace(row, old_logprobs=score.cpu().numpy())
            for row, score in zip(rows, scores, strict=True)
        ]

    def _record(self, step: int, fetched: _Fetched, credit: Credit, trained: _Trained) -> None:
        training, rl = self._training, self._settings
        batch, mine = fetched.outcomes, fetched.mine
        own = tuple(s.sample_id for group in credit.groups for s in group if s.policy_tokens)
        shares = training.gathered([(own, mine.rank_tokens, trained.tokens)])
        if self._log is not None:
            used = {name for names, _, _ in shares for name in names}
            row = TrainedBatch(
                step=step + 1,
                batch_id=mine.batch_id,
                policy_version=fetched.policy_version,
                trajectory_ids=mine.trajectory_ids,
                trained_ids=tuple(name for name in mine.trajectory_ids if name in used),
                rank_tokens=tuple(tokens for _, tokens, _ in shares),
                rank_tokens_computed=tuple(tokens for _, _, tokens in shares),
            )
            self._log.append(row)
        statistics = reward_statistics([reward for group in batch for reward in group.rewards])
        training.record_step(
            "rl",
            step,
            trained.updates,
            trained.seconds,
            mean_reward=statistics.mean,
            reward_sem=statistics.sem,
            n=statistics.n,
            invalid=statistics.invalid,
            groups=len(batch),
            zero_variance_groups=credit.zero_variance_groups,
            unused_groups=credit.unused_groups,
            **describe(batch),
            imbalance=mine.imbalance,
            imbalance_computed=_imbalance([tokens for _, _, tokens in shares]),
            fetch_seconds=mine.fetch_seconds,
            wait_seconds=fetched.wait_seconds,
            step_seconds=time.perf_counter() - fetched.started,
        )
        training.console.print(
            f"{rl.algorithm} {step + 1}/{rl.steps}: reward {statistics.mean:.3f} ± "
            f"{statistics.sem:.3f}, {credit.zero_variance_groups} groups without variance, "
            f"{fetched.wait_seconds:.0f} s rollout, {trained.seconds:.0f} s training"
        )


def _imbalance(tokens: Sequence[int]) -> float:
    """The fullest rank over the mean; 1 where there is nothing."""
    return max(tokens) * len(tokens) / sum(tokens) if sum(tokens) else 1.0
