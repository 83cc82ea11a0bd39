"""Named batches, and their shares: groups stay whole, ranks get nearly the same number of tokens.

A batch is the groups of one step in order of their ordinals: a row written once, when all of them
have ended. Its split is a function of the groups' weights and the number of ranks, so each rank can
be asked apart and at any time, and gets the same again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from sqlalchemy import Connection

from services.rollout.changes import Changes
from services.rollout.policies import Policies
from services.rollout.run_control import no_run
from services.rollout.scheduler import POLL_SECONDS, Scheduler
from services.rollout.spec import RunSpec
from synthagent.errors import Cancelled, InvalidInput, NotFound, PreconditionFailed, StepOutOfRange
from synthagent.store import Store, batches, runs
from synthagent.store.batches import Weight
from synthagent.store.runs import RunState


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


@dataclass(frozen=True)
class Share:
    """One rank's share of a batch."""

    batch_id: str
    trajectory_ids: tuple[str, ...]
    """Trajectories of all ranks, in batch order."""
    mine: tuple[str, ...]
    """Trajectories of this rank, in batch order."""
    tokens: int
    """Tokens of this rank's trajectories."""
    imbalance: float


class Batches:
    """The batches of training runs."""

    def __init__(
        self, store: Store, policies: Policies, scheduler: Scheduler, changes: Changes
    ) -> None:
        self._store = store
        self._policies = policies
        self._scheduler = scheduler
        self._changes = changes

    async def share(self, run_id: str, step: int, rank: int, world_size: int) -> Share:
        """The share of a rank, once every group of the step has ended.

        Raises NotFound, StepOutOfRange, InvalidInput (rank), PreconditionFailed (run without steps,
        policy too old) and Cancelled.
        """
        if rank >= world_size:
            raise InvalidInput(f"rank {rank} is not below world_size {world_size}.", field="rank")
        with self._changes.listen(run_id) as bell:
            while True:
                version = await self._policies.published_version()
                if await self._store.read(partial(_is_ready, run_id, step, version)):
                    break
                self._scheduler.wake()
                await bell.wait(POLL_SECONDS)
        batch_id = f"{run_id}.step-{step}"
        stored = await self._store.read(lambda c: batches.batch(c, run_id, step))
        if stored is None:
            stored = await self._store.write(lambda c: _name(c, run_id, step, batch_id))
        weights = await self._store.read(lambda c: batches.weights(c, run_id, step))
        return _share(batch_id, stored, weights, rank, world_size)


def _is_ready(run_id: str, step: int, version: int, connection: Connection) -> bool:
    """Whether the step's batch is there or can be made. Raises where waiting is in vain."""
    run = runs.get(connection, run_id)
    if run is None:
        raise no_run(run_id)
    training = RunSpec.model_validate_json(run.spec).training
    if training is None:
        raise PreconditionFailed(
            f"Run {run_id!r} has no steps and serves no batches; list its trajectories instead.",
            run_id=run_id,
        )
    if step >= training.steps:
        raise StepOutOfRange(
            f"Run {run_id!r} has {training.steps} steps, from 0; there is no step {step}.",
            field="step",
            run_id=run_id,
        )
    if batches.batch(connection, run_id, step) is not None:
        return True
    if run.state is RunState.CANCELLED:
        raise Cancelled(f"Run {run_id!r} was cancelled before step {step} ended.", run_id=run_id)
    if step < runs.admitted_steps(connection, run_id):
        return batches.waiting(connection, run_id, step) == 0
    needed = training.needed_version(step)
    if RunSpec.model_validate_json(run.spec).policy and version < needed:
        raise PreconditionFailed(
            f"Step {step} of run {run_id!r} needs policy version {needed}, and {version} is the "
            f"newest; publish it first.",
            run_id=run_id,
        )
    return False


def _name(connection: Connection, run_id: str, step: int, batch_id: str) -> tuple[str, ...]:
    """Makes the batch's row, or finds the one that another replica made."""
    ids = [weight.trajectory_id for weight in batches.weights(connection, run_id, step)]
    batches.create_batch(connection, run_id, step, batch_id, ids)
    stored = batches.batch(connection, run_id, step)
    if stored is None:
        raise NotFound(f"Batch {batch_id!r} is gone; the database was changed by hand.")
    return stored


def _share(
    batch_id: str,
    trajectory_ids: tuple[str, ...],
    weights: Sequence[Weight],
    rank: int,
    world_size: int,
) -> Share:
    # Where no tokens were kept, an episode weighs by its events.
    by_tokens = any(weight.tokens for weight in weights)
    groups = [list(group) for _, group in groupby(weights, key=lambda weight: weight.group_id)]
    sizes = [
        max(1, sum(weight.tokens if by_tokens else weight.events for weight in group))
        for group in groups
    ]
    parts = split(sizes, world_size)
    mine = [weight for position in parts.shares[rank] for weight in groups[position]]
    return Share(
        batch_id=batch_id,
        trajectory_ids=trajectory_ids,
        mine=tuple(weight.trajectory_id for weight in mine),
        tokens=sum(weight.tokens for weight in mine),
        imbalance=parts.imbalance,
    )
