"""Shares of a batch: groups stay whole, ranks get nearly the same number of tokens.

A batch is the groups of one step in order of their ordinals. Its split is a function of the groups'
weights and the number of ranks, so each rank can be asked apart and at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Split:
    """Positions of the groups of each rank, in batch order, and the imbalance that is left.

    `imbalance` is the weight of the fullest rank over the mean, at least 1.
    """

    shares: tuple[tuple[int, ...], ...]
    imbalance: float


def split(weights: Sequence[int], world_size: int) -> Split:
    """Splits groups of these weights (tokens, each at least 1) over `world_size` ranks.

    Longest processing time first: the heaviest group left goes to the lightest rank; ties go to the
    earlier group and the lower rank. At most 4/3 of the best possible maximum (Graham 1969). Where
    there are enough groups, no rank is empty.
    """
    if world_size < 1 or any(weight < 1 for weight in weights):
        raise ValueError("a split needs at least one rank and weights of at least 1")
    loads = [0] * world_size
    shares: list[list[int]] = [[] for _ in range(world_size)]
    for position in sorted(range(len(weights)), key=lambda p: (-weights[p], p)):
        rank = min(range(world_size), key=lambda r: (loads[r], r))
        loads[rank] += weights[position]
        shares[rank].append(position)
    total = sum(loads)
    imbalance = max(loads) * world_size / total if total else 1.0
    return Split(tuple(tuple(sorted(share)) for share in shares), max(1.0, imbalance))
