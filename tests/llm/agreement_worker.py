"""A trainer that learns from what a vLLM server samples: prints how far apart the two are.

A process of its own, started by test_weights.py: DeepSpeed and the server's tests are apart.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import orjson

from services.rollout.policy.remote import RemotePolicyEngine, ServerConfig
from services.rollout.policy.server_weights import PublishedWeights
from tests.trainer.agreement import learn
from trainer.config import DeepSpeedSettings, LoraSettings, ModelSettings
from trainer.engine import TrainingEngine
from trainer.lora import Adapters
from trainer.ranks import join_ranks
from trainer.weights import export_model


async def _nothing() -> PublishedWeights | None:
    return None


def main(base_url: str, served: str, model: Path, out: Path, publish: str) -> None:
    join_ranks(1)
    adapters = None
    if publish != "whole":
        lora = {"enabled": True, "rank": 16, "publish": publish}
        adapters = Adapters(LoraSettings.model_validate(lora))
    settings = DeepSpeedSettings(precision="float32")
    trainer = TrainingEngine(model, ModelSettings(), settings, adapters=adapters)
    config = ServerConfig(base_url, served, model, patience_seconds=240.0, cache=out)
    engine = RemotePolicyEngine(config, _nothing)
    rate = 1e-5 if adapters is None else 1e-3
    found = asyncio.run(learn(trainer, engine, out / "weights", rate))
    export_model(trainer, model, out / "export")
    trainer.close()
    size = max(f.stat().st_size for f in (out / "weights").rglob("*.safetensors"))
    (out / "found.json").write_bytes(orjson.dumps({**found, "bytes": size}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5])
