"""The statistics of the claim: by how much a training lifts mean reward, and how sure that is.

Episodes are averaged by task first: tasks are what is sampled. A lift has two standard errors, and
the larger one decides: paired by task (the same tasks before and after), and unpaired (the two
means as if of unrelated tasks). Over seeds there is also the spread of the seeds' own lifts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

LEAST_LIFT = 0.10
LEAST_ERRORS = 2.0

Rewards = Mapping[str, float]
"""Mean reward by task."""


@dataclass(frozen=True)
class Mean:
    """A mean, its standard error, and of how many; the error of fewer than two is infinite."""

    mean: float
    sem: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Of independent values. Raises ValueError where there are none."""
        if not values:
            raise ValueError("a mean needs at least one value")
        sem = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
        return cls(fmean(values), sem, len(values))


@dataclass(frozen=True)
class Lift:
    """Mean reward before and after, and the difference with its standard errors by their names."""

    before: Mean
    after: Mean
    lift: float
    errors: Mapping[str, float]

    @property
    def sem(self) -> float:
        """The largest standard error: the one that decides."""
        return max(self.errors.values())

    @property
    def ratio(self) -> float:
        """The lift in largest standard errors; infinite where nothing varies."""
        if not self.lift:
            return 0.0
        return self.lift / self.sem if self.sem else math.copysign(math.inf, self.lift)

    @property
    def reached(self) -> bool:
        """Whether the lift is large enough, and large enough against its error."""
        return self.lift >= LEAST_LIFT and self.lift > LEAST_ERRORS * self.sem


def lift_of(before: Rewards, after: Rewards) -> Lift:
    """The lift of one training over the tasks that have a reward both before and after.

    A task is missing where all its episodes were INVALID. Raises ValueError where fewer than two
    tasks are left.
    """
    tasks = sorted(before.keys() & after.keys())
    if len(tasks) < 2:
        raise ValueError(f"{len(tasks)} tasks were judged both before and after; 2 are the least")
    first = Mean.of([before[task] for task in tasks])
    second = Mean.of([after[task] for task in tasks])
    paired = Mean.of([after[task] - before[task] for task in tasks])
    errors = {"paired": paired.sem, "unpaired": math.hypot(first.sem, second.sem)}
    return Lift(first, second, paired.mean, errors)


def lift_over_seeds(trainings: Sequence[tuple[Rewards, Rewards]]) -> Lift:
    """The mean lift of several trainings, each (before, after), on the same tasks.

    A task's reward is its mean over the trainings; the error `seeds` is that of the trainings' own
    lifts. Raises ValueError where there are fewer than two trainings.
    """
    if len(trainings) < 2:
        raise ValueError("a spread over seeds needs at least two of them")
    tasks = set.intersection(*({*before} & {*after} for before, after in trainings))
    pooled = lift_of(
        *(
            {task: fmean(each[when][task] for each in trainings) for task in tasks}
            for when in (0, 1)
        )
    )
    spread = Mean.of([lift_of(before, after).lift for before, after in trainings])
    return Lift(pooled.before, pooled.after, pooled.lift, {**pooled.errors, "seeds": spread.sem})
