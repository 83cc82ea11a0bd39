"""Draws routes so that what is admitted comes to the wanted mix, although routes fail.

In each dimension the router takes the value that lags most behind its share of the admitted tasks,
where an item in flight counts as admitted. A value whose items fail is thereby drawn again, until
it has caught up. It must not block the request either: a value that failed last time is drawn only
while its failures in a row are fewer than PATIENCE for each task that it lags behind. So

- a value that succeeds now and then catches up: its lag stays at about its longest run of failures
  over PATIENCE, whatever the size of the request, and its error in share falls as 1 / admitted;
- values that never succeed cost together at most about PATIENCE x their share items for every
  admitted task, and the others go on meanwhile.

Decisions follow from the seed and the order of `draw`, `follow` and `settle`, and from nothing
else. Ties are broken anew at every draw, so that dimensions do not move in step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.task_synthesis.routes import Targets

PATIENCE = 4
"""Failures in a row that a value may have for each task that it lags behind."""


@dataclass
class _Value:
    """One value of a dimension: its target, and what came of the items that had it."""

    target: float
    attempted: int = 0
    admitted: int = 0
    failed_in_a_row: int = 0
    in_flight: int = 0

    def lag(self, tasks: int) -> float:
        """How many tasks it is behind its share of `tasks`."""
        return self.target * tasks - self.admitted - self.in_flight

    def credit(self, tasks: int) -> float:
        """The part of its lag that failures have not used up; above 0 it may be tried again."""
        return self.lag(tasks) - self.failed_in_a_row / PATIENCE


@dataclass(frozen=True, slots=True)
class Share:
    """How often one value was wanted and came out."""

    dimension: str
    value: str
    target: float
    admitted: float
    attempted: int


class Router:
    """The routes of one request."""

    def __init__(self, targets: Targets, seed: int) -> None:
        self._seed = seed
        self._drawn = 0
        self._admitted = 0
        self._in_flight = 0
        self._values = {
            dimension: {value: _Value(target) for value, target in shares.items()}
            for dimension, shares in targets.items()
        }

    def draw(self) -> dict[str, str]:
        """The route of the next item, which is in flight from now on."""
        tasks = self._admitted + self._in_flight + 1
        route = {}
        for dimension, values in self._values.items():
            wanted = _most_wanted(values, tasks)
            route[dimension] = min(wanted, key=lambda value: self._order(dimension, value))
        self.follow(route)
        return route

    def follow(self, route: Mapping[str, str]) -> None:
        """Counts an item whose route is known already, as if it had been drawn."""
        self._drawn += 1
        self._in_flight += 1
        for state in self._states(route):
            state.attempted += 1
            state.in_flight += 1

    def settle(self, route: Mapping[str, str], *, admitted: bool) -> None:
        """Counts what came of an item in flight."""
        self._in_flight -= 1
        self._admitted += admitted
        for state in self._states(route):
            state.in_flight -= 1
            state.admitted += admitted
            state.failed_in_a_row = 0 if admitted else state.failed_in_a_row + 1

    def attempted(self, dimension: str, value: str) -> int:
        """How many items had the value so far."""
        state = self._values[dimension].get(value)
        return 0 if state is None else state.attempted

    def shares(self) -> tuple[Share, ...]:
        """Every value of every dimension, in the order of the targets."""
        return tuple(
            Share(dimension, value, state.target, self._share(state.admitted), state.attempted)
            for dimension, values in self._values.items()
            for value, state in values.items()
        )

    def distances(self) -> dict[str, float]:
        """Total variation distance between wanted and admitted mix, 0 to 1, by dimension."""
        return distances(self.shares())

    def distance(self) -> float:
        """The mean of the distances."""
        return mean_distance(self.shares())

    def _states(self, route: Mapping[str, str]) -> list[_Value]:
        """The states of a route's values; one that is not wanted any more is left out."""
        return [
            values[route[dimension]]
            for dimension, values in self._values.items()
            if route.get(dimension) in values
        ]

    def _share(self, admitted: int) -> float:
        return admitted / self._admitted if self._admitted else 0.0

    def _order(self, dimension: str, value: str) -> bytes:
        text = f"{self._seed}/{self._drawn}/{dimension}/{value}"
        return hashlib.sha256(text.encode()).digest()


def _most_wanted(values: Mapping[str, _Value], tasks: int) -> list[str]:
    """The values that lag most among those that may be tried; where none may, the nearest to it."""
    ranks = {
        value: round(state.lag(tasks), 9)
        for value, state in values.items()
        if not state.failed_in_a_row or state.credit(tasks) > 0
    }
    if not ranks:
        ranks = {value: round(state.credit(tasks), 9) for value, state in values.items()}
    most = max(ranks.values())
    return [value for value, rank in ranks.items() if rank == most]


def distances(shares: Sequence[Share]) -> dict[str, float]:
    """Total variation distance between wanted and admitted mix, 0 to 1, by dimension.

    Half the sum of the differences between wanted and admitted share; 1 where nothing was admitted,
    since none of the mix is there.
    """
    found: dict[str, float] = {}
    reached: dict[str, float] = {}
    for share in shares:
        part = abs(share.target - share.admitted) / 2
        found[share.dimension] = found.get(share.dimension, 0.0) + part
        reached[share.dimension] = reached.get(share.dimension, 0.0) + share.admitted
    return {dimension: part if reached[dimension] else 1.0 for dimension, part in found.items()}


def mean_distance(shares: Sequence[Share]) -> float:
    """The mean of the distances over the dimensions; 0 where there are none."""
    found = distances(shares)
    return sum(found.values()) / len(found) if found else 0.0
