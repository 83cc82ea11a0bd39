"""A policy engine in a process of its own, behind vLLM's interface: the local one, computing alone.

`python -m tests.kills.policy_server MODEL FOLDER PORT [--frozen]` answers each request by its seed
and tokens alone, to the last bit. With --frozen it takes new weights without using them: then what
it samples does not depend on when an update reaches it, either.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.rollout.policy.engine import EngineConfig, PolicyEngine
from tests.services.rollout.policy.vllm_server import VllmStandIn, turn, until

MOST_TOKENS = 4096


class PolicyServer(VllmStandIn):
    """The stand-in's protocol around a real engine."""

    def __init__(self, engine: PolicyEngine, root: Path, *, frozen: bool) -> None:
        super().__init__(root, max_model_len=MOST_TOKENS)
        self._engine = engine
        self._frozen = frozen
        self._numbers = itertools.count(1)

    async def collective_rpc(self, request: Request) -> Response:
        response = await super().collective_rpc(request)
        if self.weights is not None and not self._frozen:
            await self._engine.load_weights(next(self._numbers), self.weights)
        return response

    async def generate(self, request: Request) -> Response:
        body = await request.json()
        sampling = body["sampling_params"]
        await until(lambda: not self.paused)
        self.running += 1
        key, label = f"turn-{next(self._numbers)}", self.label
        try:
            await self._engine.open_sequence(key, body["token_ids"], noise_seed=sampling["seed"])
            said = await self._engine.generate(
                key,
                (),
                temperature=sampling["temperature"],
                top_p=sampling["top_p"],
                max_tokens=sampling["max_tokens"],
            )
        finally:
            await self._engine.close_sequence(key)
            self.running -= 1
        content = [
            {"token_id": token, "logprob": logprob, "rank": 1}
            for token, logprob in zip(said.token_ids, said.logprobs, strict=True)
        ]
        made = turn(said.token_ids, label, logprobs={"content": content})
        return JSONResponse({"choices": [made | {"finish_reason": said.finish_reason}]})


async def _serve(model: Path, root: Path, port: int, *, frozen: bool) -> None:
    engine = PolicyEngine(
        EngineConfig(model, threads=1, max_sequence_tokens=MOST_TOKENS, deterministic=True)
    )
    await engine.start()
    answer = PolicyServer(engine, root, frozen=frozen).answer
    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])
    await uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning")).serve()


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("root", type=Path, help="folder that it is served from")
    parser.add_argument("port", type=int)
    parser.add_argument("--frozen", action="store_true")
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.model, arguments.root, arguments.port, frozen=arguments.frozen))


if __name__ == "__main__":
    main()
