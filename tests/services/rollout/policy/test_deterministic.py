"""The deterministic mode: the same to the last bit, whatever the company and the restarts."""

from __future__ import annotations

import asyncio
from dataclasses import astuple
from pathlib import Path

from services.rollout.policy.engine import EngineConfig, PolicyEngine

TURNS = 3
SEEDS = range(4)


def _observation(turn: int) -> list[int]:
    return [(turn * 31 + n * 7) % 256 for n in range(5 + turn)] if turn else []


async def _play(engine: PolicyEngine, seed: int, *, reopen: bool) -> list[tuple[object, ...]]:
    """An episode's turns; with `reopen`, as after a crash before each of them."""
    prompt = [(n * 13 + seed // 2) % 256 for n in range(40)]
    key, since, said = f"e{seed}", list[int](), []
    await engine.open_sequence(key, prompt, noise_seed=seed)
    for turn in range(TURNS):
        read = _observation(turn)
        append = read
        if reopen:
            await engine.close_sequence(key)
            await engine.open_sequence(key, prompt, noise_seed=seed)
            append = since + read
        made = await engine.generate(key, append, temperature=1.0, top_p=1.0, max_tokens=7)
        since += read + made.token_ids
        said.append(astuple(made))
    await engine.close_sequence(key)
    return said


async def _episodes(folder: Path, *, together: bool) -> list[list[tuple[object, ...]]]:
    engine = PolicyEngine(
        EngineConfig(folder, threads=1, max_sequence_tokens=200, deterministic=True)
    )
    await engine.start()
    try:
        if together:
            return await asyncio.gather(*(_play(engine, seed, reopen=False) for seed in SEEDS))
        return [await _play(engine, seed, reopen=True) for seed in reversed(SEEDS)][::-1]
    finally:
        await engine.stop()


async def test_neither_company_nor_restarts_change_a_bit(tiny_folder: Path) -> None:
    together = await _episodes(tiny_folder, together=True)
    assert await _episodes(tiny_folder, together=False) == together
    assert len({tuple(map(repr, said)) for said in together}) == len(SEEDS)
