"""Each algorithm against a plain float64 reference, written from its paper's equation.

In one thing both differ from the papers: groups whose rewards do not vary are left out, also of the
denominators, where GRPO, Dr. GRPO and RLOO count them. Their advantages are zero, so this scales
the step (and leaves them out of a KL term) and does not turn it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer.tiny import make_groups
from trainer.algorithms import ALGORITHMS
from trainer.config import RlSettings
from trainer.credit import GroupOutcome, divisor, give_credit, outcome_of
from trainer.engine import Scores
from trainer.episodes import Episode
from trainer.objectives import Reinforce
from trainer.packing import Sample, pack

MOST_TOKENS = 64
REWARDS = ((1.0, 0.25, 0.0, 0.5), (0.0, 0.0, 1.0, None), (0.5, 0.5, 0.5, 0.5), (0.3, 0.9, 0.1, 0.6))


@dataclass(frozen=True)
class Sequence64:
    """One episode as a paper sees it; `new` is what is differentiated."""

    new: Tensor
    old: Tensor
    sampled: Tensor
    reference: Tensor
    reward: float
    tokens: int


Groups = list[list[Sequence64]]


def batch(seed: int = 3) -> tuple[list[list[Episode]], dict[str, Sequence64]]:
    rng = np.random.default_rng(seed)
    episodes, by_name = [], {}
    for samples, rewards in zip(make_groups(seed=seed, groups=4), REWARDS, strict=True):
        episodes.append([Episode(s, r) for s, r in zip(samples, rewards, strict=True)])
        for sample, reward in zip(samples, rewards, strict=True):
            old = -rng.random(sample.policy_tokens) * 3
            by_name[sample.sample_id] = Sequence64(
                torch.tensor(old + rng.normal(0, 0.3, len(old)), requires_grad=True),
                torch.tensor(old),
                torch.tensor(old + rng.normal(0, 0.3, len(old))),
                torch.tensor(old + rng.normal(0, 0.3, len(old))),
                float("nan") if reward is None else reward,
                len(sample.token_ids),
            )
    return episodes, by_name


def settings(algorithm: str, **more: object) -> RlSettings:
    given = {"algorithm": algorithm, "max_episode_tokens": MOST_TOKENS, "groups_per_step": 4}
    return RlSettings.model_validate({**given, **more})


def ours(rl: RlSettings) -> tuple[float, dict[str, Tensor]]:
    """The trainer's loss and its gradient by each episode's log-probabilities."""
    episodes, by_name = batch()
    outcomes = [outcome_of(group, rl) for group in episodes]
    credit = give_credit(episodes, outcomes, rl)
    rows = pack(credit.groups, 90)
    assert len(rows) > 1
    objective = Reinforce.of(rl.model_copy(update={"old_logprobs": "recorded"}))
    tokens = sum(len(row.targets) for row in rows)
    whole = divisor(credit.groups, rl) or tokens
    total = 0.0
    for row in rows:
        parts = [by_name[name] for name in row.sample_ids]
        scores = Scores(
            torch.cat([part.new for part in parts]),
            torch.zeros(len(row.targets), dtype=torch.float64),
            torch.cat([part.sampled for part in parts]),
            torch.cat([part.old for part in parts]),
            torch.cat([part.reference for part in parts]),
            torch.from_numpy(row.advantages).double(),
            torch.from_numpy(row.weights).double(),
            torch.from_numpy(row.sample_index),
        )
        loss = objective(scores)[0] / whole
        torch.autograd.backward(loss)
        total += loss.item()
    return total, {name: gradient(part) for name, part in by_name.items()}


def gradient(part: Sequence64) -> Tensor:
    return torch.zeros_like(part.new) if part.new.grad is None else part.new.grad


def theirs(reference: Callable[[Groups], Tensor]) -> tuple[float, dict[str, Tensor]]:
    episodes, by_name = batch()
    groups = [
        [by_name[e.sample.sample_id] for e in group if e.reward is not None] for group in episodes
    ]
    loss = -reference(groups)
    torch.autograd.backward(loss)
    return loss.item(), {name: gradient(part) for name, part in by_name.items()}


# Advantages travel as float32, and a floor of 1e-6 keeps the deviation off zero.
TOLERANCE = 2e-5


@dataclass(frozen=True)
class Comparison:
    """The trainer's loss and gradients beside those of a paper's equation."""

    found: float
    expected: float
    slopes: dict[str, Tensor]
    wanted: dict[str, Tensor]

    @property
    def steepest(self) -> float:
        return max(float(slope.abs().max()) for slope in self.wanted.values())

    @property
    def furthest(self) -> float:
        """The largest difference of any derivative."""
        return max(
            float((self.slopes[name] - slope).abs().max()) for name, slope in self.wanted.items()
        )


def compare(rl: RlSettings, reference: Callable[[Groups], Tensor]) -> Comparison:
    (found, slopes), (expected, wanted) = ours(rl), theirs(reference)
    return Comparison(found, expected, slopes, wanted)


def rewards_of(group: Sequence[Sequence64]) -> Tensor:
    return torch.tensor([part.reward for part in group], dtype=torch.float64)


def varies(group: Sequence[Sequence64]) -> bool:
    return bool(rewards_of(group).std() > 0)


def clipped(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    return torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def standardised(rewards: Tensor) -> Tensor:
    return (rewards - rewards.mean()) / rewards.std()


def grpo(groups: Groups, beta: float = 0.0) -> Tensor:
    """arXiv 2402.03300, eq. 3: mean over outputs of the mean over tokens; eq. 4 for the KL."""
    terms = []
    for group in filter(varies, groups):
        for part, advantage in zip(group, standardised(rewards_of(group)), strict=True):
            surrogate = clipped((part.new - part.old).exp(), advantage, 0.2, 0.2)
            gap = part.reference - part.new
            terms.append((surrogate - beta * (gap.exp() - gap - 1)).mean())
    return torch.stack(terms).mean()


def dapo(groups: Groups) -> Tensor:
    """arXiv 2503.14476, eq. 8: mean over all tokens, eq. 13: soft overlong punishment."""
    terms, most, buffer = [], MOST_TOKENS, 0.2 * MOST_TOKENS
    for group in filter(varies, groups):
        lengths = [part.tokens for part in group]
        penalties = [0.0 if n <= most - buffer else (most - buffer - n) / buffer for n in lengths]
        shaped = rewards_of(group) + torch.tensor(penalties, dtype=torch.float64)
        for part, advantage in zip(group, standardised(shaped), strict=True):
            terms.append(clipped((part.new - part.old).exp(), advantage, 0.2, 0.28))
    return torch.cat(terms).sum() / sum(len(term) for term in terms)


def dr_grpo(groups: Groups) -> Tensor:
    """arXiv 2503.20783, section 3.2: neither the deviation nor the length divides."""
    terms = []
    for group in filter(varies, groups):
        rewards = rewards_of(group)
        for part, advantage in zip(group, rewards - rewards.mean(), strict=True):
            surrogate = clipped((part.new - part.old).exp(), advantage, 0.2, 0.2)
            terms.append(surrogate.sum() / MOST_TOKENS)
    return torch.stack(terms).mean()


def gspo(groups: Groups) -> Tensor:
    """arXiv 2507.18071, eq. 5 and 7: one ratio an output, the geometric mean of its tokens'."""
    terms = []
    for group in filter(varies, groups):
        for part, advantage in zip(group, standardised(rewards_of(group)), strict=True):
            ratio = ((part.new.sum() - part.old.sum()) / len(part.new)).exp()
            terms.append(clipped(ratio, advantage, 0.1, 0.2))
    return torch.stack(terms).mean()


