"""TaskSynthesis over gRPC."""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import grpc

from services.task_synthesis.examine import Drawing
from services.task_synthesis.importing import Importer, Refused
from services.task_synthesis.synthesize import Order, Progress, Synthesizer
from services.task_synthesis.workers import Workers
from synthagent.api.v1 import task_pb2, task_pb2_grpc
from synthagent.convert import (
    GATE,
    SPLIT,
    split_from_proto,
    split_to_proto,
    task_from_proto,
    task_to_proto,
)
from synthagent.errors import InvalidInput
from synthagent.server import Resources, Service
from synthagent.store import Store, once, requests, tasks
from synthagent.worlds.compose import DIFFICULTIES, Composer, domains
from synthagent.worlds.spec import Split, Task

MAX_COUNT = 100_000
MAX_IMPORT = 1000
MAX_PAGE = 1000
DEFAULT_PAGE = 100
DEFAULT_DIFFICULTY = "standard"

_SYNTHESIZE = "TaskSynthesis.SynthesizeTasks"
_IMPORT = "TaskSynthesis.ImportTasks"
_Context = grpc.aio.ServicerContext[Any, Any]


class TaskSynthesisServicer(task_pb2_grpc.TaskSynthesisServicer):
    """Translates between messages and synthesis, import and storage."""

    def __init__(self, store: Store, synthesizer: Synthesizer, importer: Importer) -> None:
        self._store = store
        self._synthesizer = synthesizer
        self._importer = importer

    async def SynthesizeTasks(  # noqa: D102 - the contract names and documents it
        self, request: task_pb2.SynthesizeTasksRequest, context: _Context
    ) -> AsyncIterator[task_pb2.SynthesizeTasksResponse]:
        order = _order(request)

        def claim(connection: Any) -> None:
            found = requests.find(connection, _SYNTHESIZE, request.request_id, request)
            if found is None:
                requests.record(connection, _SYNTHESIZE, request.request_id, request, None)

        await self._store.write(claim)
        async for item in self._synthesizer.run(order):
            yield _response(item)

    async def GetTask(  # noqa: D102 - the contract names and documents it
        self, request: task_pb2.GetTaskRequest, context: _Context
    ) -> task_pb2.GetTaskResponse:
        task = await self._store.read(lambda c: tasks.get(c, request.task_id))
        return task_pb2.GetTaskResponse(task=task_to_proto(task))

    async def ListTasks(  # noqa: D102 - the contract names and documents it
        self, request: task_pb2.ListTasksRequest, context: _Context
    ) -> task_pb2.ListTasksResponse:
        if request.page_size > MAX_PAGE:
            raise InvalidInput(
                f"page_size is {request.page_size}; give at most {MAX_PAGE}.", field="page_size"
            )
        split = SPLIT.from_optional(request.split, "split")
        page = await self._store.read(
            lambda c: tasks.list_page(
                c,
                page_size=request.page_size or DEFAULT_PAGE,
                page_token=request.page_token,
                split=split,
                domain=request.domain,
                difficulty=request.difficulty,
            )
        )
        return task_pb2.ListTasksResponse(
            tasks=[_summary(summary) for summary in page.tasks],
            next_page_token=page.next_page_token,
        )

    async def ImportTasks(  # noqa: D102 - the contract names and documents it
        self, request: task_pb2.ImportTasksRequest, context: _Context
    ) -> task_pb2.ImportTasksResponse:
        async def compute() -> task_pb2.ImportTasksResponse:
            if not 1 <= len(request.tasks) <= MAX_IMPORT:
                raise InvalidInput(
                    f"The request has {len(request.tasks)} tasks; give 1 to {MAX_IMPORT}.",
                    field="tasks",
                )
            return await self._import(request.tasks)

        return await once(
            self._store,
            _IMPORT,
            request.request_id,
            request,
            response_type=task_pb2.ImportTasksResponse,
            compute=compute,
        )

    async def _import(self, messages: Sequence[task_pb2.Task]) -> task_pb2.ImportTasksResponse:
        given: list[Task] = []
        positions: list[int] = []
        outcomes: list[Refused | None] = [None] * len(messages)
        for index, message in enumerate(messages):
            try:
                given.append(task_from_proto(_without_certificate(message), f"tasks[{index}]"))
                positions.append(index)
            except InvalidInput as error:
                outcomes[index] = Refused(None, error.message)
        for index, outcome in zip(positions, await self._importer.import_tasks(given), strict=True):
            outcomes[index] = outcome
        response = task_pb2.ImportTasksResponse()
        for index, (message, refused) in enumerate(zip(messages, outcomes, strict=True)):
            if refused is None:
                response.task_ids.append(message.task_id)
            else:
                response.rejected.add(
                    index=index,
                    task_id=message.task_id,
                    gate=GATE.to_number(refused.gate),
                    reason=refused.reason,
                )
        return response


