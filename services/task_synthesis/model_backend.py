"""The model teacher of a process, made when first asked for, so that none need be configured."""

from __future__ import annotations

from services.task_synthesis.attempting import Attempts
from services.task_synthesis.model_item import ItemMaker
from services.task_synthesis.model_synthesis import ModelSynthesizer
from services.task_synthesis.teacher import ModelTeacher, ToolKind, in_workers
from services.task_synthesis.workers import Workers
from synthagent.llm import RoleName
from synthagent.server import Resources


class ModelBackend:
    """Builds the synthesizer from what the process shares."""

    def __init__(self, resources: Resources, workers: Workers) -> None:
        self._resources = resources
        self._workers = workers
        self._synthesizer: ModelSynthesizer | None = None

    def synthesizer(self, tool_kind: ToolKind) -> ModelSynthesizer:
        """The synthesizer. Raises PreconditionFailed where a model that it needs is missing."""
        models, settings = self._resources.models, self._resources.settings
        here: dict[RoleName, str | None] = {
            "tool": settings.tool_mock_address,
            "judge": settings.rubric_judge_address,
        }
        teacher = models.need("teacher")
        for role, elsewhere in here.items():
            if tool_kind is ToolKind.SIMULATED and elsewhere is None:
                models.need(role)
        if self._synthesizer is None:
            store, metrics = self._resources.store, self._resources.metrics
            maker = ItemMaker(
                store,
                ModelTeacher(teacher, in_workers(self._workers)),
                Attempts(self._resources.client, store),
            )
            items = settings.evaluation_items
            self._synthesizer = ModelSynthesizer(store, maker, metrics, items)
        return self._synthesizer
