"""Trains the tiny model with the optimizer where the weights are, then in host memory.

Started by test_offload.py. DeepSpeed compiles its Adam for the host's memory at first use.
"""

from __future__ import annotations

from pathlib import Path

import orjson

from tests.trainer.tiny import make_groups
from tests.trainer.zero_worker import rl
from trainer.config import DeepSpeedSettings, ModelSettings
from trainer.engine import TrainingEngine
from trainer.packing import pack
from trainer.ranks import join_ranks
from trainer.weights import write_weights

STAGES = (1, 2, 3)
UPDATES = 3


def main(model: Path, out: Path) -> None:
    join_ranks(1)
    for stage in STAGES:
        for offload in (False, True):
            settings = DeepSpeedSettings(
                stage=stage,
                precision="float32",
                offload_optimizer=offload,
                offload_parameters=offload and stage == 3,
            )
            engine = TrainingEngine(model, ModelSettings(logits_chunk=7), settings)
            found = []
            for number in range(UPDATES):
                rows = pack(make_groups(seed=number), 60)
                update = engine.update(rows, rl, learning_rate=1e-2)
                found.append([update.loss, update.gradient_norm])
            name = f"{stage}-{'offloaded' if offload else 'plain'}"
            (out / f"{name}.json").write_bytes(orjson.dumps(found))
            write_weights(engine, out / f"{name}.safetensors")
            engine.close()