def _order(request: task_pb2.SynthesizeTasksRequest) -> Order:
    """The order of a request. Raises InvalidInput, which names the field."""
    requests.check_request_id(request.request_id)
    if not 1 <= request.count <= MAX_COUNT:
        raise InvalidInput(f"count is {request.count}; give 1 to {MAX_COUNT}.", field="count")
    split = split_from_proto(request.split)
    difficulty = request.difficulty or DEFAULT_DIFFICULTY
    _check_known(difficulty, DIFFICULTIES, "difficulty", "difficulty")
    for number, domain in enumerate(request.domains):
        other = next(each for each in Split if each is not split)
        if domain in domains(other):
            raise InvalidInput(
                f"Domain {domain!r} belongs to the split {other.value}, not {split.value}.",
                field=f"domains[{number}]",
            )
        _check_known(domain, domains(split), f"domains[{number}]", f"domain of {split.value}")
    chosen = tuple(sorted(set(request.domains))) or None
    try:
        Composer(split, difficulty, chosen)
    except ValueError as error:
        raise InvalidInput(f"Nothing can be composed: {error}.", field="domains") from error
    return Order(
        request.request_id, request.count, Drawing(split, difficulty, chosen, request.seed)
    )


def _check_known(name: str, known: Iterable[str], field: str, what: str) -> None:
    names = sorted(known) if field.startswith("domains") else list(known)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InvalidInput(f"There is no {what} {name!r}; {hint}{', '.join(names)}.", field=field)


def _response(item: Task | Progress) -> task_pb2.SynthesizeTasksResponse:
    if isinstance(item, Task):
        return task_pb2.SynthesizeTasksResponse(task=task_to_proto(item))
    return task_pb2.SynthesizeTasksResponse(
        progress=task_pb2.SynthesisProgress(
            requested=item.requested,
            admitted=item.admitted,
            attempted=item.attempted,
            rejected_by_gate=item.rejected_by_gate,
        )
    )


def _summary(summary: tasks.TaskSummary) -> task_pb2.TaskSummary:
    values = asdict(summary)
    values["split"] = split_to_proto(summary.split)
    return task_pb2.TaskSummary(**values)


def _without_certificate(message: task_pb2.Task) -> task_pb2.Task:
    """The message without its certificate, which is ignored even where it is malformed."""
    if not message.HasField("certificate"):
        return message
    bare = task_pb2.Task()
    bare.CopyFrom(message)
    bare.ClearField("certificate")
    return bare


@dataclass
class TaskSynthesisService(Service):
    """The service with its workers."""

    workers: Workers

    async def close(self) -> None:
        """Ends the workers."""
        await self.workers.close()


async def register(server: grpc.aio.Server, resources: Resources) -> Service:
    """Adds TaskSynthesis to the server."""
    store, metrics = resources.store, resources.metrics
    items = resources.settings.evaluation_items
    workers = Workers()
    servicer = TaskSynthesisServicer(
        store,
        Synthesizer(store, workers, metrics, items),
        Importer(store, workers, metrics, items),
    )
    task_pb2_grpc.add_TaskSynthesisServicer_to_server(servicer, server)
    return TaskSynthesisService(("synthagent.api.v1.TaskSynthesis",), workers)
