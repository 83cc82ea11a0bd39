"""Rollout over gRPC: translates messages and starts and stops the service's parts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from sqlalchemy import Connection

from services.rollout.batches import Batches
from services.rollout.changes import Changes
from services.rollout.policies import Policies
from services.rollout.run_control import RunControl, no_run
from services.rollout.runner import EpisodeRunner
from services.rollout.scheduler import Scheduler, Work, process_name
from services.rollout.spec import DEFAULT_POLICY, RunSpec
from services.rollout.translate import (
    cursor_from,
    page_size_from,
    run_id_from,
    run_to_proto,
    spec_from_proto,
    trajectory_to_proto,
)
from synthagent.api.v1 import rollout_pb2 as pb
from synthagent.api.v1 import rollout_pb2_grpc, trajectory_pb2
from synthagent.errors import InvalidInput, NotFound
from synthagent.server import Resources, Service
from synthagent.store import Store, episodes, runs
from synthagent.store.episodes import StoredTrajectory
from synthagent.store.runs import StoredPolicy

_Context = grpc.aio.ServicerContext[Any, Any]


class RolloutServicer(rollout_pb2_grpc.RolloutServicer):
    """Translates between messages and runs."""

    def __init__(
        self, store: Store, control: RunControl, batches: Batches, policies: Policies
    ) -> None:
        self._store = store
        self._control = control
        self._batches = batches
        self._policies = policies

    async def CreateRun(  # noqa: D102 - the contract names and documents it
        self, request: pb.CreateRunRequest, context: _Context
    ) -> pb.CreateRunResponse:
        if not request.HasField("spec"):
            raise InvalidInput("spec is required.", field="spec")
        run_id, spec = run_id_from(request.run_id), spec_from_proto(request.spec)
        return pb.CreateRunResponse(run=run_to_proto(await self._control.create(run_id, spec)))

    async def GetRun(  # noqa: D102 - as above
        self, request: pb.GetRunRequest, context: _Context
    ) -> pb.GetRunResponse:
        return pb.GetRunResponse(run=run_to_proto(await self._control.get(request.run_id)))

    async def ListRuns(  # noqa: D102 - as above
        self, request: pb.ListRunsRequest, context: _Context
    ) -> pb.ListRunsResponse:
        size = page_size_from(request.page_size)
        page = await self._control.page(cursor_from(request.page_token), size + 1)
        return pb.ListRunsResponse(
            runs=[run_to_proto(view) for view in page[:size]],
            next_page_token=str(page[size - 1].run.ordinal) if len(page) > size else "",
        )

    async def WatchRun(  # noqa: D102 - as above
        self, request: pb.WatchRunRequest, context: _Context
    ) -> AsyncIterator[pb.WatchRunResponse]:
        async for view in self._control.watch(request.run_id):
            yield pb.WatchRunResponse(run=run_to_proto(view))

    async def CancelRun(  # noqa: D102 - as above
        self, request: pb.CancelRunRequest, context: _Context
    ) -> pb.CancelRunResponse:
        return pb.CancelRunResponse(run=run_to_proto(await self._control.cancel(request.run_id)))

    async def StreamBatch(  # noqa: D102 - as above
        self, request: pb.StreamBatchRequest, context: _Context
    ) -> AsyncIterator[pb.StreamBatchResponse]:
        share = await self._batches.share(
            request.run_id, request.step, request.rank, request.world_size or 1
        )
        yield pb.StreamBatchResponse(
            header=pb.BatchHeader(
                batch_id=share.batch_id,
                trajectory_ids=share.trajectory_ids,
                rank_trajectories=len(share.mine),
                rank_tokens=share.tokens,
                imbalance=share.imbalance,
            )
        )
        for trajectory_id in share.mine:
            yield pb.StreamBatchResponse(trajectory=await self._trajectory(trajectory_id))

    async def GetTrajectory(  # noqa: D102 - as above
        self, request: pb.GetTrajectoryRequest, context: _Context
    ) -> pb.GetTrajectoryResponse:
        return pb.GetTrajectoryResponse(trajectory=await self._trajectory(request.trajectory_id))

    async def ListTrajectories(  # noqa: D102 - as above
        self, request: pb.ListTrajectoriesRequest, context: _Context
    ) -> pb.ListTrajectoriesResponse:
        size, run_id = page_size_from(request.page_size), request.run_id
        after = cursor_from(request.page_token) or 0
        view = await self._control.get(run_id)
        page = await self._store.read(lambda c: episodes.completed(c, run_id, after, size + 1))
        return pb.ListTrajectoriesResponse(
            trajectories=[
                trajectory_to_proto(StoredTrajectory(episode), view.spec) for episode in page[:size]
            ],
            next_page_token=str(page[size - 1].completion) if len(page) > size else "",
        )

    async def PublishPolicy(  # noqa: D102 - as above
        self, request: pb.PublishPolicyRequest, context: _Context
    ) -> pb.PublishPolicyResponse:
        if request.policy_version < 1:
            raise InvalidInput("policy_version starts at 1.", field="policy_version")
        version = await self._policies.publish(
            StoredPolicy(
                policy=request.policy or DEFAULT_POLICY,
                version=request.policy_version,
                weights_path=request.weights_path,
                weights_sha256=request.weights_sha256.lower(),
            )
        )
        return pb.PublishPolicyResponse(policy_version=version)

    async def _trajectory(self, trajectory_id: str) -> trajectory_pb2.Trajectory:
        def read(connection: Connection) -> tuple[StoredTrajectory, RunSpec]:
            stored = episodes.load(connection, trajectory_id)
            if stored is None:
                raise NotFound(
                    f"There is no trajectory {trajectory_id!r}; list the run's trajectories.",
                    field="trajectory_id",
                    trajectory_id=trajectory_id,
                )
            run = runs.get(connection, stored.episode.run_id)
            if run is None:
                raise no_run(stored.episode.run_id)
            return stored, RunSpec.model_validate_json(run.spec)

        return trajectory_to_proto(*await self._store.read(read))


class RolloutService(Service):
    """The rollout service as the server starts and stops it."""

    def __init__(self, scheduler: Scheduler, runner: EpisodeRunner, policies: Policies) -> None:
        super().__init__(names=("synthagent.api.v1.Rollout",))
        self._scheduler = scheduler
        self._runner = runner
        self._policies = policies

    async def drain(self) -> None:
        """Stops every episode where it is: it goes on after the next start, or elsewhere."""
        await self._scheduler.stop()
        await self._runner.close()

    async def close(self) -> None:
        """Stops the policy engine."""
        await self.drain()
        await self._policies.close()


async def register(server: grpc.aio.Server, resources: Resources) -> Service:
    """Adds Rollout to the server and starts to run what waits."""
    store, settings, metrics = resources.store, resources.settings, resources.metrics
    owner, changes = process_name(), Changes()
    limit = settings.max_concurrent_episodes
    policies = Policies(store, settings, metrics)
    scheduler = Scheduler(store, metrics, owner=owner, limit=limit)
    models = resources.models
    control = RunControl(store, policies, models, scheduler, changes, window=limit)
    runner = EpisodeRunner(
        store, resources.tasks, resources.client, policies, models, metrics=metrics, owner=owner
    )
    batches = Batches(store, policies, scheduler, changes)
    rollout_pb2_grpc.add_RolloutServicer_to_server(
        RolloutServicer(store, control, batches, policies), server
    )
    await scheduler.start(
        Work(
            admit=control.admit_due,
            run=runner.run,
            give_up=runner.give_up,
            ended=lambda episode: changes.ring(episode.run_id),
        )
    )
    return RolloutService(scheduler, runner, policies)
