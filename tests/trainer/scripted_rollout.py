"""A real gRPC server that speaks Rollout from a script: fixed episodes, and what it was told."""

from __future__ import annotations

from collections.abc import AsyncIterator
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
    """`fail_at_step` makes that step's batch unavailable; `published` lists (version, path)."""

    fail_at_step: int | None = None
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
        if request.step == self.fail_at_step:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the script says so")
        groups = [0, 1, 2][request.rank :: request.world_size]
        header = rollout_pb2.BatchHeader(rank_trajectories=4 * len(groups))
        yield rollout_pb2.StreamBatchResponse(header=header)
        for group in groups:
            for index in range(4):
                item = scripted_trajectory(request.run_id, group, index, request.step + 1)
                yield rollout_pb2.StreamBatchResponse(trajectory=item)

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
