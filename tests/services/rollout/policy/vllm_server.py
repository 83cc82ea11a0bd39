"""A local server with vLLM's interface and no model: it shows which weights sampled, and breaks."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

INITIAL_LOGPROB = -1.0
RELOADED_LOGPROB = -2.0

Script = Callable[[dict[str, Any]], list[int]]


async def until(condition: Callable[[], object]) -> None:
    """Returns once the condition holds."""
    while not condition():  # noqa: ASYNC110 - what it looks at belongs to another thread
        await asyncio.sleep(0.005)


def noise(body: dict[str, Any]) -> list[int]:
    """Bytes that depend on the seed, up to max_tokens."""
    sampling = body["sampling_params"]
    digest = hashlib.shake_256(str(sampling["seed"]).encode()).digest(sampling["max_tokens"])
    return [byte % 200 for byte in digest]


@dataclass
class VllmStandIn:
    """What the server is and does; tests set fields and read them.

    A process's life is `label`, `paused` and `weights`; `restart` begins a new one.
    """

    root: Path
    script: Script = noise
    max_model_len: int = 4096
    device: str = "cpu"
    logprobs_mode: str = "raw_logprobs"
    turn_seconds: float = 0.0
    faults: list[Response | str] = field(default_factory=list)
    """Played instead of turns, one each: a response, or "hang"."""
    reload_fault: Response | None = None
    absent: set[str] = field(default_factory=set)

    label: str = "default"
    paused: bool = False
    weights: Path | None = None
    running: int = 0
    turns: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def restart(self) -> None:
        """Forgets everything that a new process does not know."""
        self.label, self.paused, self.weights = "default", False, None

    async def models(self, request: Request) -> Response:
        served = {"id": "policy", "root": str(self.root), "max_model_len": self.max_model_len}
        return JSONResponse({"object": "list", "data": [served]})

    async def info(self, request: Request) -> Response:
        config = {
            "model_config": {"logprobs_mode": self.logprobs_mode},
            "device_config": {"device": self.device},
        }
        return JSONResponse({"vllm_config": config})

    async def weight_info(self, request: Request) -> Response:
        return JSONResponse({"weight_version": self.label})

    async def is_paused(self, request: Request) -> Response:
        return JSONResponse({"is_paused": self.paused})

    async def pause(self, request: Request) -> Response:
        assert request.query_params["mode"] == "wait"
        self.paused = True
        await until(lambda: not self.running)
        return JSONResponse({"status": "paused"})

    async def resume(self, request: Request) -> Response:
        self.paused = False
        return JSONResponse({"status": "resumed"})

    async def update_label(self, request: Request) -> Response:
        self.label = (await request.json())["new_version"]
        return JSONResponse({"success": True})

    async def collective_rpc(self, request: Request) -> Response:
        body = await request.json()
        assert body["method"] == "reload_weights"
        assert self.paused
        if self.reload_fault is not None:
            return self.reload_fault
        folder = Path(body["kwargs"]["weights_path"])
        assert (folder / "config.json").is_file()
        self.weights = (folder / "model.safetensors").resolve(strict=True)
        return JSONResponse({"results": [None]})

    async def generate(self, request: Request) -> Response:
        body = await request.json()
        self.turns.append(body)
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, Response):
                return fault
            await asyncio.sleep(3600)
        await until(lambda: not self.paused)
        self.running += 1
        label, logprob = self.label, RELOADED_LOGPROB if self.weights else INITIAL_LOGPROB
        try:
            await asyncio.sleep(self.turn_seconds)
        finally:
            self.running -= 1
        return JSONResponse({"choices": [turn(self.script(body), label, logprob)]})

    async def answer(self, request: Request) -> Response:
        path = request.url.path
        self.calls.append(path)
        if path in self.absent:
            return JSONResponse({"error": {"message": "off"}}, 404)
        routes = {
            "/v1/models": self.models,
            "/server_info": self.info,
            "/weight_info": self.weight_info,
            "/is_paused": self.is_paused,
            "/pause": self.pause,
            "/resume": self.resume,
            "/update_weight_version": self.update_label,
            "/collective_rpc": self.collective_rpc,
            "/inference/v1/generate": self.generate,
        }
        return await routes[path](request)


def turn(
    token_ids: list[int], label: str = "default", logprob: float = INITIAL_LOGPROB, **change: Any
) -> dict[str, Any]:
    """A turn as vLLM sends it."""
    content = [{"token_id": i, "logprob": logprob, "rank": 1} for i in token_ids]
    return {
        "index": 0,
        "finish_reason": "length",
        "stop_reason": None,
        "token_ids": token_ids,
        "logprobs": {"content": content},
        "weight_versions": [{"version": label, "start": 0, "end": len(token_ids)}],
    } | change


@contextlib.asynccontextmanager
async def listening(stand_in: VllmStandIn) -> AsyncIterator[None]:
    """Serves from a thread while the block runs, on the port that it had before, if any."""
    app = Starlette(
        routes=[Route("/{path:path}", stand_in.answer, methods=["GET", "POST"])],
    )
    sock = socket.create_server(("127.0.0.1", stand_in.port))
    stand_in.port = sock.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=0)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    await until(lambda: server.started)
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join)
        sock.close()
