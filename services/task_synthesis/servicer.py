"""TaskSynthesis over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from sqlalchemy import Connection

from services.task_synthesis import journal, translate
from services.task_synthesis.importing import Importer, Refused
from services.task_synthesis.model_backend import ModelBackend
from services.task_synthesis.model_item import ModelOrder
from services.task_synthesis.persona_sets import PersonaSets
from services.task_synthesis.progress import NOT_COMPOSED, Progress
from services.task_synthesis.synthesize import Synthesizer
from services.task_synthesis.workers import Workers
from synthagent.api.v1 import task_pb2, task_pb2_grpc
from synthagent.convert import GATE, SPLIT, persona_to_proto, task_from_proto, task_to_proto
from synthagent.errors import InvalidInput, NotFound
from synthagent.server import Resources, Service
from synthagent.store import Store, once, requests, tasks
from synthagent.worlds.spec import Task

MAX_IMPORT = 1000

_SYNTHESIZE = "TaskSynthesis.SynthesizeTasks"
_IMPORT = "TaskSynthesis.ImportTasks"
_IMPORT_PERSONAS = "TaskSynthesis.ImportPersonas"
_Context = grpc.aio.ServicerContext[Any, Any]


class TaskSynthesisServicer(task_pb2_grpc.TaskSynthesisServicer):
    """Translates between messages and synthesis, import and storage."""

    def __init__(
        self,
        store: Store,
        synthesizer: Synthesizer,
        model_teacher: ModelBackend,
        importer: Importer,
    ) -> None:
        self._store = store
        self._synthesizer = synthesizer
        self._model_teacher = model_teacher
        self._importer = importer
        self._persona_sets = PersonaSets(store)

    async def SynthesizeTasks(  # noqa: D102 - the contract names and documents it
        self, request: task_pb2.SynthesizeTasksRequest, context: _Context
    ) -> AsyncIterator[task_pb2.SynthesizeTasksResponse]:
        order = translate.order_from_proto(request)
        items: AsyncIterator[Task | Progress]
        if isinstance(order, ModelOrder):
            await self._persona_sets.check(order.persona_set, "model.persona_set")
            items = self._model_teacher.synthesizer(order.tool_kind).run(order)
        else:
            items = self._synthesizer.run(order)

        def claim(connection: Connection) -> None:
            found = requests.find(connection, _SYNTHESIZE, request.request_id, request)
            if found is None:
                asked = translate.wanted(order)
                requests.record(connection, _SYNTHESIZE, request.request_id, request, asked)

        await self._store.write(claim)
        async for item in items:
            yield translate.response(item)

    async def GetSynthesis(  # noqa: D102 - the contract names and documents it
        self, request: task_pb2.GetSynthesisRequest, context: _Context
    ) -> task_pb2.GetSynthesisResponse:
        asked = await self._asked(request.request_id)
        summary = await self._store.read(
            lambda c: journal.summarize(c, request.request_id, NOT_COMPOSED)
        )
        return translate.synthesis_to_proto(asked, summary)

    async def ListSynthesisItems(  # noqa: D102 - the contract names and documents it
        self, request: task_pb2.ListSynthesisItemsRequest, context: _Context
    ) -> task_pb2.ListSynthesisItemsResponse:
        size = translate.page_size(request.page_size)
        await self._asked(request.request_id)
        page = await self._store.read(
            lambda c: journal.list_page(
                c, request.request_id, page_size=size, page_token=request.page_token
            )
        )
        return task_pb2.ListSynthesisItemsResponse(
            items=[translate.attempt_to_proto(each, NOT_COMPOSED) for each in page.attempts],
            next_page_token=page.next_page_token,
        )

    async def _asked(self, request_id: str) -> task_pb2.GetSynthesisResponse:
        """What a synthesis was to give, as it was claimed. Raises NotFound."""
        stored = await self._store.read(lambda c: requests.answer(c, _SYNTHESIZE, request_id))
        if stored is None:
            raise NotFound(
                f"There was no synthesis with the request_id {request_id!r}.", field="request_id"
            )
        return task_pb2.GetSynthesisResponse.FromString(stored)

    async def ImportPersonas(  # noqa: D102 - the contract names and documents it
        self, request: task_pb2.ImportPersonasRequest, context: _Context
    ) -> task_pb2.ImportPersonasResponse:
        async def compute() -> task_pb2.ImportPersonasResponse:
            translate.check_set_name(request.persona_set)
            _check_number(len(request.personas), "personas")
            given = [
                translate.persona_from_proto(message, f"personas[{index}]")
                for index, message in enumerate(request.personas)
            ]
            stored, total = await self._persona_sets.add(request.persona_set, given)
            return task_pb2.ImportPersonasResponse(
                stored=stored, duplicates=len(given) - stored, total=total
            )

        return await once(
            self._store,
            _IMPORT_PERSONAS,
            request.request_id,
            request,
            response_type=task_pb2.ImportPersonasResponse,
            compute=compute,
        )

    async def ListPersonas(  # noqa: D102 - the contract names and documents it
        self, request: task_pb2.ListPersonasRequest, context: _Context
    ) -> task_pb2.ListPersonasResponse:
        size = translate.page_size(request.page_size)
        page = await self._persona_sets.page(request.persona_set, size, request.page_token)
        return task_pb2.ListPersonasResponse(
            personas=[persona_to_proto(persona) for persona in page.personas],
            next_page_token=page.next_page_token,
            total=page.total,
        )

    async def GetTask(  # noqa: D102 - the contract names and documents it
        self, request: task_pb2.GetTaskRequest, context: _Context
    ) -> task_pb2.GetTaskResponse:
        task = await self._store.read(lambda c: tasks.get(c, request.task_id))
        return task_pb2.GetTaskResponse(task=task_to_proto(task))

    async def ListTasks(  # noqa: D102 - the contract names and documents it
        self, request: task_pb2.ListTasksRequest, context: _Context
    ) -> task_pb2.ListTasksResponse:
        size = translate.page_size(request.page_size)
        split = SPLIT.from_optional(request.split, "split")
        page = await self._store.read(
            lambda c: tasks.list_page(
                c,
                page_size=size,
                page_token=request.page_token,
                split=split,
                domain=request.domain,
                difficulty=request.difficulty,
            )
        )
        return task_pb2.ListTasksResponse(
            tasks=[translate.summary_to_proto(summary) for summary in page.tasks],
            next_page_token=page.next_page_token,
        )

    async def ImportTasks(  # noqa: D102 - the contract names and documents it
        self, request: task_pb2.ImportTasksRequest, context: _Context
    ) -> task_pb2.ImportTasksResponse:
        async def compute() -> task_pb2.ImportTasksResponse:
            _check_number(len(request.tasks), "tasks")
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


def _without_certificate(message: task_pb2.Task) -> task_pb2.Task:
    """The message without its certificate, which is ignored even where it is malformed."""
    if not message.HasField("certificate"):
        return message
    bare = task_pb2.Task()
    bare.CopyFrom(message)
    bare.ClearField("certificate")
    return bare


def _check_number(given: int, field: str) -> None:
    if not 1 <= given <= MAX_IMPORT:
        raise InvalidInput(f"The request has {given} {field}; give 1 to {MAX_IMPORT}.", field=field)


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
        ModelBackend(resources, workers),
        Importer(store, workers, metrics, items),
    )
    task_pb2_grpc.add_TaskSynthesisServicer_to_server(servicer, server)
    return TaskSynthesisService(("synthagent.api.v1.TaskSynthesis",), workers)
