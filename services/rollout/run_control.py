"""Runs: created, followed, cancelled, and their steps admitted as the policy allows.

A run's tasks are chosen when it is created and kept with it. A run without steps is admitted whole;
a run with steps one step after the other, each as soon as the published policy is young enough for
it and the episodes before it leave room. Admitting writes the groups and their pending episodes in
one transaction, so a crash leaves a step admitted or not, and never half.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from services.rollout.agents import ReferenceAgent
from services.rollout.changes import Changes
from services.rollout.order import GroupOrder, group_id, shuffled, trajectory_id
from services.rollout.policies import Policies, unknown_policy
from services.rollout.scheduler import POLL_SECONDS, Scheduler
from services.rollout.spec import (
    DEFAULT_POLICY,
    MAX_UNSTEPPED_EPISODES,
    RunSpec,
    Training,
    digest,
)
from synthagent.errors import Conflict, InvalidInput, NotFound, PreconditionFailed
from synthagent.llm import Models
from synthagent.store import Store, episodes, runs
from synthagent.store.database import now
from synthagent.store.runs import Progress, RunState, StoredGroup, StoredRun

WATCH_INTERVAL_SECONDS = 0.2


@dataclass(frozen=True)
class RunView:
    """A run as it is now."""

    run: StoredRun
    spec: RunSpec
    progress: Progress

    @property
    def episodes_total(self) -> int:
        """Episodes of the whole run, started or not."""
        return self.spec.episodes_total(len(self.run.task_ids))


class RunControl:
    """Creates runs and admits their steps."""

    def __init__(
        self,
        store: Store,
        policies: Policies,
        models: Models,
        scheduler: Scheduler,
        changes: Changes,
        *,
        window: int,
    ) -> None:
        """A step is admitted while fewer than `window` episodes of its run wait or run."""
        self._store = store
        self._policies = policies
        self._models = models
        self._scheduler = scheduler
        self._changes = changes
        self._window = window
        self._stepped: dict[str, _Steps] = {}
        self._looked_at = float("-inf")

    async def create(self, run_id: str, spec: RunSpec) -> RunView:
        """The created run, or the same run created before.

        Raises Conflict, NotFound (task, policy), PreconditionFailed and InvalidInput.
        """
        canonical = spec.canonical
        run = await self._store.read(lambda c: runs.get(c, run_id))
        if run is None:
            if spec.policy and spec.policy.policy != DEFAULT_POLICY:
                raise unknown_policy(spec.policy.policy)
            if spec.policy:
                engine = await self._policies.engine()
                most = engine.config.max_sequence_tokens
                if spec.policy.max_episode_tokens > most:
                    raise PreconditionFailed(
                        f"The policy engine holds {most} tokens of an episode, and "
                        f"{spec.policy.max_episode_tokens} are asked for; lower them, or "
                        "raise SYNTHAGENT_POLICY_MAX_SEQUENCE_TOKENS.",
                        field="spec.policy.max_episode_tokens",
                    )
            elif spec.reference:
                await self._policies.demonstration_chat()
            elif spec.model:
                self._models.need(spec.model.role)
            task_ids = await self._store.read(lambda c: _select(c, spec))
            if spec.reference and spec.reference is not ReferenceAgent.NOOP:
                planless = await self._store.read(lambda c: runs.without_plan(c, task_ids))
                if planless:
                    raise PreconditionFailed(
                        f"Task {planless!r} has no gold plan, which the agent "
                        f"{spec.reference.value!r} follows; select other tasks, or another agent.",
                        field="spec.reference",
                        task_id=planless,
                    )
            if not spec.training and spec.episodes_total(len(task_ids)) > MAX_UNSTEPPED_EPISODES:
                raise InvalidInput(
                    f"The run has more than {MAX_UNSTEPPED_EPISODES} episodes; select fewer tasks.",
                    field="spec.tasks",
                )
            new = StoredRun(run_id, canonical, digest(canonical), task_ids, RunState.RUNNING, now())
            run = await self._store.write(lambda c: _create(c, new, spec))
            self._looked_at = float("-inf")
            self._scheduler.wake()
        if run.spec_digest != digest(canonical):
            raise Conflict(
                f"run_id {run_id!r} is taken by a run with another specification; choose another.",
                field="run_id",
                run_id=run_id,
            )
        return await self.get(run_id)

    async def get(self, run_id: str) -> RunView:
        """The run as it is now. Raises NotFound."""

        def read(connection: Connection) -> RunView:
            run = runs.get(connection, run_id)
            if run is None:
                raise no_run(run_id)
            return _view(connection, run)

        return await self._store.read(read)

    async def page(self, before: int | None, limit: int) -> list[RunView]:
        """Up to `limit` runs older than ordinal `before`, newest first."""
        return await self._store.read(
            lambda c: [_view(c, run) for run in runs.page(c, before, limit)]
        )

    async def watch(self, run_id: str) -> AsyncIterator[RunView]:
        """The run now, and again whenever it has changed, until it has ended. Raises NotFound."""
        last: RunView | None = None
        with self._changes.listen(run_id) as bell:
            while True:
                view = await self.get(run_id)
                if view != last:
                    yield view
                if view.run.state is not RunState.RUNNING:
                    return
                last = view
                await bell.wait(POLL_SECONDS)
                await asyncio.sleep(WATCH_INTERVAL_SECONDS)

    async def cancel(self, run_id: str) -> RunView:
        """The run, cancelled unless it had ended. Raises NotFound."""
        await self.get(run_id)

        def write(connection: Connection) -> None:
            if runs.change_state(connection, run_id, RunState.CANCELLED):
                episodes.cancel(connection, run_id)

        await self._store.write(write)
        self._scheduler.cancel_run(run_id)
        self._stepped.pop(run_id, None)
        self._changes.ring(run_id)
        return await self.get(run_id)

    async def admit_due(self) -> None:
        """Admits every step that may start. Raises what the store raises."""
        if time.monotonic() - self._looked_at >= POLL_SECONDS:
            self._looked_at = time.monotonic()
            found = await self._store.read(lambda c: runs.in_state(c, RunState.RUNNING))
            specs = ((run, RunSpec.model_validate_json(run.spec)) for run in found)
            self._stepped = {
                run.run_id: self._stepped.get(run.run_id) or _Steps(run, spec, spec.training)
                for run, spec in specs
                if spec.training
            }
        if not self._stepped:
            return
        version = await self._policies.published_version()
        for steps in list(self._stepped.values()):
            while await self._store.read(partial(steps.is_due, version, self._window)):
                if not await self._store.write(partial(steps.admit_next, version, self._window)):
                    break  # the run was cancelled, here or by another replica


class _Steps:
    """The steps of one training run."""

    def __init__(self, run: StoredRun, spec: RunSpec, training: Training) -> None:
        self._run = run
        self._spec = spec
        self._training = training
        self._order = GroupOrder(run.task_ids, spec.seed)

    def is_due(self, version: int, window: int, connection: Connection) -> bool:
        """Whether the next step may start now."""
        return self._due_step(connection, version, window) is not None

    def admit_next(self, version: int, window: int, connection: Connection) -> bool:
        """Admits the next step where it may start; returns whether it did."""
        run = runs.get(connection, self._run.run_id)
        step = self._due_step(connection, version, window)
        if step is None or run is None or run.state is not RunState.RUNNING:
            return False
        count = self._training.groups_per_step
        ordinals = range(step * count, (step + 1) * count)
        groups = {ordinal: self._order.task_id(ordinal) for ordinal in ordinals}
        _admit(connection, self._run, self._spec, step=step, groups=groups)
        return True

    def _due_step(self, connection: Connection, version: int, window: int) -> int | None:
        step = runs.admitted_steps(connection, self._run.run_id)
        if step >= self._training.steps:
            return None
        if self._spec.policy and version < self._training.needed_version(step):
            return None
        if episodes.unfinished(connection, self._run.run_id) >= window:
            return None
        return step


def no_run(run_id: str) -> NotFound:
    """The error for a run that does not exist."""
    return NotFound(f"There is no run {run_id!r}; create it first.", field="run_id", run_id=run_id)


def _create(connection: Connection, run: StoredRun, spec: RunSpec) -> StoredRun:
    stored = runs.create(connection, run)
    if spec.training is None and stored.spec_digest == run.spec_digest:
        _admit(connection, run, spec, step=0, groups=dict(enumerate(run.task_ids)))
    return stored


def _admit(
    connection: Connection, run: StoredRun, spec: RunSpec, *, step: int, groups: Mapping[int, str]
) -> None:
    """Writes a step's groups (task by ordinal) and their pending episodes."""
    splits = runs.splits_of(connection, list(dict.fromkeys(groups.values())))
    # One microsecond apart, so that they are taken in this order.
    admitted_at = now() - len(groups) * spec.group_size
    rows = [
        episodes.pending_row(
            trajectory_id=trajectory_id(run.run_id, ordinal, index),
            run_id=run.run_id,
            group_id=group_id(run.run_id, ordinal),
            index=index,
            task_id=task_id,
            split=splits[task_id],
            agent=spec.agent,
            admitted_at=admitted_at + number * spec.group_size + index,
        )
        for number, (ordinal, task_id) in enumerate(groups.items())
        for index in range(spec.group_size)
    ]
    stored = [
        StoredGroup(group_id(run.run_id, ordinal), run.run_id, step, ordinal, task_id)
        for ordinal, task_id in groups.items()
    ]
    runs.admit(connection, stored, rows)


def _select(connection: Connection, spec: RunSpec) -> tuple[str, ...]:
    """The tasks of the selection, in order. Raises NotFound and PreconditionFailed."""
    selection = spec.tasks
    if selection.task_ids:
        known = runs.splits_of(connection, selection.task_ids)
        for position, task_id in enumerate(selection.task_ids):
            if task_id not in known:
                raise NotFound(
                    f"There is no task {task_id!r}; synthesize or import it first.",
                    field=f"spec.tasks.task_ids[{position}]",
                    task_id=task_id,
                )
        return selection.task_ids
    found = runs.tasks_of(connection, selection.split or "", selection.difficulty)
    if len(found) < max(1, selection.count):
        raise PreconditionFailed(
            f"{len(found)} stored tasks fit the selection, and {max(1, selection.count)} are "
            "needed; synthesize more, or select otherwise.",
            field="spec.tasks",
        )
    ordered = shuffled(found, spec.seed, "selection")
    return ordered[: selection.count] if selection.count else ordered


def _view(connection: Connection, run: StoredRun) -> RunView:
    spec = RunSpec.model_validate_json(run.spec)
    return RunView(run, spec, runs.progress(connection, run.run_id))
