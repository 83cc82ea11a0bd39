"""A local server with vLLM's interface and no model: it shows which weights sampled, and breaks."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
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

from services.rollout.policy.generation import Generation
from services.rollout.policy.remote import RemotePolicyEngine

INITIAL_LOGPROB = -1.0
RELOADED_LOGPROB = -2.0
ADAPTED_LOGPROB = -3.0

PROMPT = [1, 2, 3]

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

    A process's life is `label`, `paused`, `weights`, `adapters` and `transfer`; `restart` begins a
    new one. `adapters` are folders by name; `rank` 0 is a server without --enable-lora.
    """

    root: Path
    script: Script = noise
    max_model_len: int = 4096
    device: str = "cpu"
    logprobs_mode: str = "raw_logprobs"
    turn_seconds: float = 0.0
    hold: bool = False
    """Whether turns that run go on running."""
    faults: list[Response | str] = field(default_factory=list)
    """Played instead of turns, one each: a response, or "hang"."""
    reload_fault: Response | None = None
    absent: set[str] = field(default_factory=set)

    label: str = "default"
    paused: bool = False
    weights: Path | None = None
    rank: int = 16
    adapters: dict[str, Path] = field(default_factory=dict)
    workers: int = 1
    transfer: list[tuple[str, object]] = field(default_factory=list)
    """What was sent to the weight transfer, in order: step and body."""
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
        self.adapters, self.transfer = {}, []

    async def models(self, request: Request) -> Response:
        served = {"id": "policy", "root": str(self.root), "max_model_len": self.max_model_len}
        listed = [
            {"id": name, "root": str(folder), "parent": "policy"}
            for name, folder in self.adapters.items()
        ]
        return JSONResponse({"object": "list", "data": [served, *listed]})

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

    async def load_adapter(self, request: Request) -> Response:
        body = await request.json()
        config = json.loads((Path(body["lora_path"]) / "adapter_config.json").read_text())
        if config["r"] > self.rank:
            message = f"LoRA rank {config['r']} is greater than max_lora_rank {self.rank}."
            return JSONResponse({"error": {"message": message}}, 500)
        assert body["lora_name"] not in self.adapters
        self.adapters[body["lora_name"]] = Path(body["lora_path"])
        return Response("Success")

    async def unload_adapter(self, request: Request) -> Response:
        del self.adapters[(await request.json())["lora_name"]]
        return Response("Success")

    async def world_size(self, request: Request) -> Response:
        return JSONResponse({"world_size": self.workers})

    async def weight_transfer(self, request: Request) -> Response:
        """The steps of a transfer, refused where they come out of turn."""
        step, data = request.url.path.strip("/"), await request.body()
        order = ["init_weight_transfer_engine", "start_weight_update", "update_weights"]
        order += ["finish_weight_update", "shutdown_weight_transfer_engine"]
        done = [name for name, _ in self.transfer]
        if step != order[len(done) % len(order)] or self.paused != (step in order[1:4]):
            return JSONResponse({"error": {"message": f"{step} after {done}"}}, 500)
        body = json.loads(data) if data else {}
        self.transfer.append((step, body))
        if step == "finish_weight_update":
            assert self.label == f"loading {body['weight_version']}"
            self.label, self.weights = body["weight_version"], self.root
        return JSONResponse({"message": "done"})

    async def generate(self, request: Request) -> Response:
        body = await request.json()
        self.turns.append(body)
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, Response):
                return fault
            await asyncio.sleep(3600)
        await until(lambda: not self.paused)
        adapted = body["model"] in self.adapters
        if not adapted and body["model"] != "policy":
            unknown = {"message": f"The model `{body['model']}` does not exist.", "param": "model"}
            return JSONResponse({"error": unknown}, 404)
        self.running += 1
        label, logprob = self.label, RELOADED_LOGPROB if self.weights else INITIAL_LOGPROB
        logprob = ADAPTED_LOGPROB if adapted else logprob
        try:
            await asyncio.sleep(self.turn_seconds)
            await until(lambda: not self.hold)
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
            "/get_world_size": self.world_size,
        }
        if self.rank:
            routes["/v1/load_lora_adapter"] = self.load_adapter
            routes["/v1/unload_lora_adapter"] = self.unload_adapter
        if path.endswith(("_weight_transfer_engine", "_weight_update", "/update_weights")):
            return await self.weight_transfer(request)
        if path not in routes:
            return JSONResponse({"detail": "Not Found"}, 404)
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


async def say(
    engine: RemotePolicyEngine, key: str, append: tuple[int, ...] = (), most: int = 9
) -> Generation:
    return await engine.generate(key, append, temperature=0.7, top_p=0.9, max_tokens=most)
