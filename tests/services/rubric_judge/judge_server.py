"""A real OpenAI-compatible server on a free port that plays judges of every kind.

A judge is a function from what it was sent to what it says. `Asked` reads the request as a model
would: the record between its two fences, the question, the number of the vote.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_FENCED = re.compile(r"^(----- [0-9a-f]{24} -----)\n(.*)\n\1$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Asked:
    """One request."""

    body: dict[str, Any]

    @property
    def messages(self) -> list[dict[str, str]]:
        return list(self.body["messages"])

    @property
    def text(self) -> str:
        return self.messages[1]["content"]

    @property
    def vote(self) -> int:
        return int(self.body["seed"])

    @property
    def record(self) -> list[dict[str, Any]]:
        found = _FENCED.search(self.text)
        assert found is not None, self.text
        return [orjson.loads(line) for line in found[2].split("\n")]

    @property
    def question(self) -> str:
        said = self.text.rpartition("# The question\n\n")[2].partition("\n")[0]
        return str(orjson.loads(said)["question"])


Said = str | Response
Judge = Callable[[Asked], Said | Awaitable[Said]]


def vote(answer: str, *evidence: int, rationale: str = "The events show it.") -> str:
    """A well-formed vote."""
    return json.dumps({"evidence": evidence or (0,), "rationale": rationale, "answer": answer})


def completion(content: str | None, **message: Any) -> Response:
    """The response of a chat completion."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **message},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return JSONResponse(
        {
            "id": "chat",
            "object": "chat.completion",
            "created": 0,
            "model": "judge",
            "choices": [choice],
            "usage": usage,
        }
    )


@dataclass
class JudgeServer:
    """What runs: its address, and what it was asked so far."""

    judge: Judge
    base_url: str = ""
    asked: list[Asked] = field(default_factory=list)

    async def answer(self, request: Request) -> Response:
        asked = Asked(orjson.loads(await request.body()))
        self.asked.append(asked)
        said = self.judge(asked)
        if inspect.isawaitable(said):
            said = await said
        return completion(said) if isinstance(said, str) else said


@contextlib.asynccontextmanager
async def judge_server(judge: Judge) -> AsyncIterator[JudgeServer]:
    """Serves a judge while the block runs."""
    played = JudgeServer(judge)
    app = Starlette(routes=[Route("/v1/chat/completions", played.answer, methods=["POST"])])
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done()
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    played.base_url = f"http://127.0.0.1:{port}/v1"
    try:
        yield played
    finally:
        server.should_exit = True
        await running
