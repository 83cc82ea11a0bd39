"""The typed client of all five services.

One `SynthAgentClient` holds one channel per address and is used by many tasks of one event loop.
Every unary call has a deadline: the client's, or what is left of the call being served where that
is nearer. Only UNAVAILABLE is retried, by gRPC itself; every mutation carries its idempotency key.
Statuses come back as the exceptions of `synthagent.errors`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc

from synthagent import accounts, deadlines
from synthagent.api.v1 import (
    judge_pb2,
    judge_pb2_grpc,
    rollout_pb2,
    rollout_pb2_grpc,
    task_pb2,
    task_pb2_grpc,
    tool_pb2,
    tool_pb2_grpc,
    trajectory_pb2,
    user_pb2,
    user_pb2_grpc,
)
from synthagent.channel import open_channel
from synthagent.convert import (
    criterion_judgement_from_proto,
    event_to_proto,
    persona_from_proto,
    split_to_proto,
    task_from_proto,
    task_to_proto,
    tool_result_from_proto,
    user_reply_from_proto,
    verdict_from_proto,
)
from synthagent.deadlines import ModelSeconds
from synthagent.failures import from_rpc_error
from synthagent.tool_session import RecordedCall, ToolSession, recorded_call_to_proto
from synthagent.worlds.episode import Event, ToolResult, UserReply, Verdict
from synthagent.worlds.judgement import CriterionJudgement
from synthagent.worlds.spec import Persona, Split, Task

if TYPE_CHECKING:
    from synthagent.settings import Settings

M = TypeVar("M")


class SynthAgentClient:
    """All five services. Made inside a running event loop; closed by `close` or `async with`."""

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        task_synthesis: str | None = None,
        tool_mock: str | None = None,
        user_simulator: str | None = None,
        rubric_judge: str | None = None,
        rollout: str | None = None,
        timeout_seconds: float = 30.0,
        model_seconds: ModelSeconds | None = None,
        wait_for_ready: bool = False,
        max_message_bytes: int = 16 * 2**20,
    ) -> None:
        """Connects lazily: to `address`, or for one service to its own host:port.

        With `wait_for_ready` a call waits for a server that is not there yet until its deadline;
        without, it fails as soon as the connection does. Calls that a model may have to answer get
        `model_seconds` more than `timeout_seconds` (None: none).
        """
        more = model_seconds or ModelSeconds()
        self._timeout = timeout_seconds
        self._tool_timeout = timeout_seconds + more.tool
        self._user_timeout = timeout_seconds + more.user
        self._judge_timeout = timeout_seconds + more.judge
        self._ready = wait_for_ready
        self._channels: dict[str, grpc.aio.Channel] = {}

        def channel(own: str | None) -> grpc.aio.Channel:
            where = own or address
            if where not in self._channels:
                self._channels[where] = open_channel(where, max_message_bytes)
            return self._channels[where]

        self._tasks = task_pb2_grpc.TaskSynthesisStub(channel(task_synthesis))
        self._tools = tool_pb2_grpc.ToolMockStub(channel(tool_mock))
        self._user = user_pb2_grpc.UserSimulatorStub(channel(user_simulator))
        self._judge = judge_pb2_grpc.RubricJudgeStub(channel(rubric_judge))
        self._rollout = rollout_pb2_grpc.RolloutStub(channel(rollout))

    @classmethod
    def from_settings(cls, settings: Settings, own_address: str) -> Self:
        """The client of a server process: at the settings' addresses, or at its own."""
        return cls(
            own_address,
            task_synthesis=settings.task_synthesis_address,
            tool_mock=settings.tool_mock_address,
            user_simulator=settings.user_simulator_address,
            rubric_judge=settings.rubric_judge_address,
            rollout=settings.rollout_address,
            timeout_seconds=settings.call_timeout_seconds,
            model_seconds=ModelSeconds.of(settings),
            wait_for_ready=True,
            max_message_bytes=settings.max_message_bytes,
        )

    async def close(self) -> None:
        """Ends every call and closes the channels."""
        for channel in self._channels.values():
            await channel.close(grace=None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _unary(
        self, method: Callable[..., Awaitable[M]], request: Any, seconds: float | None = None
    ) -> M:
        timeout = deadlines.timeout(seconds or self._timeout)
        try:
            return await method(
                request, timeout=timeout, wait_for_ready=self._ready, metadata=accounts.outgoing()
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def _stream(self, method: Callable[..., Any], request: Any) -> AsyncIterator[Any]:
        call = method(
            request,
            timeout=deadlines.timeout(None),
            wait_for_ready=self._ready,
            metadata=accounts.outgoing(),
        )
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()

    async def _pages(self, method: Callable[..., Awaitable[M]], request: Any) -> AsyncIterator[M]:
        """Every page of a listing, from the one that `request` asks for."""
        while True:
            page: Any = await self._unary(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    # TaskSynthesis

    async def synthesize_tasks(
        self,
        request_id: str,
        count: int,
        split: Split,
        *,
        difficulty: str = "",
        seed: int = 0,
        domains: Sequence[str] = (),
        model: task_pb2.ModelTeacher | None = None,
    ) -> AsyncIterator[Task | task_pb2.SynthesisProgress]:
        """Streams tasks as they are admitted, with progress between and at the end.

        With `model` a language model makes them; otherwise the programmatic teacher does.
        """
        request = task_pb2.SynthesizeTasksRequest(
            request_id=request_id,
            count=count,
            split=split_to_proto(split),
            difficulty=difficulty,
            seed=seed,
            domains=domains,
            teacher=task_pb2.TEACHER_MODEL if model else task_pb2.TEACHER_UNSPECIFIED,
            model=model,
        )
        async for response in self._stream(self._tasks.SynthesizeTasks, request):
            if response.WhichOneof("item") == "task":
                yield task_from_proto(response.task)
            else:
                yield response.progress

    async def get_task(self, task_id: str) -> Task:
        """One task with its certificate. Raises NotFound."""
        request = task_pb2.GetTaskRequest(task_id=task_id)
        response = await self._unary(self._tasks.GetTask, request)
        return task_from_proto(response.task)

    async def list_tasks(
        self, *, split: Split | None = None, domain: str = "", difficulty: str = ""
    ) -> AsyncIterator[task_pb2.TaskSummary]:
        """All task summaries in order of admission, page by page."""
        request = task_pb2.ListTasksRequest(
            page_size=1000, split=split_to_proto(split), domain=domain, difficulty=difficulty
        )
        async for page in self._pages(self._tasks.ListTasks, request):
            for summary in page.tasks:
                yield summary

    async def import_tasks(
        self, request_id: str, tasks: Sequence[Task], *, seconds: float = 600.0
    ) -> task_pb2.ImportTasksResponse:
        """Certifies and stores tasks; says which were refused and why. `seconds`: deadline."""
        request = task_pb2.ImportTasksRequest(
            request_id=request_id, tasks=[task_to_proto(task) for task in tasks]
        )
        return await self._unary(self._tasks.ImportTasks, request, seconds)

    async def get_synthesis(self, request_id: str) -> task_pb2.GetSynthesisResponse:
        """What became of a synthesis: yield, cost, mix of routes. Raises NotFound."""
        request = task_pb2.GetSynthesisRequest(request_id=request_id)
        return await self._unary(self._tasks.GetSynthesis, request)

    async def list_synthesis_items(self, request_id: str) -> AsyncIterator[task_pb2.SynthesisItem]:
        """All attempts of a synthesis in order, admitted or not, page by page. Raises NotFound."""
        request = task_pb2.ListSynthesisItemsRequest(request_id=request_id, page_size=1000)
        async for page in self._pages(self._tasks.ListSynthesisItems, request):
            for item in page.items:
                yield item

    async def import_personas(
        self, request_id: str, persona_set: str, personas: Sequence[task_pb2.Persona]
    ) -> task_pb2.ImportPersonasResponse:
        """Adds at most 1,000 personas, which need no more than a description, to a set."""
        request = task_pb2.ImportPersonasRequest(
            request_id=request_id, persona_set=persona_set, personas=personas
        )
        return await self._unary(self._tasks.ImportPersonas, request)

    async def list_personas(self, persona_set: str = "generated") -> AsyncIterator[Persona]:
        """All personas of a set, page by page. Raises NotFound."""
        request = task_pb2.ListPersonasRequest(persona_set=persona_set, page_size=1000)
        async for page in self._pages(self._tasks.ListPersonas, request):
            for persona in page.personas:
                yield persona_from_proto(persona, "persona")

    # ToolMock

    async def call_tool(
        self, task_id: str, tool: str, arguments: str, history: Sequence[RecordedCall] = ()
    ) -> ToolResult:
        """One call in a fresh session after replaying `history`."""
        request = tool_pb2.CallToolRequest(
            task_id=task_id,
            history=[recorded_call_to_proto(call) for call in history],
            tool=tool,
            arguments_json=arguments,
        )
        response = await self._unary(self._tools.CallTool, request, self._tool_timeout)
        return tool_result_from_proto(response.result, "result")

    async def open_session(
        self,
        task_id: str,
        history: Sequence[RecordedCall] = (),
        expected_state_hash: str = "",
    ) -> ToolSession:
        """A tool session, open. Raises NotFound, Uncertified, StateDiverged, LimitExceeded."""
        session = ToolSession(
            self._tools,
            task_id,
            history,
            expected_state_hash,
            call_timeout=self._tool_timeout,
        )
        await session.open()
        return session

    async def list_ledger_entries(self, task_id: str) -> AsyncIterator[tool_pb2.LedgerEntry]:
        """All entries of a task's ledger in order of writing, page by page. Raises NotFound."""
        request = tool_pb2.ListLedgerEntriesRequest(task_id=task_id, page_size=1000)
        async for page in self._pages(self._tools.ListLedgerEntries, request):
            for entry in page.entries:
                yield entry

    # UserSimulator and RubricJudge

    async def reply(self, request_id: str, task_id: str, events: Sequence[Event]) -> UserReply:
        """The user's answer to the agent's last message."""
        request = user_pb2.ReplyRequest(
            request_id=request_id,
            task_id=task_id,
            events=[event_to_proto(event) for event in events],
        )
        response = await self._unary(self._user.Reply, request, self._user_timeout)
        return user_reply_from_proto(response.reply, "reply")

    async def judge(
        self, request_id: str, task_id: str, events: Sequence[Event], reward_preset: str = ""
    ) -> Verdict:
        """The verdict on a finished episode."""
        request = judge_pb2.JudgeRequest(
            request_id=request_id,
            task_id=task_id,
            events=[event_to_proto(event) for event in events],
            reward_preset=reward_preset,
        )
        response = await self._unary(self._judge.Judge, request, self._judge_timeout)
        return verdict_from_proto(response.verdict)

    async def judge_criterion(
        self,
        request_id: str,
        subject: Task | str,
        events: Sequence[Event],
        criterion_id: str,
        *,
        seconds: float | None = None,
    ) -> CriterionJudgement:
        """What the judge's model makes of one criterion; no reward comes of it.

        `subject` is a task, or the identifier of a stored one; `seconds` the deadline. Raises
        NotFound, PreconditionFailed (no model is configured for the judge), ModelFault.
        """
        request = judge_pb2.JudgeCriterionRequest(
            request_id=request_id,
            events=[event_to_proto(event) for event in events],
            criterion_id=criterion_id,
        )
        if isinstance(subject, Task):
            request.task.CopyFrom(task_to_proto(subject))
        else:
            request.task_id = subject
        response = await self._unary(
            self._judge.JudgeCriterion, request, seconds or self._judge_timeout
        )
        return criterion_judgement_from_proto(response)

    # Rollout

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
