"""A real gRPC server that speaks Rollout from a script: fixed episodes, and what it was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import grpc
import numpy as np

from synthagent.api.v1 import rollout_pb2, rollout_pb2_grpc, trajectory_pb2
from tests.trainer.tiny import VOCABULARY, make_sample


def scripted_trajectory(
    run_id: str, group: int, index: int, seed: int
) -> trajectory_pb2.Trajectory:
    """An episode that follows from its name alone. Index 3 of each group is INVALID."""
    shared = np.random.default_rng([seed, group])
    prompt = shared.integers(0, VOCABULARY, 8)
    rng = np.random.default_rng([seed, group, index])
    sample = make_sample(rng, "s", prompt, 12)
    made = trajectory_pb2.Trajectory(
        trajectory_id=f"{run_id}-{group}-{index}", run_id=run_id, group_id=f"{seed}-{group}"
    )
    made.segments.add(source=trajectory_pb2.TOKEN_SOURCE_PROMPT, token_ids=prompt.tolist())
    for position in range(8, len(sample.token_ids)):
        token = int(sample.token_ids[position])
        if sample.policy_mask[position]:
            made.segments.add(
                source=trajectory_pb2.TOKEN_SOURCE_POLICY,
                token_ids=[token],
                logprobs=[float(sample.logprobs[position])],
            )
        else:
            made.segments.add(source=trajectory_pb2.TOKEN_SOURCE_OBSERVATION, token_ids=[token])
    if index == 3:
        made.verdict.invalid.reason = trajectory_pb2.INVALID_REASON_TOOL_FAULT
    else:
        # Rewards of group 1 do not vary.
        made.verdict.reward = 1.0 if group == 1 else index / 2
    return made


@dataclass
class ScriptedRollout(rollout_pb2_grpc.RolloutServicer):
    """`fail_at_step` makes that step's batch unavailable; `published` lists (version, path).

    A batch's episodes were sampled `behind` versions before the one that trains on them, and take
    `batch_seconds` to come.
    """

    fail_at_step: int | None = None
    behind: int = 0
    batch_seconds: float = 0.0
    on_call: Callable[[object], None] = lambda _: None
    """Hears each request for a run's progress or a batch before it is answered."""
    published: list[tuple[int, str]] = field(default_factory=list)
    runs: dict[str, rollout_pb2.RunSpec] = field(default_factory=dict)

    async def CreateRun(  # noqa: N802 - the contract's name
        self,
        request: rollout_pb2.CreateRunRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> rollout_pb2.CreateRunResponse:
        known = self.runs.setdefault(request.run_id, request.spec)
        assert known == request.spec
        return rollout_pb2.CreateRunResponse(run=self._run(request.run_id))

    async def WatchRun(  # noqa: N802 - the contract's name
        self,
        request: rollout_pb2.WatchRunRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> AsyncIterator[rollout_pb2.WatchRunResponse]:
        self.on_call(request)
        yield rollout_pb2.WatchRunResponse(run=self._run(request.run_id))

    async def ListTrajectories(  # noqa: N802 - the contract's name
        self,
        request: rollout_pb2.ListTrajectoriesRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> rollout_pb2.ListTrajectoriesResponse:
        group = 0 if request.run_id == "stored" else 1
        items = [scripted_trajectory(request.run_id, group, index, 0) for index in range(3)]
        return rollout_pb2.ListTrajectoriesResponse(trajectories=items)

    async def GetTrajectory(  # noqa: N802 - the contract's name
        self,
        request: rollout_pb2.GetTrajectoryRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> rollout_pb2.GetTrajectoryResponse:
        run_id, group, index = request.trajectory_id.rsplit("-", 2)
        made = scripted_trajectory(run_id, int(group), int(index), 0)
        version = self.published[-1][0] if self.published else 0
        for segment in made.segments:
            if segment.source == trajectory_pb2.TOKEN_SOURCE_POLICY:
                segment.policy_version = version
        return rollout_pb2.GetTrajectoryResponse(trajectory=made)

    async def StreamBatch(  # noqa: N802 - the contract's name
        self,
        request: rollout_pb2.StreamBatchRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> AsyncIterator[rollout_pb2.StreamBatchResponse]:
        self.on_call(request)
        await asyncio.sleep(self.batch_seconds)
        if request.step == self.fail_at_step:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the script says so")
        batch = [[self._item(request, group, index) for index in range(4)] for group in range(3)]
        groups = batch[request.rank :: request.world_size]
        header = rollout_pb2.BatchHeader(
            batch_id=f"{request.run_id}.step-{request.step}",
            trajectory_ids=[item.trajectory_id for group in batch for item in group],
            rank_trajectories=4 * len(groups),
            rank_tokens=100 * len(groups),
            imbalance=len(groups) * request.world_size / 3,
        )
        yield rollout_pb2.StreamBatchResponse(header=header)
        for group in groups:
            for item in group:
                yield rollout_pb2.StreamBatchResponse(trajectory=item)

    def _item(
        self, request: rollout_pb2.StreamBatchRequest, group: int, index: int
    ) -> trajectory_pb2.Trajectory:
        """An episode of a batch, sampled by versions `behind` before the one that trains on it."""
        name = f"{request.run_id}.{request.step}"
        item = scripted_trajectory(name, group, index, request.step + 1)
        first = self.runs[request.run_id].training.first_policy_version
        for segment in item.segments:
            if segment.source == trajectory_pb2.TOKEN_SOURCE_POLICY:
                segment.policy_version = max(first, first + request.step - self.behind)
        return item

    async def PublishPolicy(  # noqa: N802 - the contract's name
        self,
        request: rollout_pb2.PublishPolicyRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> rollout_pb2.PublishPolicyResponse:
        self.published.append((request.policy_version, request.weights_sha256))
        return rollout_pb2.PublishPolicyResponse(policy_version=request.policy_version)

    async def GetRun(  # noqa: N802 - the contract's name
        self,
        request: rollout_pb2.GetRunRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> rollout_pb2.GetRunResponse:
        return rollout_pb2.GetRunResponse(run=self._run(request.run_id))

    async def CancelRun(  # noqa: N802 - the contract's name
        self,
        request: rollout_pb2.CancelRunRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> rollout_pb2.CancelRunResponse:
        return rollout_pb2.CancelRunResponse(run=self._run(request.run_id))

    async def ListRuns(  # noqa: N802 - the contract's name
        self,
        request: rollout_pb2.ListRunsRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> rollout_pb2.ListRunsResponse:
        return rollout_pb2.ListRunsResponse(runs=[self._run(name) for name in self.runs])

    def _run(self, run_id: str) -> rollout_pb2.Run:
        progress = rollout_pb2.RunProgress(
            episodes_total=3, episodes_ended=3, mean_reward=0.5, reward_sem=0.1
        )
        return rollout_pb2.Run(
            run_id=run_id,
            spec=self.runs[run_id],
            state=rollout_pb2.RUN_STATE_SUCCEEDED,
            progress=progress,
        )
