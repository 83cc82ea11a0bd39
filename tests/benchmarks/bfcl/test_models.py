"""The models that answer: a real tiny engine and a real chat server on a free port."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.bfcl.models import (
    ContextFull,
    EngineModel,
    Limits,
    ModelFault,
    local_model,
    served_model,
)
from synthagent.errors import InvalidInput
from tests.services.rollout.policy.conftest import tiny_model, write_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tiny")
    tiny_model().save_pretrained(place)
    write_tokenizer(place)
    return place


async def test_the_local_engine_reads_a_conversation_on_and_tells_when_it_is_full(
    folder: Path,
) -> None:
    limits = Limits(turn_tokens=6, context_tokens=120, places=2)
    async with local_model(folder, limits, device="cpu", threads=1, dtype="float32") as model:
        assert isinstance(model, EngineModel)
        assert model.identity.startswith("sha256:")
        replies = []
        for key in ("a", "b"):
            async with model.converse(key) as talk:
                first = await talk.begin("s", "u")
                replies.append((first.text, (await talk.go_on("tool", "{}")).text))
                assert 0 < first.tokens <= 6
                with pytest.raises(ContextFull):
                    await talk.go_on("user", "x" * 200)
        assert replies[0] == replies[1]  # greedy
        async with model.converse("c") as talk:
            with pytest.raises(ContextFull):
                await talk.begin("s" * 200, "u")


@contextlib.asynccontextmanager
async def _serve(answers: list[Any], heard: list[Any]) -> AsyncIterator[str]:
    """A chat server that says what stands next in `answers`: a text, or a status to fail with."""

    async def complete(request: Request) -> JSONResponse:
        heard.append(await request.json())
        said = answers.pop(0)
        if not isinstance(said, str):
            status, message = said
            return JSONResponse({"error": {"message": message}}, status_code=status)
        choice = {"index": 0, "message": {"role": "assistant", "content": said}}
        usage = {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
        return JSONResponse(
            {**body, "choices": [{**choice, "finish_reason": "stop"}], "usage": usage}
        )

    app = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            await serving


async def test_a_chat_server_gets_the_whole_conversation_each_time() -> None:
    heard: list[Any] = []
    full = (400, "This model's maximum context length is 9 tokens")
    answers = ["one", "two", full, (422, "no"), "three"]
    async with (
        _serve(answers, heard) as url,
        served_model(url, "m", Limits(turn_tokens=6)) as model,
        model.converse("a") as talk,
    ):
        reply = await talk.begin("be brief", "hello")
        assert (reply.text, reply.tokens) == ("one", 4)
        assert (await talk.go_on("tool", "{}")).text == "two"
        assert [said["role"] for said in heard[1]["messages"]] == [
            *("system", "user", "assistant", "user")
        ]
        assert heard[1]["messages"][3]["content"] == "<tool_response>\n{}\n</tool_response>"
        assert heard[0]["stop"] == ["</tool_call>", "</answer>"]
        assert (heard[0]["temperature"], heard[0]["max_tokens"]) == (0.0, 6)
        with pytest.raises(ContextFull):
            await talk.go_on("user", "more")
        with pytest.raises(ModelFault):
            await talk.go_on("user", "more")


async def test_a_server_needs_a_models_name() -> None:
    with pytest.raises(InvalidInput, match="--served-model"):
        async with served_model("http://127.0.0.1:9/v1", "", Limits()):
            pass
