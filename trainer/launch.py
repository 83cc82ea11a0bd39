"""Which process this is among those that train together, as its launcher tells the environment.

torchrun, the deepspeed launcher and Kubernetes' training operators all set RANK, WORLD_SIZE,
MASTER_ADDR and MASTER_PORT; without them a process trains alone. Imports nothing heavy, so that
what is wrong is said before torch is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from synthagent.errors import InvalidInput

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Placement:
    """One process's place. `master` is where ranks meet: host and port; None where it is alone."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Number of this rank among those of its machine: that of its GPU."""
    local_ranks: int = 1
    """Ranks on this machine."""
    master: tuple[str, int] | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Placement:
        """Raises InvalidInput where the environment tells half of it, or nonsense."""
        given = [name for name in _NEEDED if environment.get(name)]
        if not {"RANK", "WORLD_SIZE"} & set(given):
            return cls()
        missing = [name for name in _NEEDED if name not in given]
        if missing and environment.get("WORLD_SIZE", "1") != "1":
            raise InvalidInput(
                f"{given[0]} is set in the environment and {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not; several ranks need all of "
                f"{', '.join(_NEEDED)}, as torchrun and deepspeed set them"
            )
        if missing:
            return cls()
        local_ranks = environment.get("LOCAL_WORLD_SIZE") or environment.get("LOCAL_SIZE") or "1"
        place = cls(
            rank=_number(environment, "RANK"),
            world_size=_number(environment, "WORLD_SIZE"),
            local_rank=_number({"LOCAL_RANK": "0", **environment}, "LOCAL_RANK"),
            local_ranks=_number({"LOCAL_WORLD_SIZE": local_ranks}, "LOCAL_WORLD_SIZE"),
            master=(environment["MASTER_ADDR"], _number(environment, "MASTER_PORT")),
        )
        if place.rank >= place.world_size:
            raise InvalidInput(
                f"RANK is {place.rank} and WORLD_SIZE {place.world_size}: ranks count from 0"
            )
        return place if place.world_size > 1 else cls(local_rank=place.local_rank)


def said_rank(environment: Mapping[str, str] = os.environ) -> str:
    """` (rank 1)` for the messages of one of several ranks, else nothing."""
    several = environment.get("WORLD_SIZE", "1") != "1"
    return f" (rank {environment.get('RANK', '?')})" if several else ""


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment[name]
    if not value.isdecimal():
        raise InvalidInput(f"{name} is {value!r} in the environment; it must be a whole number")
    return int(value)
