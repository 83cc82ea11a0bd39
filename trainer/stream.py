"""What comes in over gRPC: runs, their progress, and batches of trajectories as samples.

`RolloutLink` lives on every rank, on an event loop of its own that runs only inside its calls.
Rank 0 creates runs and publishes; every rank streams its share of a batch. Names of runs make
creation idempotent, and a batch is a stored row, so a call repeated after a crash changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from synthagent.api.v1 import rollout_pb2, task_pb2, trajectory_pb2
from synthagent.client import SynthAgentClient
from synthagent.errors import BackendUnavailable, Cancelled, Corrupt, PreconditionFailed
from trainer.config import EvaluationSettings, RlSettings, RolloutSettings, TaskSettings
from trainer.packing import Sample

_FETCHES = 8  # trajectories that are fetched at once
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
class Episode:
    """One trajectory of a batch; `reward` is None where the verdict is INVALID.

    `policy_version` is the oldest that sampled in it; None where nothing was sampled.
    """

    sample: Sample
    reward: float | None
    policy_version: int | None = None


OnProgress = Callable[[int, int], None]
"""Called with episodes ended and episodes in all."""


class RolloutLink:
    """The rollout service, as the trainer sees it."""

    def __init__(self, settings: RolloutSettings) -> None:
        self._settings = settings
        self._loop = asyncio.Runner()
        self._client = self._loop.run(self._connect())

    async def _connect(self) -> SynthAgentClient:
        return SynthAgentClient(
            self._settings.address, timeout_seconds=self._settings.timeout_seconds
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.run(self._client.close())
        self._loop.close()

    def create_run(self, run_id: str, spec: rollout_pb2.RunSpec) -> None:
        """Creates the run, or finds it created."""
        self._wait(self._client.create_run(run_id, spec))

    def evaluate(
        self, run_id: str, spec: rollout_pb2.RunSpec, version: int, on_progress: OnProgress
    ) -> EvaluationResult:
        """Runs every episode of `spec` and returns what they were worth.

        Raises PreconditionFailed where another version of the policy than `version` sampled.
        """
        progress = self._wait(self._finish(run_id, spec, on_progress)).progress
        sampled = self._wait(self._sampled_version(run_id))
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
        trajectories = self._wait(self._gold(run_id, spec, on_progress))
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

    def stream_batch(
        self, run_id: str, step: int, *, rank: int, world_size: int
    ) -> list[list[Episode]]:
        """This rank's groups of a step's batch; waits until they have ended."""
        return self._wait(self._batch(run_id, step, rank, world_size))

    def stored_groups(self, run_id: str) -> list[list[Episode]]:
        """The ended episodes of a stored run, by group, in the order of their identifiers.

        Raises NotFound, and Corrupt where they carry no tokens.
        """
        trajectories = self._wait(self._stored(run_id))
        groups: dict[str, list[Episode]] = {}
        for trajectory in sorted(trajectories, key=lambda item: item.trajectory_id):
            groups.setdefault(trajectory.group_id, []).append(episode_from(trajectory))
        return list(groups.values())

    def publish(self, version: int, path: Path, sha256: str) -> None:
        """Makes a version of the policy the one that samples."""
        self._wait(
            self._client.publish_policy(
                version,
                str(path),
                sha256,
                policy=self._settings.policy,
                seconds=self._settings.timeout_seconds,
            )
        )

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(self._settings.batch_timeout_seconds):
                return await work

        try:
            return self._loop.run(bounded())
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

    async def _batch(
        self, run_id: str, step: int, rank: int, world_size: int
    ) -> list[list[Episode]]:
        groups: dict[str, list[Episode]] = {}
        expected = received = 0
        async for item in self._client.stream_batch(run_id, step, rank=rank, world_size=world_size):
            if item.WhichOneof("item") == "header":
                expected = item.header.rank_trajectories
                continue
            received += 1
            groups.setdefault(item.trajectory.group_id, []).append(episode_from(item.trajectory))
        if received != expected:
            raise Corrupt(
                f"batch {step} of run {run_id} has {received} trajectories instead of {expected}"
            )
        return list(groups.values())


def sample_from(trajectory: trajectory_pb2.Trajectory) -> Sample:
    """The tokens of a trajectory. Raises Corrupt where they cannot be trained on."""
    name = trajectory.trajectory_id
    if not trajectory.segments:
        raise Corrupt(
            f"trajectory {name} carries no tokens; start the rollout service with its policy engine"
        )
    policy, prompt = trajectory_pb2.TOKEN_SOURCE_POLICY, trajectory_pb2.TOKEN_SOURCE_PROMPT
    ids, mask, logprobs = [], [], []
    prompt_tokens, in_prompt = 0, True
    for segment in trajectory.segments:
        count = len(segment.token_ids)
        sampled = segment.source == policy
        in_prompt = in_prompt and segment.source == prompt
        prompt_tokens += count if in_prompt else 0
        if len(segment.logprobs) not in ({count, 0} if sampled else {0}):
            raise Corrupt(f"trajectory {name}: a segment's log-probabilities do not fit its tokens")
        ids.append(np.array(segment.token_ids, dtype=np.int64))
        mask.append(np.full(count, sampled))
        recorded = segment.logprobs or [0.0] * count
        logprobs.append(np.array(recorded, dtype=np.float32))
    try:
        return Sample(
            name, np.concatenate(ids), np.concatenate(mask), np.concatenate(logprobs), prompt_tokens
        )
    except ValueError as error:
        raise Corrupt(f"trajectory {name} cannot be trained on: {error}") from error


def episode_from(trajectory: trajectory_pb2.Trajectory) -> Episode:
    """A trajectory of a batch. One that ended by a fault before its prompt has no tokens."""
    verdict = trajectory.verdict
    reward = verdict.reward if verdict.WhichOneof("outcome") == "reward" else None
    if reward is None and not trajectory.segments:
        blank = np.zeros(1, dtype=np.int64)
        sample = Sample(
            trajectory.trajectory_id, blank, blank.astype(bool), blank.astype(np.float32), 1
        )
        return Episode(sample, None)
    versions = [
        segment.policy_version
        for segment in trajectory.segments
        if segment.source == trajectory_pb2.TOKEN_SOURCE_POLICY
    ]
    return Episode(sample_from(trajectory), reward, min(versions, default=None))


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
        reward_preset=rl.reward_preset,
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
