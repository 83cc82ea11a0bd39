"""The replay server over HTTP: what an OpenAI-compatible server of one model `replay` offers.

Owns nothing but its products. A request that no product answers is 400 with the reason, so that it
shows up as a fault and is never retried. Tokens are counted as four characters each.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.replay.actors import Actors, Asked
from tests.replay.recognition import UnknownRequestError

MODEL = "replay"
_CHARACTERS_PER_TOKEN = 4


def application(actors: Actors, delay: float = 0.0) -> Starlette:
    """The server's routes. Each answer takes `delay` seconds more than it needs."""
    numbers = iter(range(1, 2**62))
    last = b"{}"

    async def complete(request: Request) -> Response:
        nonlocal last
        started = asyncio.get_running_loop().time()
        last = await request.body()
        body: dict[str, Any] = json.loads(last)
        if body.get("model") != MODEL:
            return _error(404, f"the model {body.get('model')!r} does not exist")
        form = body.get("response_format", {}).get("json_schema", {})
        asked = Asked(body["messages"], form.get("name", ""), int(body.get("seed", 0)))
        try:
            text = actors.answer(asked)
        except UnknownRequestError as error:
            return _error(400, f"replay: {error}")
        text = _stopped(text, body.get("stop") or [])
        await asyncio.sleep(started + delay - asyncio.get_running_loop().time())
        return JSONResponse(_completion(next(numbers), body["messages"], text))

    async def last_asked(_: Request) -> Response:
        """The last request as it came, for those who want to send it themselves."""
        return Response(last, media_type="application/json")

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def health(_: Request) -> Response:
        return Response()

    return Starlette(
        routes=[
            Route("/v1/chat/completions", complete, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/replay/last", last_asked),
            Route("/health", health),
        ]
    )


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "code": status}}, status_code=status)


def _stopped(text: str, stops: list[str]) -> str:
    """The text up to the first stop string."""
    ends = [end for stop in stops if (end := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def _completion(number: int, messages: list[dict[str, str]], text: str) -> dict[str, Any]:
    read = sum(len(message["content"]) for message in messages) // _CHARACTERS_PER_TOKEN
    written = -(-len(text) // _CHARACTERS_PER_TOKEN)
    return {
        "id": f"replay-{number}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": text},
            }
        ],
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        },
    }
