"""One rank of the ZeRO checks: trains the tiny model under each stage and leaves what came out.

Started by test_engine.py, alone or by torchrun; one process checks every stage because starting
DeepSpeed takes longer than the training.
"""

from __future__ import annotations

import sys
from pathlib import Path

import orjson
import torch
from torch import Tensor

from tests.trainer.tiny import make_groups
from trainer.checkpoint import Checkpoints, Progress
from trainer.config import DeepSpeedSettings, ModelSettings
from trainer.engine import Scores, TrainingEngine, join_ranks
from trainer.loss import Clipping, policy_loss
from trainer.packing import pack
from trainer.weights import write_weights

RATES = (1e-2, 2e-2, 1e-2)
EPSILON = 1e-3  # large: an update then depends smoothly on the gradient
CLIP = 0.05  # small: every gradient is clipped


def settings(stage: int, precision: str = "float32") -> DeepSpeedSettings:
    return DeepSpeedSettings.model_validate(
        {
            "stage": stage,
            "precision": precision,
            "gradient_clip": CLIP,
            "adam_epsilon": EPSILON,
            "adam_beta2": 0.999,
        }
    )


def rl(scores: Scores) -> tuple[Tensor, dict[str, Tensor]]:
    loss = policy_loss(scores.logprobs, scores.old_logprobs, scores.advantages, Clipping(0.2, 0.28))
    return loss.total, {"clip_fraction": loss.clipped}


def main(model: Path, out: Path) -> None:
    ranks = join_ranks(1)
    found: dict[str, list[float]] = {}

    def step(engine: TrainingEngine, number: int) -> None:
        # Three groups over two ranks: one rank has fewer rows than the other.
        share = make_groups(seed=number)[ranks.rank :: ranks.world_size]
        update = engine.update(pack(share, 60), rl, learning_rate=RATES[number])
        name = f"stage{engine.stage}-step{number}"
        found[name] = [update.loss, update.gradient_norm, update.policy_tokens]

    for stage in (1, 2, 3):
        engine = TrainingEngine(model, ModelSettings(logits_chunk=7), settings(stage))
        checkpoints = Checkpoints(out / f"checkpoints-{stage}", keep=1)
        for number in (0, 1):
            step(engine, number)
        checkpoints.save(engine, Progress(stage="rl", step=2, policy_version=3))
        state = torch.get_rng_state()
        step(engine, 2)
        write_weights(engine, out / f"stage{stage}.safetensors")
        engine.close()
        torch.rand(3)
        engine = TrainingEngine(model, ModelSettings(logits_chunk=7), settings(stage))
        place = checkpoints.read(world_size=ranks.world_size)
        checkpoints.restore(engine)
        assert place == Progress(stage="rl", step=2, policy_version=3)
        assert torch.equal(torch.get_rng_state(), state)
        step(engine, 2)
        write_weights(engine, out / f"stage{stage}-resumed.safetensors")
        engine.close()
    if ranks.first:
        (out / "updates.json").write_bytes(orjson.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
