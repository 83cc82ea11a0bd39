"""The programmatic teacher: composes a task from a seed, without any model.

A Composer is cheap to make, holds no state between tasks, and may be used by several threads. A
task follows from (split, difficulty, domains, seed) alone: every draw comes from one Random seeded
by a digest of them. A drawing that breaks a bound of its level, or whose gold plan does not go as
its scenario says, is dropped and the next attempt is drawn; the attempt is part of the digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from random import Random

from synthagent.worlds.compose.blueprint import Choice, Unfit, draw
from synthagent.worlds.compose.composition import compose
from synthagent.worlds.compose.gold import WalkError
from synthagent.worlds.compose.language import Archetype, Scenario
from synthagent.worlds.compose.library import library
from synthagent.worlds.compose.vocabulary import Domain
from synthagent.worlds.spec import Split, Task

ATTEMPTS = 40


class ComposeError(RuntimeError):
    """No attempt gave a task; a fault of the data files."""


def domains(split: str) -> tuple[str, ...]:
    """Names of the domains of a split, sorted."""
    return tuple(name for name, domain in library().domains.items() if domain.split == split)


def difficulties() -> tuple[str, ...]:
    """The named levels, easiest first."""
    return tuple(library().levels)


def digest(*parts: object) -> int:
    """A number that follows from the parts on any machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class Composer:
    """Composes tasks of one split and difficulty."""

    def __init__(self, split: str, difficulty: str, domains: Sequence[str] | None = None) -> None:
        """`domains` None means all of the split.

        Raises ValueError for an unknown difficulty or a domain that is not of the split.
        """
        source = library()
        if difficulty not in source.levels:
            raise ValueError(
                f"there is no difficulty {difficulty!r}; there are {', '.join(source.levels)}"
            )
        self.split = Split(split)
        self.difficulty = difficulty
        chosen = _domains(self.split, domains)
        self._key = ",".join(domain.name for domain in chosen)
        self._level = source.levels[difficulty]
        self._choices = [
            (domain, options) for domain in chosen if (options := self._options(domain))
        ]
        if not self._choices:
            raise ValueError(f"no scenario of difficulty {difficulty!r} in these domains")

    def _options(self, domain: Domain) -> list[tuple[Archetype, list[Scenario]]]:
        archetypes = library().archetypes
        options = []
        for name in domain.dresses:
            archetype = archetypes[name]
            scenarios = [one for one in archetype.scenarios if self.difficulty in one.levels]
            if scenarios:
                options.append((archetype, scenarios))
        return options

    def task(self, seed: int) -> Task:
        """The task of a seed, uncertified. Raises ComposeError where the data allow none."""
        source = library()
        reasons: list[str] = []
        for attempt in range(ATTEMPTS):
            rng = Random(digest(self.split, self.difficulty, self._key, seed, attempt))  # noqa: S311  no secret
            domain, options = rng.choice(self._choices)
            archetype, scenarios = rng.choice(options)
            scenario = rng.choices(scenarios, [one.weight for one in scenarios])[0]
            try:
                choice = Choice(self._level, domain, archetype, scenario)
                task = compose(rng, draw(rng, source, choice), seed)
                if _chained(task):
                    return task
                error: Exception = Unfit("no call needs what an earlier one found")
            except (Unfit, WalkError) as unfit:
                error = unfit
            reasons.append(f"{domain.name}, {archetype.name}, {scenario.id}: {error}")
        raise ComposeError(f"seed {seed} gave no task; last: {reasons[-1]}")


def _chained(task: Task) -> bool:
    """Whether in every gold plan a call needs what an earlier one found."""
    return all(any(step.references("$step") for step in plan.steps) for plan in task.gold_plans)


def _domains(split: Split, names: Iterable[str] | None) -> list[Domain]:
    every = {name: one for name, one in library().domains.items() if one.split == split}
    if names is None:
        return list(every.values())
    chosen = sorted(set(names))
    for name in chosen:
        if name not in every:
            raise ValueError(f"there is no domain {name!r} in split {split.value}")
    return [every[name] for name in chosen]
