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

from tests.trainer.agreement import measure
from tests.trainer.tiny import make_groups
from trainer.checkpoint import Checkpoints, Progress
from trainer.config import DeepSpeedSettings, LoraSettings, ModelSettings
from trainer.engine import Scores, TrainingEngine
from trainer.lora import Adapters
from trainer.loss import Clipping, policy_loss
from trainer.packing import pack
from trainer.ranks import join_ranks
from trainer.weights import export_model, write_reference, write_weights

RATES = (1e-2, 2e-2, 1e-2)
EPSILON = 1e-3  # large: an update then depends smoothly on the gradient
CLIP = 0.05  # small: every gradient is clipped
LORA = LoraSettings(enabled=True, rank=4, alpha=8.0, seed=5)
AGREEMENT = (("float32", False), ("float32", True), ("bfloat16", False))
VARIANTS = {
    f"{kind}{stage}": (stage, kind == "lora") for kind in ("stage", "lora") for stage in (1, 2, 3)
}


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


def keep_logprobs(engine: TrainingEngine, path: Path) -> None:
    """Leaves the log-probabilities of the first rank's samples, by their names."""
    rows = pack(make_groups(seed=9)[engine.ranks.rank :: engine.ranks.world_size], 60)
    scored = {
        name: logprobs[torch.from_numpy(row.sample_index == index)]
        for row, logprobs in zip(rows, engine.logprobs(rows), strict=True)
        for index, name in enumerate(row.sample_ids)
    }
    if engine.ranks.first:
        torch.save(scored, path)


def check_reference(engine: TrainingEngine, path: Path) -> None:
    """The reference is the model as it was loaded, or what a file has, without a second copy."""
    rows = pack(make_groups(seed=9)[engine.ranks.rank :: engine.ranks.world_size], 60)
    engine.hold_reference(None)
    base, now = engine.reference_logprobs(rows), engine.logprobs(rows)
    assert not any(torch.equal(one, other) for one, other in zip(base, now, strict=True))
    write_reference(engine, path)
    engine.barrier()
    engine.hold_reference(path)
    held = engine.reference_logprobs(rows)
    assert all(torch.equal(one, other) for one, other in zip(held, now, strict=True))
    engine.hold_reference(None)
    again = engine.reference_logprobs(rows)
    assert all(torch.equal(one, other) for one, other in zip(again, base, strict=True))
    assert engine._reference is None


def main(model: Path, out: Path) -> None:
    ranks = join_ranks(1)
    found: dict[str, list[float]] = {}

    def made(stage: int, adapted: bool) -> TrainingEngine:  # noqa: FBT001 - one of VARIANTS
        adapters = Adapters(LORA) if adapted else None
        model_settings = ModelSettings(logits_chunk=7, recompute=adapted)
        return TrainingEngine(model, model_settings, settings(stage), adapters=adapters)

    def step(engine: TrainingEngine, number: int) -> None:
        # Three groups over two ranks: one rank has fewer rows than the other.
        share = make_groups(seed=number)[ranks.rank :: ranks.world_size]
        update = engine.update(pack(share, 60), rl, learning_rate=RATES[number])
        found[f"{name}-step{number}"] = [update.loss, update.gradient_norm, update.policy_tokens]

    for name, (stage, adapted) in VARIANTS.items():
        engine = made(stage, adapted)
        checkpoints = Checkpoints(out / name / "checkpoints", keep=1)
        for number in (0, 1):
            step(engine, number)
        if adapted:
            check_reference(engine, out / f"{name}-reference.safetensors")
        checkpoints.save(engine, Progress(stage="rl", step=2, policy_version=3))
        state = torch.get_rng_state()
        step(engine, 2)
        write_weights(engine, out / f"{name}.safetensors")
        engine.close()
        torch.rand(3)
        engine = made(stage, adapted)
        place = checkpoints.read(world_size=ranks.world_size)
        checkpoints.restore(engine)
        assert place == Progress(stage="rl", step=2, policy_version=3)
        assert torch.equal(torch.get_rng_state(), state)
        export_model(engine, model, out / name / "at-checkpoint")
        keep_logprobs(engine, out / name / "logprobs.pt")
        step(engine, 2)
        write_weights(engine, out / f"{name}-resumed.safetensors")
        engine.close()
    if ranks.world_size == 1:
        agreement = {
            f"{precision} {'lora' if adapted else 'whole'}": measure(
                out / f"agreement-{precision}-{adapted}", precision=precision, adapted=adapted
            )
            for precision, adapted in AGREEMENT
        }
        (out / "agreement.json").write_bytes(orjson.dumps(agreement))
    if ranks.first:
        (out / "updates.json").write_bytes(orjson.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
