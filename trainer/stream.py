"""What comes in over gRPC: runs, their progress, and batches of trajectories as samples.

`RolloutLink` lives on every rank, on an event loop beside the trainer's thread. Rank 0 creates runs
and publishes; every rank streams its share of a batch, and the next one while it trains. Names of
runs make creation idempotent, and a batch is a stored row, so a call repeated after a crash changes
nothing, and neither does fetching a batch early.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from synthagent.api.v1 import rollout_pb2, task_pb2, trajectory_pb2
from synthagent.client import SynthAgentClient
from synthagent.errors import (
    BackendUnavailable,
    Cancelled,
    Corrupt,
    PreconditionFailed,
    SynthAgentError,
)
from synthagent.security.channels import client_security
from trainer.background import BackgroundLoop
from trainer.config import EvaluationSettings, RlSettings, RolloutSettings, TaskSettings
from trainer.episodes import Episode, episode_from, sample_from
from trainer.packing import Sample

_FETCHES = 8  # trajectories that are fetched at once
_FIRST_PAUSE_SECONDS = 0.2  # between attempts at a service that is away, doubled each time
_LONGEST_PAUSE_SECONDS = 5.0
_CONNECTED_SECONDS = 60.0  # a call that took longer had reached the service
_SPLITS = {"train": task_pb2.SPLIT_TRAIN, "held_out": task_pb2.SPLIT_HELD_OUT}
T = TypeVar("T")


@dataclass(frozen=True)
class EvaluationResult:
    """Mean reward of a finished run, its standard error, valid and INVALID episodes."""

    mean_reward: float
    reward_sem: float
    n: int
    invalid: int


@dataclass(frozen=True)
class Batch:
    """One rank's share of a named batch: its groups, whole, in the order of the batch.

    `trajectory_ids` are those of all ranks; `rank_tokens` is this rank's part of their tokens, and
    `imbalance` the fullest rank's over the mean, at least 1. `fetch_seconds` went by from asking to
    having it decoded, in the background or not.
    """

    batch_id: str
    trajectory_ids: tuple[str, ...]
    groups: tuple[tuple[Episode, ...], ...]
    rank_tokens: int
    imbalance: float
    fetch_seconds: float


@dataclass(frozen=True)
class _Request:
    """Which share of which batch."""

    run_id: str
    step: int
    rank: int
    world_size: int


OnProgress = Callable[[int, int], None]
"""Called with episodes ended and episodes in all."""


class RolloutLink:
    """The rollout service, as the trainer sees it."""

    def __init__(self, settings: RolloutSettings) -> None:
        self._settings = settings
        self._loop = BackgroundLoop()
        self._client = self._loop.run(self._connect(), settings.timeout_seconds)
        self._ahead: tuple[_Request, futures.Future[Batch]] | None = None
        self._answered = False  # a service that never did is not waited for

    async def _connect(self) -> SynthAgentClient:
        return SynthAgentClient(
            self._settings.address,
            timeout_seconds=self._settings.timeout_seconds,
            security=client_security(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._loop.run(self._client.close(), self._settings.timeout_seconds)
        finally:
            self._loop.close()

    def create_run(self, run_id: str, spec: rollout_pb2.RunSpec) -> None:
        """Creates the run, or finds it created."""
        self._wait(lambda: self._client.create_run(run_id, spec))

    def evaluate(
        self, run_id: str, spec: rollout_pb2.RunSpec, version: int, on_progress: OnProgress
    ) -> EvaluationResult:
        """Runs every episode of `spec` and returns what they were worth.

        Raises PreconditionFailed where another version of the policy than `version` sampled.
        """
        progress = self._wait(lambda: self._finish(run_id, spec, on_progress)).progress
        sampled = self._wait(lambda: self._sampled_version(run_id))
        if sampled not in {None, version}:
            raise PreconditionFailed(
                f"run {run_id} was sampled by policy version {sampled}, not {version}; set "
                "rollout.first_policy_version above it, or start the services on a fresh database"
            )
        return EvaluationResult(
            mean_reward=progress.mean_reward,
            reward_sem=progress.reward_sem,
            n=progress.episodes_ended - progress.episodes_invalid,
            invalid=progress.episodes_invalid,
        )

    def gold_samples(
        self, run_id: str, spec: rollout_pb2.RunSpec, on_progress: OnProgress
    ) -> list[Sample]:
        """Samples of the gold trajectories that earned full reward, ordered by identifier."""
        trajectories = self._wait(lambda: self._gold(run_id, spec, on_progress))
        samples = [
            sample_from(trajectory)
            for trajectory in sorted(trajectories, key=lambda item: item.trajectory_id)
            if trajectory.verdict.reward >= 1.0
        ]
        if not samples:
            raise PreconditionFailed(
                f"run {run_id} gave no gold trajectory with full reward to warm up on; "
                "synthesize tasks of the split and difficulty in [tasks] first"
            )
        return samples

    def stream_batch(self, run_id: str, step: int, *, rank: int, world_size: int) -> Batch:
        """This rank's share of a step's batch; waits until its groups have ended."""
        request = _Request(run_id, step, rank, world_size)
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == request:
            try:
                return self._waited(ahead[1])
            except SynthAgentError:
                # What failed early may have passed by now; a timeout is no failure of the fetch.
                if not ahead[1].done() or ahead[1].cancelled():
                    raise
        return self._wait(lambda: self._batch(request))

    def fetch_ahead(self, run_id: str, step: int, *, rank: int, world_size: int) -> None:
        """Begins to fetch and decode what `stream_batch` will be asked for next; never raises."""
        request = _Request(run_id, step, rank, world_size)
        if self._ahead is not None:
            self._ahead[1].cancel()
        self._ahead = (request, self._loop.start(self._patiently(lambda: self._batch(request))))

    def stored_groups(self, run_id: str) -> list[list[Episode]]:
        """The ended episodes of a stored run, by group, in the order of their identifiers.

        Raises NotFound, and Corrupt where they carry no tokens.
        """
        trajectories = self._wait(lambda: self._stored(run_id))
        groups: dict[str, list[Episode]] = {}
        for trajectory in sorted(trajectories, key=lambda item: item.trajectory_id):
            groups.setdefault(trajectory.group_id, []).append(episode_from(trajectory))
        return list(groups.values())

    def publish(self, version: int, path: Path, sha256: str) -> None:
        """Makes a version of the policy the one that samples."""
        self._wait(
            lambda: self._client.publish_policy(
                version,
                str(path),
                sha256,
                policy=self._settings.policy,
                seconds=self._settings.timeout_seconds,
            )
        )

    def _wait(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self._waited(self._loop.start(self._patiently(call)))

    async def _patiently(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The call's result, made again while a service that has answered before is away."""
        away_since: float | None = None
        pause = _FIRST_PAUSE_SECONDS
        while True:
            asked = time.monotonic()
            try:
                result = await call()
            except BackendUnavailable:
                now = time.monotonic()
                if away_since is None or now - asked > _CONNECTED_SECONDS:
                    away_since, pause = now, _FIRST_PAUSE_SECONDS
                if not self._answered or now - away_since >= self._settings.patience_seconds:
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                self._answered = True
                return result

    def _waited(self, future: futures.Future[T]) -> T:
        try:
            return self._loop.wait(future, self._settings.batch_timeout_seconds)
        except TimeoutError as error:
            raise BackendUnavailable(
                f"the rollout service at {self._settings.address} was silent for "
                f"{self._settings.batch_timeout_seconds:.0f} s; see its log, then resume"
            ) from error

    async def _finish(
        self, run_id: str, spec: rollout_pb2.RunSpec, on_progress: OnProgress
    ) -> rollout_pb2.Run:
        run = await self._client.create_run(run_id, spec)
        async for run in self._client.watch_run(run_id):
            on_progress(run.progress.episodes_ended, run.progress.episodes_total)
        if run.state != rollout_pb2.RUN_STATE_SUCCEEDED:
            raise Cancelled(f"run {run_id} was cancelled before its episodes had ended")
        return run

    async def _sampled_version(self, run_id: str) -> int | None:
        """Version of the policy in the run's first valid trajectory."""
        async for item in self._client.list_trajectories(run_id):
            if item.verdict.WhichOneof("outcome") == "reward":
                trajectory = await self._client.get_trajectory(item.trajectory_id)
                sampled = trajectory_pb2.TOKEN_SOURCE_POLICY
                return next(
                    (s.policy_version for s in trajectory.segments if s.source == sampled), None
                )
        return None

    async def _gold(
        self, run_id: str, spec: rollout_pb2.RunSpec, on_progress: OnProgress
    ) -> list[trajectory_pb2.Trajectory]:
        await self._finish(run_id, spec, on_progress)
        return await self._stored(run_id)

    async def _stored(self, run_id: str) -> list[trajectory_pb2.Trajectory]:
        names = [item.trajectory_id async for item in self._client.list_trajectories(run_id)]
        gate = asyncio.Semaphore(_FETCHES)

        async def fetch(name: str) -> trajectory_pb2.Trajectory:
            async with gate:
                return await self._client.get_trajectory(name)

        return list(await asyncio.gather(*(fetch(name) for name in names)))

    async def _batch(self, request: _Request) -> Batch:
        started = time.perf_counter()
        header = rollout_pb2.BatchHeader()
        groups: dict[str, list[Episode]] = {}
        async for item in self._client.stream_batch(
            request.run_id, request.step, rank=request.rank, world_size=request.world_size
        ):
            if item.WhichOneof("item") == "header":
                header = item.header
            else:
                trajectory = item.trajectory
                groups.setdefault(trajectory.group_id, []).append(episode_from(trajectory))
        received = sum(len(group) for group in groups.values())
        if received != header.rank_trajectories:
            raise Corrupt(
                f"batch {request.step} of run {request.run_id} has {received} trajectories instead "
                f"of {header.rank_trajectories}"
            )
        return Batch(
            batch_id=header.batch_id,
            trajectory_ids=tuple(header.trajectory_ids),
            groups=tuple(tuple(group) for group in groups.values()),
            rank_tokens=header.rank_tokens,
            imbalance=header.imbalance,
            fetch_seconds=time.perf_counter() - started,
        )


