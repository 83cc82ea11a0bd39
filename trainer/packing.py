"""Rows: how token sequences share one forward pass.

A row holds trees laid end to end. A tree is one prompt and its branches: the episodes of a group
share their prompt, so it is computed once and each branch attends to the prompt and to itself.
Nothing attends across branches or trees, positions restart behind the prompt, and so a row's
log-probabilities and gradients are those of its sequences one by one.

Only positions that predict a token of the policy are scored; `Row.predictors` names them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """One episode as tokens.

    `token_ids`, `policy_mask` and `logprobs` have shape [tokens]. The mask is true on tokens that
    the policy sampled (for a gold trajectory: would have had to sample); `logprobs` are those
    recorded at sampling, 0 elsewhere. `prompt_tokens` leads the sequence and holds no policy token.
    """

    sample_id: str
    token_ids: Ids
    policy_mask: Mask
    logprobs: Floats
    prompt_tokens: int
    advantage: float = 1.0
    weight: float = 1.0
    """Weight of each of its policy tokens in the loss."""

    def __post_init__(self) -> None:
        if not len(self.token_ids) == len(self.policy_mask) == len(self.logprobs):
            raise ValueError(
                f"sample {self.sample_id}: ids, mask and log-probabilities differ in length"
            )
        if self.prompt_tokens < 1 or self.policy_mask[: self.prompt_tokens].any():
            raise ValueError(
                f"sample {self.sample_id}: must begin with a prompt without policy tokens"
            )

    @property
    def policy_tokens(self) -> int:
        """Tokens that carry loss."""
        return int(self.policy_mask.sum())


@dataclass(frozen=True)
class TreeSpan:
    """Where a tree lies in its row: half-open ranges of the prompt and of each branch."""

    prompt: tuple[int, int]
    branches: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Row:
    """One micro-batch of shape [1, tokens].

    `predictors[i]` is the row position whose output predicts token `targets[i]`; the fields behind
    it run along it. `sampled_logprobs` were recorded at sampling; `old_logprobs` are those of the
    policy before the update, the recorded ones until others are put there; `reference_logprobs` are
    zero until they are computed. `sample_index` points into `sample_ids`.
    """

    token_ids: Ids
    position_ids: Ids
    trees: tuple[TreeSpan, ...]
    predictors: Ids
    targets: Ids
    sampled_logprobs: Floats
    old_logprobs: Floats
    reference_logprobs: Floats
    advantages: Floats
    weights: Floats
    sample_index: Ids
    sample_ids: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Tokens that are computed."""
        return len(self.token_ids)


@dataclass(frozen=True)
class _Tree:
    """A prompt and the samples that begin with it."""

    prompt: Ids
    samples: tuple[Sample, ...]

    @property
    def tokens(self) -> int:
        return len(self.prompt) + sum(len(s.token_ids) - len(self.prompt) for s in self.samples)


def pack(
    groups: Iterable[Sequence[Sample]], tokens_per_row: int, *, whole: bool = False
) -> list[Row]:
    """Packs groups into rows of at most `tokens_per_row` tokens, first fit by decreasing size.

    Samples of a group that share a prompt share its computation. A tree that does not fit is cut
    between branches, or, with `whole`, gets a row of its own, as does a single sample longer than a
    row. Samples without a policy token are left out: they carry no loss. The result depends only on
    the input.
    """
    most = sys.maxsize if whole else tokens_per_row
    trees = [tree for group in groups for tree in _trees(group, most)]
    trees.sort(key=lambda tree: -tree.tokens)
    bins: list[list[_Tree]] = []
    sizes: list[int] = []
    for tree in trees:
        fit = next((i for i, n in enumerate(sizes) if n + tree.tokens <= tokens_per_row), None)
        if fit is None:
            bins.append([tree])
            sizes.append(tree.tokens)
        else:
            bins[fit].append(tree)
            sizes[fit] += tree.tokens
    return [_row(trees) for trees in bins]


def blank_row() -> Row:
    """A row of two tokens without loss, for a rank that has run out of rows before another."""
    none = np.zeros(0, dtype=np.int64)
    zeros = np.zeros(0, dtype=np.float32)
    ids = np.zeros(2, dtype=np.int64)
    trees = (TreeSpan((0, 2), ()),)
    return Row(ids, np.arange(2), trees, none, none, zeros, zeros, zeros, zeros, zeros, none, ())


def _trees(group: Sequence[Sample], tokens_per_row: int) -> list[_Tree]:
    """Trees of one group: samples by common prompt, cut where a row is full."""
    by_prompt: dict[bytes, list[Sample]] = {}
    for sample in group:
        if sample.policy_tokens:
            prompt = sample.token_ids[: sample.prompt_tokens].astype(np.int64)
            by_prompt.setdefault(prompt.tobytes(), []).append(sample)
    trees = []
    for samples in by_prompt.values():
        prompt = samples[0].token_ids[: samples[0].prompt_tokens].astype(np.int64)
        branches: list[Sample] = []
        size = len(prompt)
        for sample in samples:
            length = len(sample.token_ids) - len(prompt)
            if branches and size + length > tokens_per_row:
                trees.append(_Tree(prompt, tuple(branches)))
                branches, size = [], len(prompt)
            branches.append(sample)
            size += length
        trees.append(_Tree(prompt, tuple(branches)))
    return trees


def _row(trees: Sequence[_Tree]) -> Row:
    """Lays trees end to end."""
    ids: list[Ids] = []
    positions: list[Ids] = []
    spans: list[TreeSpan] = []
    predictors: list[Ids] = []
    samples: list[Sample] = []
    start = 0
    for tree in trees:
        prompt_tokens = len(tree.prompt)
        ids.append(tree.prompt)
        positions.append(np.arange(prompt_tokens))
        cursor = start + prompt_tokens
        branches = []
        for sample in tree.samples:
            length = len(sample.token_ids) - prompt_tokens
            ids.append(sample.token_ids[prompt_tokens:].astype(np.int64))
            positions.append(np.arange(prompt_tokens, prompt_tokens + length))
            branches.append((cursor, cursor + length))
            # The branch's first token is predicted from the prompt's last position.
            predicted_from = np.arange(cursor - 1, cursor + length - 1)
            predicted_from[0] = start + prompt_tokens - 1
            predictors.append(predicted_from[sample.policy_mask[prompt_tokens:]])
            samples.append(sample)
            cursor += length
        spans.append(TreeSpan((start, start + prompt_tokens), tuple(branches)))
        start = cursor
    counts = [sample.policy_tokens for sample in samples]
    recorded = np.concatenate([s.logprobs[s.policy_mask].astype(np.float32) for s in samples])
    return Row(
        token_ids=np.concatenate(ids),
        position_ids=np.concatenate(positions),
        trees=tuple(spans),
        predictors=np.concatenate(predictors),
        targets=np.concatenate([s.token_ids[s.policy_mask].astype(np.int64) for s in samples]),
        sampled_logprobs=recorded,
        old_logprobs=recorded,
        reference_logprobs=np.zeros_like(recorded),
        advantages=np.repeat(np.array([s.advantage for s in samples], dtype=np.float32), counts),
        weights=np.repeat(np.array([s.weight for s in samples], dtype=np.float32), counts),
        sample_index=np.repeat(np.arange(len(samples)), counts),
        sample_ids=tuple(sample.sample_id for sample in samples),
    )
