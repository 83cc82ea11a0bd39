"""The methods of Rollout."""

from __future__ import annotations

from collections.abc import AsyncIterator

from synthagent.api.v1 import rollout_pb2, rollout_pb2_grpc, trajectory_pb2
from synthagent.client.calling import Calling


class RolloutMethods(Calling):
    """Creates, watches and cancels runs, fetches what they give, publishes policies."""

    _rollout: rollout_pb2_grpc.RolloutAsyncStub

    async def create_run(self, run_id: str, spec: rollout_pb2.RunSpec) -> rollout_pb2.Run:
        """The created run, or the same run created before."""
        request = rollout_pb2.CreateRunRequest(run_id=run_id, spec=spec)
        return (await self._unary(self._rollout.CreateRun, request)).run

    async def get_run(self, run_id: str) -> rollout_pb2.Run:
        """A run with its progress. Raises NotFound."""
        request = rollout_pb2.GetRunRequest(run_id=run_id)
        return (await self._unary(self._rollout.GetRun, request)).run

    async def list_runs(self) -> AsyncIterator[rollout_pb2.Run]:
        """All runs, newest first, page by page."""
        request = rollout_pb2.ListRunsRequest(page_size=1000)
        async for page in self._pages(self._rollout.ListRuns, request):
            for run in page.runs:
                yield run

    async def watch_run(self, run_id: str) -> AsyncIterator[rollout_pb2.Run]:
        """The run whenever it changes, until it has ended."""
        request = rollout_pb2.WatchRunRequest(run_id=run_id)
        async for response in self._stream(self._rollout.WatchRun, request):
            yield response.run

    async def cancel_run(self, run_id: str) -> rollout_pb2.Run:
        """Cancels a run."""
        request = rollout_pb2.CancelRunRequest(run_id=run_id)
        return (await self._unary(self._rollout.CancelRun, request)).run

    async def stream_batch(
        self, run_id: str, step: int, *, rank: int = 0, world_size: int = 1
    ) -> AsyncIterator[rollout_pb2.StreamBatchResponse]:
        """One rank's share of a step's batch: a header, then trajectories."""
        request = rollout_pb2.StreamBatchRequest(
            run_id=run_id, step=step, rank=rank, world_size=world_size
        )
        async for response in self._stream(self._rollout.StreamBatch, request):
            yield response

    async def get_trajectory(self, trajectory_id: str) -> trajectory_pb2.Trajectory:
        """One trajectory, running or ended. Raises NotFound."""
        request = rollout_pb2.GetTrajectoryRequest(trajectory_id=trajectory_id)
        return (await self._unary(self._rollout.GetTrajectory, request)).trajectory

    async def list_trajectories(self, run_id: str) -> AsyncIterator[trajectory_pb2.Trajectory]:
        """A run's ended trajectories in order of completion, without events and tokens."""
        request = rollout_pb2.ListTrajectoriesRequest(run_id=run_id, page_size=1000)
        async for page in self._pages(self._rollout.ListTrajectories, request):
            for trajectory in page.trajectories:
                yield trajectory

    async def publish_policy(
        self,
        policy_version: int,
        weights_path: str,
        weights_sha256: str,
        *,
        policy: str = "",
        seconds: float = 300.0,
    ) -> int:
        """Makes a version the one that samples; returns it when the engine has loaded it.

        `seconds` is the deadline.
        """
        request = rollout_pb2.PublishPolicyRequest(
            policy=policy,
            policy_version=policy_version,
            weights_path=weights_path,
            weights_sha256=weights_sha256,
        )
        response = await self._unary(self._rollout.PublishPolicy, request, seconds)
        return response.policy_version
