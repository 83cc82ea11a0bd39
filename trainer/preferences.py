"""Pairs of actions to prefer one of: the best and the worst at one shared prefix.

An action is a run of tokens that the policy sampled between two observations. Where siblings of a
group share every token up to an action and then act differently, what each action led to says which
was better: the mean reward of the siblings that took it (LAM SIMULATOR, arXiv 2506.02298, section
3). INVALID episodes lead to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from trainer.packing import Sample

Rewarded = tuple[Sample, float | None]
"""An episode's tokens and its reward; None where it is INVALID."""


def action_pairs(
    groups: Sequence[Sequence[Rewarded]], min_gap: float
) -> list[tuple[Sample, Sample]]:
    """(chosen, rejected) at every prefix whose best and worst action differ by `min_gap` or more.

    Each sample holds the shared prefix as its prompt and the action as its only policy tokens.
    """
    return [pair for group in groups for pair in _pairs(group, min_gap)]


def _pairs(group: Sequence[Rewarded], min_gap: float) -> Iterator[tuple[Sample, Sample]]:
    prefixes: dict[bytes, dict[bytes, list[tuple[Sample, float, int, int]]]] = {}
    for sample, reward in group:
        if reward is None:
            continue
        for start, end in _actions(sample):
            prefix = sample.token_ids[:start].tobytes()
            action = sample.token_ids[start:end].tobytes()
            taken = prefixes.setdefault(prefix, {}).setdefault(action, [])
            taken.append((sample, reward, start, end))
    for actions in prefixes.values():
        if len(actions) < 2:
            continue
        worth = {action: fmean(r for _, r, _, _ in taken) for action, taken in actions.items()}
        # Ties are settled by the tokens, so that the pairs depend on the episodes alone.
        best = max(worth, key=lambda action: (worth[action], action))
        worst = min(worth, key=lambda action: (worth[action], action))
        if best != worst and worth[best] - worth[worst] >= min_gap:
            yield _cut(*actions[best][0]), _cut(*actions[worst][0])


def _actions(sample: Sample) -> Iterator[tuple[int, int]]:
    """Half-open ranges of the runs of policy tokens."""
    edges = np.flatnonzero(np.diff(sample.policy_mask.astype(np.int8), prepend=0, append=0))
    for start, end in edges.reshape(-1, 2):
        yield int(start), int(end)


def _cut(sample: Sample, _reward: float, start: int, end: int) -> Sample:
    mask = np.zeros(end, dtype=np.bool_)
    mask[start:] = True
    return replace(
        sample,
        sample_id=f"{sample.sample_id}@{start}",
        token_ids=sample.token_ids[:end],
        policy_mask=mask,
        logprobs=np.where(mask, sample.logprobs[:end], 0).astype(np.float32),
        prompt_tokens=start,
    )