def selection(
    split: str, difficulty: str, count: int, task_ids: Sequence[str] = ()
) -> rollout_pb2.TaskSelection:
    """Tasks of a split, or exactly `task_ids`."""
    if task_ids:
        return rollout_pb2.TaskSelection(task_ids=task_ids)
    return rollout_pb2.TaskSelection(split=_SPLITS[split], difficulty=difficulty, count=count)


def gold_spec(tasks: TaskSettings, rl: RlSettings, seed: int) -> rollout_pb2.RunSpec:
    """One gold episode of each training task."""
    return rollout_pb2.RunSpec(
        reference=rollout_pb2.REFERENCE_AGENT_GOLD,
        tasks=selection(tasks.split, tasks.difficulty, tasks.count),
        group_size=1,
        max_turns=max(rl.max_turns, 100),  # a gold plan is never cut
        reward_preset=rl.reward_preset,
        facts_in_instruction=rl.facts_in_instruction,
        seed=seed,
    )


def evaluation_spec(
    evaluation: EvaluationSettings, rl: RlSettings, policy: str, seed: int
) -> rollout_pb2.RunSpec:
    """The policy on the evaluation tasks, under the limits it is trained with."""
    return rollout_pb2.RunSpec(
        policy=_agent(rl, policy, evaluation.temperature, top_p=1.0),
        tasks=selection(evaluation.split, evaluation.difficulty, evaluation.count),
        group_size=evaluation.episodes_per_task,
        max_turns=rl.max_turns,
        reward_preset=evaluation.reward_preset or rl.reward_preset,
        seed=seed,
    )


def training_spec(
    tasks: TaskSettings, rl: RlSettings, policy: str, seed: int, first_policy_version: int
) -> rollout_pb2.RunSpec:
    """Groups of episodes for every GRPO step."""
    return rollout_pb2.RunSpec(
        policy=_agent(rl, policy, rl.temperature, rl.top_p),
        tasks=selection(tasks.split, tasks.difficulty, tasks.count),
        group_size=rl.group_size,
        max_turns=rl.max_turns,
        reward_preset=rl.reward_preset,
        facts_in_instruction=rl.facts_in_instruction,
        seed=seed,
        training=rollout_pb2.TrainingSteps(
            steps=rl.steps,
            groups_per_step=rl.sampled_groups,
            max_staleness=rl.max_staleness,
            first_policy_version=first_policy_version,
        ),
    )


def _agent(
    rl: RlSettings, policy: str, temperature: float, top_p: float
) -> rollout_pb2.PolicyAgent:
    return rollout_pb2.PolicyAgent(
        policy=policy,
        sampling=trajectory_pb2.SamplingSettings(
            temperature=temperature, top_p=top_p, max_turn_tokens=rl.max_turn_tokens
        ),
        max_episode_tokens=rl.max_episode_tokens,
    )
