"""The engine that samples and the trainer that learns, over real updates: how far apart they are.

One process plays both: the policy engine samples turns of episodes, the trainer scores the same
tokens and learns from them, and the next version goes to the engine through the file, as ever.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from services.rollout.policy.engine import EngineConfig, PolicyEngine
from services.rollout.policy.generation import Engine
from tests.services.rollout.policy.conftest import tiny_model, write_tokenizer
from trainer.config import DeepSpeedSettings, LoraSettings, ModelSettings
from trainer.engine import Scores, TrainingEngine
from trainer.lora import Adapters
from trainer.packing import Sample, pack
from trainer.weights import write_version

UPDATES = 3
EPISODES = 4
TURNS = 2


def measure(folder: Path, *, precision: str, adapted: bool) -> dict[str, list[float]]:
    """A tiny model on the local engine; what `learn` found."""
    folder.mkdir()
    model = folder / "model"
    tiny_model().save_pretrained(model)
    write_tokenizer(model)
    settings = DeepSpeedSettings.model_validate({"precision": precision})
    adapters = Adapters(LoraSettings(enabled=True, rank=4)) if adapted else None
    trainer = TrainingEngine(model, ModelSettings(), settings, adapters=adapters)
    engine = PolicyEngine(EngineConfig(model, dtype=precision, threads=1))
    rate = 0.05 if adapted else 2e-3
    found = asyncio.run(learn(trainer, engine, folder / "weights", rate))
    trainer.close()
    return found


async def learn(
    trainer: TrainingEngine, engine: Engine, weights: Path, rate: float
) -> dict[str, list[float]]:
    """By version: how far apart the two are, largest and mean over tokens, in nats.

    And by update: how far it moved the log-probabilities on average, which the engine must follow,
    and the seconds of taking the weights over.
    """
    await engine.start()
    found: dict[str, list[float]] = {"largest": [], "mean": [], "moved": [], "seconds": []}
    for version in range(UPDATES + 1):
        samples = [await _episode(engine, f"{version}-{n}", version) for n in range(EPISODES)]
        rows = pack([[sample] for sample in samples], 400)
        before = torch.cat(trainer.logprobs(rows))
        recorded = torch.cat([torch.from_numpy(row.sampled_logprobs) for row in rows])
        apart = (before - recorded).abs()
        found["largest"].append(float(apart.max()))
        found["mean"].append(float(apart.mean()))
        if version < UPDATES:
            trainer.update(rows, _learn_all, learning_rate=rate)
            found["moved"].append(float((torch.cat(trainer.logprobs(rows)) - before).abs().mean()))
            path, _ = write_version(trainer, weights, version + 1)
            begun = time.perf_counter()
            await engine.load_weights(version + 1, path)
            found["seconds"].append(time.perf_counter() - begun)
    await engine.stop()
    return found


def _learn_all(scores: Scores) -> tuple[Tensor, dict[str, Tensor]]:
    return -(scores.logprobs * scores.advantages).sum(), {}


async def _episode(engine: Engine, key: str, version: int) -> Sample:
    """Two turns around an observation; every turn must be of `version`."""
    prompt = engine.chat.prompt_ids("You are a guide.", f"Town {key}?")
    await engine.open_sequence(key, prompt, noise_seed=version)
    ids, mask, logprobs = list(prompt), [False] * len(prompt), [0.0] * len(prompt)
    append: list[int] = []
    for _ in range(TURNS):
        said = await engine.generate(key, append, temperature=1.0, top_p=1.0, max_tokens=16)
        assert said.policy_version == version
        ids += [*append, *said.token_ids]
        mask += [False] * len(append) + [True] * len(said.token_ids)
        logprobs += [0.0] * len(append) + said.logprobs
        append = engine.chat.observation_ids("tool", "{}", turn_ended=True)
    await engine.close_sequence(key)
    return Sample(
        key,
        np.array(ids, dtype=np.int64),
        np.array(mask),
        np.array(logprobs, dtype=np.float32),
        len(prompt),
        1.0 if int(key[-1]) % 2 else -1.0,
    )
