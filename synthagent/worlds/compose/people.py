"""Names of people, drawn once per process from a seeded Faker.

The list is a constant of the pinned Faker release: tasks index into it, so it is part of their
bytes. Only names of two plain words are kept: a user can say them and an agent can repeat them.
"""

from __future__ import annotations

import re
from functools import cache
from random import Random

from faker import Faker

_LOCALES = (
    *("en_GB", "en_US", "en_IN", "de_DE", "es_ES"),
    *("sv_SE", "it_IT", "nl_NL", "pl_PL", "fr_FR"),
)
_PLAIN = re.compile(r"^[A-Z][a-z]{2,9}$")
_SEED = 2601


@cache
def _pools() -> tuple[tuple[str, ...], tuple[str, ...]]:
    first: dict[str, None] = {}
    last: dict[str, None] = {}
    for locale in _LOCALES:
        faker = Faker(locale)
        faker.seed_instance(_SEED)
        for _ in range(90):
            for name, found in ((faker.first_name(), first), (faker.last_name(), last)):
                if _PLAIN.match(name):
                    found[name] = None
    return tuple(first), tuple(last)


def draw_name(rng: Random, taken: set[str]) -> str:
    """A full name that shares neither part with one taken in the same world."""
    first, last = _pools()
    for _ in range(100):
        one, two = rng.choice(first), rng.choice(last)
        if one not in taken and two not in taken:
            taken.update((one, two))
            return f"{one} {two}"
    raise AssertionError("a world has fewer people than there are names")
