"""The methods of TaskSynthesis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from synthagent.api.v1 import task_pb2, task_pb2_grpc
from synthagent.client.calling import Calling
from synthagent.convert import (
    persona_from_proto,
    split_to_proto,
    task_from_proto,
    task_to_proto,
)
from synthagent.worlds.spec import Persona, Split, Task


class TaskSynthesisMethods(Calling):
    """Makes, imports, gets and lists tasks."""

    _tasks: task_pb2_grpc.TaskSynthesisAsyncStub

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