def rloo(groups: Groups) -> Tensor:
    """arXiv 2402.14740, section 3.3: the mean of the other rewards is the baseline."""
    terms = []
    for group in filter(varies, groups):
        rewards = rewards_of(group)
        for index, part in enumerate(group):
            others = torch.cat([rewards[:index], rewards[index + 1 :]])
            terms.append((rewards[index] - others.mean()) * part.new.sum())
    return torch.stack(terms).mean()


def reinforce_plus_plus(groups: Groups) -> Tensor:
    """arXiv 2501.03262, section 3: rewards are normalised over the batch, clipped as in PPO."""
    parts = [part for group in groups for part in group]
    advantages = standardised(rewards_of(parts))
    terms = [
        clipped((part.new - part.old).exp(), advantage, 0.2, 0.2)
        for part, advantage in zip(parts, advantages, strict=True)
    ]
    return torch.cat(terms).mean()


REFERENCES: dict[str, tuple[Callable[[Groups], Tensor], dict[str, object]]] = {
    "grpo": (grpo, {}),
    "dapo": (dapo, {}),
    "dr_grpo": (dr_grpo, {}),
    # Bounds wide enough that outputs of random tokens lie on both sides of them.
    "gspo": (gspo, {"clip_low": 0.1, "clip_high": 0.2}),
    "rloo": (rloo, {}),
    "reinforce_plus_plus": (reinforce_plus_plus, {}),
}


