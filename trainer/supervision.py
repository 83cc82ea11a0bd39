"""The stages on stored trajectories: supervised fine-tuning, and preferences between siblings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from synthagent.errors import PreconditionFailed
from trainer import stream
from trainer.engine import learning_rate
from trainer.objectives import Prefer, imitate
from trainer.packing import Sample, pack
from trainer.preferences import action_pairs
from trainer.training import Training

T = TypeVar("T")


def warm_up(training: Training) -> None:
    """Supervised fine-tuning on gold trajectories, from the step where the place is."""
    sft, ranks = training.config.sft, training.ranks
    batches = _shuffled(training, _samples(training), sft.epochs, sft.trajectories_per_step)
    batches = batches[: sft.max_steps]
    with training.bar("sft", done=training.place.step, total=len(batches)) as bar:
        for step in range(training.place.step, len(batches)):
            # Dealt out by length, so that ranks get like work.
            by_length = sorted(batches[step], key=lambda s: (-len(s.token_ids), s.sample_id))
            rows = pack(
                [[sample] for sample in by_length[ranks.rank :: ranks.world_size]],
                training.config.model.tokens_per_row,
            )
            rate = learning_rate(
                step,
                peak=sft.learning_rate,
                warmup=sft.warmup_steps,
                total=len(batches),
                final_fraction=sft.final_lr_fraction,
            )
            update = training.engine.update(rows, imitate, learning_rate=rate)
            training.record_step("sft", step, [update], update.seconds)
            training.place = training.place.model_copy(update={"stage": "sft", "step": step + 1})
            bar.show(step + 1, len(batches))
            training.checkpoint(last=step + 1 == len(batches))


def prefer(training: Training) -> None:
    """Direct preference optimisation on pairs of sibling actions of stored runs."""
    dpo, ranks = training.config.dpo, training.ranks
    groups = [
        [(episode.sample, episode.reward) for episode in group]
        for run_id in dpo.runs
        for group in training.link.stored_groups(run_id)
    ]
    pairs = action_pairs(groups, dpo.min_gap)
    if not pairs:
        raise PreconditionFailed(
            f"no siblings of the runs {', '.join(dpo.runs)} act differently at a shared prefix "
            f"with rewards {dpo.min_gap} apart; name other runs, or lower dpo.min_gap"
        )
    begins = training.place.stage != "dpo"
    if begins:
        training.engine.reset_optimizer()
        training.place = training.place.model_copy(update={"stage": "dpo", "step": 0})
    training.hold_reference("dpo", begins=begins)
    batches = _shuffled(training, pairs, dpo.epochs, dpo.pairs_per_step)[: dpo.max_steps]
    with training.bar("dpo", done=training.place.step, total=len(batches)) as bar:
        for step in range(training.place.step, len(batches)):
            share = batches[step][ranks.rank :: ranks.world_size]
            rows = pack(share, training.config.model.tokens_per_row, whole=True)
            rate = learning_rate(
                step,
                peak=dpo.learning_rate,
                warmup=dpo.warmup_steps,
                total=len(batches),
                final_fraction=dpo.final_lr_fraction,
            )
            update = training.engine.update(
                training.referenced(rows),
                Prefer(dpo.beta),
                learning_rate=rate,
                divisor=float(len(share)),
            )
            training.record_step("dpo", step, [update], update.seconds, pairs=len(batches[step]))
            training.place = training.place.model_copy(update={"stage": "dpo", "step": step + 1})
            bar.show(step + 1, len(batches))
            training.checkpoint(last=step + 1 == len(batches))


def _samples(training: Training) -> list[Sample]:
    """All ranks' samples to imitate, fetched once each, in one order."""
    config = training.config
    if config.sft.runs:
        return _stored_samples(training, config.sft.runs, config.sft.min_reward)
    spec = stream.gold_spec(config.tasks, config.rl, config.run.seed)
    with training.bar("gold trajectories") as bar:
        return training.link.gold_samples(training.folder.run_id("gold"), spec, bar.show)


def _stored_samples(training: Training, runs: Sequence[str], min_reward: float) -> list[Sample]:
    samples = [
        episode.sample
        for run_id in runs
        for group in training.link.stored_groups(run_id)
        for episode in group
        # Without a token of the policy there is nothing to imitate.
        if episode.reward is not None
        and episode.reward >= min_reward
        and episode.sample.policy_tokens
    ]
    if not samples:
        raise PreconditionFailed(
            f"no trajectory of the runs {', '.join(runs)} has a reward of {min_reward} or "
            "more; name other runs, or lower sft.min_reward"
        )
    return samples


def _shuffled(training: Training, items: Sequence[T], epochs: int, size: int) -> list[list[T]]:
    """Batches of all epochs; a function of the items and the seed, so a resume repeats it."""
    order = np.random.default_rng([training.config.run.seed, 1])
    batches = []
    for _ in range(epochs):
        shuffled = order.permutation(len(items))
        batches += [
            [items[i] for i in shuffled[start : start + size]]
            for start in range(0, len(items), size)
        ]
    return batches
