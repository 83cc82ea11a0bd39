"""A judge over a real server, with a real response store."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import pytest

from services.rubric_judge.votes import ModelJudge
from synthagent.llm import Models
from synthagent.metrics import ServerMetrics
from synthagent.settings import Settings
from synthagent.store import Store
from tests.services.rubric_judge.judge_server import Judge, JudgeServer, judge_server


@dataclass
class Bench:
    """A judge with its server and what it counts."""

    judge: ModelJudge
    server: JudgeServer
    metrics: ServerMetrics
    models: Models

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"synthagent_{name}", labels) or 0.0


MakeBench = Callable[..., AbstractAsyncContextManager[Bench]]


@pytest.fixture
def make_bench(make_settings: Callable[..., Settings]) -> MakeBench:
    """Makes a bench for a judge; `role` are settings of its model."""

    @contextlib.asynccontextmanager
    async def make(judge: Judge, votes: int = 3, **role: Any) -> AsyncIterator[Bench]:
        async with judge_server(judge) as server:
            settings = make_settings(judge=judge_role(server, **role))
            metrics = ServerMetrics()
            store = Store(settings.database_url)
            models = Models(settings, store, metrics)
            try:
                model = models.need("judge")
                yield Bench(ModelJudge(model, votes, metrics), server, metrics, models)
            finally:
                await models.close()
                await store.close()

    return make


def judge_role(server: JudgeServer, **role: Any) -> dict[str, Any]:
    """Settings of a role that this server plays."""
    return {"base_url": server.base_url, "model": "judge", "attempts": 1, **role}