def test_every_algorithm_has_a_reference() -> None:
    assert REFERENCES.keys() == ALGORITHMS.keys()


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_loss_and_gradient_are_those_of_the_paper(algorithm: str) -> None:
    reference, more = REFERENCES[algorithm]
    same = compare(settings(algorithm, **more), reference)
    assert same.found == pytest.approx(same.expected, abs=TOLERANCE)
    assert same.steepest > 1e-4
    assert same.furthest < TOLERANCE


def test_the_divergence_from_the_reference_is_that_of_grpo() -> None:
    same = compare(settings("grpo", kl_coefficient=0.04), lambda groups: grpo(groups, beta=0.04))
    assert same.found == pytest.approx(same.expected, abs=TOLERANCE)
    assert same.steepest > 1e-4
    assert same.furthest < TOLERANCE


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("mode", ["truncate", "mask"])
def test_importance_correction_weighs_by_how_the_engine_differs(level: str, mode: str) -> None:
    cap = 1.2 if level == "token" else 4.0

    def corrected(groups: Groups) -> Tensor:
        terms = []
        for group in filter(varies, groups):
            for part, advantage in zip(group, standardised(rewards_of(group)), strict=True):
                gap = part.old - part.sampled
                weight = (gap if level == "token" else gap.sum().expand(len(gap))).exp()
                if mode == "truncate":
                    weight = torch.minimum(weight, torch.tensor(cap))
                else:
                    weight = torch.where((weight > cap) | (weight < 1 / cap), 0.0, weight)
                surrogate = clipped((part.new - part.old).exp(), advantage, 0.2, 0.2)
                terms.append((surrogate * weight).mean())
        return torch.stack(terms).mean()

    rl = settings("grpo", correction=level, correction_mode=mode, correction_cap=cap)
    same = compare(rl, corrected)
    assert same.found == pytest.approx(same.expected, abs=TOLERANCE)
    assert same.steepest > 1e-4
    assert same.furthest < TOLERANCE


def names(groups: Sequence[Sequence[Sample]]) -> list[str]:
    return [group[0].sample_id for group in groups]


def test_dynamic_sampling_trains_on_the_first_groups_that_vary() -> None:
    episodes, _ = batch()
    rl = settings("dapo", groups_per_step=2, oversampling=2)
    outcomes = [outcome_of(group, rl) for group in episodes]
    credit = give_credit(episodes, list(reversed(outcomes)), rl)
    assert rl.sampled_groups == 4
    assert [name[0] for name in names(credit.groups)] == ["0", "1"]
    assert (credit.zero_variance_groups, credit.unused_groups) == (1, 2)


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_credit_does_not_depend_on_the_number_of_ranks(algorithm: str) -> None:
    episodes, _ = batch()
    rl = settings(algorithm)
    outcomes = [outcome_of(group, rl) for group in episodes]
    alone = give_credit(episodes, outcomes, rl).groups
    first = give_credit(episodes[::2], outcomes[::2] + outcomes[1::2], rl).groups
    second = give_credit(episodes[1::2], outcomes[::2] + outcomes[1::2], rl).groups
    merged = {s.sample_id: (s.advantage, s.weight) for g in (*first, *second) for s in g}
    assert merged == {s.sample_id: (s.advantage, s.weight) for g in alone for s in g}


def test_the_gate_looks_at_outcomes_before_any_shaping() -> None:
    rl = settings("dapo", outcome_gate=0.5, oversampling=1)
    samples = make_groups(groups=1)[0]
    failed = [Episode(sample, 0.1 * number) for number, sample in enumerate(samples)]
    outcome = GroupOutcome(samples[0].sample_id, (0.0, 0.1, 0.2, 0.3), (0.0, -0.5, -1.0, 0.0))
    assert give_credit([failed], [outcome], rl).groups == ()
