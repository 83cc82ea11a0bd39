"""Weights from a real trainer to a real vLLM server: each way in time and in agreement.

Tolerances, in nats a token. Both sides in float32: 1e-3 at most (measured: see
docs/decisions/0012-ways-of-weights.md). A server in bfloat16 is 0.03 off on average and 0.26 at
most before anything is learned (0009), so it is not tested here for more than that.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from services.rollout.policy.server_weights import PublishedWeights
from services.rollout.policy.vllm import VllmServer
from synthagent.model_server.folder import lay_out
from tests.llm.conftest import Connect, RunningServer, full_model, mismatch, turn

pytestmark = pytest.mark.usefixtures("initial_weights")

TOLERANCE = 1e-3


@pytest.mark.parametrize("publish", ["adapter", "whole"])
async def test_the_server_agrees_with_the_trainer_after_every_update(
    model_server: RunningServer,
    model_folder: Path,
    connect: Connect,
    tmp_path: Path,
    *,
    capsys: pytest.CaptureFixture[str],
    publish: str,
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.llm.agreement_worker", model_server.base_url, model_server.model),
        *(str(model_folder), str(tmp_path), publish),
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()[-4000:]
    found = orjson.loads((tmp_path / "found.json").read_bytes())
    with capsys.disabled():
        sys.stdout.write(
            f"\n{publish}: {min(found['seconds']):.2f} to {max(found['seconds']):.2f} s to take "
            f"over {found['bytes'] / 1e6:.1f} MB; apart at most {max(found['largest']):.6f}, on "
            f"average {max(found['mean']):.7f}; moved by {min(found['moved']):.4f} on average\n"
        )
    assert max(found["largest"]) < TOLERANCE
    assert min(found["moved"]) > 3 * max(found["mean"])  # else it would prove nothing
    if publish == "whole":
        await exports(model_server, model_folder, connect, tmp_path)


async def exports(
    model_server: RunningServer, model_folder: Path, connect: Connect, tmp_path: Path
) -> None:
    """vLLM and transformers load what the trainer wrote at its end, and give the same."""
    engine = await connect()  # brings the server to version 0, and is fooled about what follows
    prompt = engine.chat.prompt_ids("You are helpful.", "Tell me about the moon.")
    await engine.open_sequence("x", prompt, noise_seed=3)
    server = VllmServer(model_server.base_url, model_server.model, turn_seconds=300)
    await server.replace_weights(lay_out(tmp_path / "export", cache=tmp_path), "default")
    said = await turn(engine, "x", [])
    assert mismatch(full_model(tmp_path / "export"), prompt, said) < TOLERANCE
    assert mismatch(full_model(model_folder), prompt, said) > TOLERANCE
    await server.replace_weights(lay_out(model_folder, cache=tmp_path), "default")
    await server.close()


async def test_an_adapter_is_there_again_after_a_restart_and_old_ones_are_gone(
    model_server: RunningServer,
    connect: Connect,
    published: list[PublishedWeights],
    adapters: Callable[[int], PublishedWeights],
) -> None:
    engine = await connect()
    await engine.open_sequence("a", engine.chat.prompt_ids("Be brief.", "Hello."), noise_seed=3)
    for version in (1, 2):
        published.append(adapters(version))
        await engine.load_weights(version, published[-1].path)
    server = VllmServer(model_server.base_url, model_server.model, turn_seconds=300)
    assert [name.rpartition("-")[0] for name in await server.adapters()] == ["adapter-2"]
    model_server.kill()
    await asyncio.to_thread(model_server.start)
    assert await server.adapters() == []
    said = await turn(engine, "a", [])
    assert said.policy_version == 2
    assert [name.rpartition("-")[0] for name in await server.adapters()] == ["adapter-2"]
    await server.close()
