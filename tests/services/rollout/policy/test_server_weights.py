"""By every way to a server: no turn gets out that other weights sampled than its version's."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from starlette.responses import JSONResponse

from services.rollout.policy.remote import RemotePolicyEngine, ServerConfig
from services.rollout.policy.server_weights import PublishedWeights
from synthagent.errors import Corrupt, InvalidInput, ModelUnavailable, NotFound, PreconditionFailed
from synthagent.model_server import adapter
from synthagent.model_server.folder import lay_out
from synthagent.model_server.ways import WAYS, Way, announcement
from tests.services.rollout.policy.conftest import Connect, tiny_model
from tests.services.rollout.policy.vllm_server import (
    ADAPTED_LOGPROB,
    INITIAL_LOGPROB,
    PROMPT,
    RELOADED_LOGPROB,
    VllmStandIn,
    listening,
    say,
    until,
)
from trainer.transfer import announce


async def test_published_weights_sample_and_say_so(
    server: VllmStandIn, connect: Connect, weights: Callable[[int], PublishedWeights]
) -> None:
    engine = await connect()
    server.turn_seconds = 0.1
    await engine.open_sequence("w", PROMPT, noise_seed=0)
    await engine.open_sequence("v", PROMPT, noise_seed=1)
    running = asyncio.create_task(say(engine, "w"))
    await until(lambda: server.running)
    new = weights(4)
    loading = asyncio.create_task(engine.load_weights(4, new.path))
    await until(lambda: server.paused)
    late = asyncio.create_task(say(engine, "v"))
    old = await running
    await loading
    assert (old.policy_version, set(old.logprobs)) == (0, {INITIAL_LOGPROB})
    for said in (await late, await say(engine, "w", (1,))):
        assert (said.policy_version, set(said.logprobs)) == (4, {RELOADED_LOGPROB})
    assert engine.version == 4
    digest = hashlib.sha256(new.path.read_bytes()).hexdigest()
    assert server.label == f"4-{digest[:16]}"
    assert server.weights == new.path
    assert server.turns[-1]["cache_salt"] == server.label  # no keys and values of other weights
    with pytest.raises(InvalidInput, match="not above the current one, 4"):
        await engine.load_weights(4, new.path)
    await engine.load_weights(5, weights(5).path)
    assert len(list(server.root.parent.iterdir())) == 2  # the model's own, and those that sample


async def test_a_restarted_server_gets_the_published_weights_before_a_turn_counts(
    server: VllmStandIn, connect: Connect, weights: Callable[[int], PublishedWeights]
) -> None:
    published = [weights(2)]
    engine = await connect(published)
    assert server.label.startswith("2-")
    await engine.open_sequence("r", PROMPT, noise_seed=0)
    await say(engine, "r")
    server.restart()
    said = await say(engine, "r", (1,))
    assert (said.policy_version, set(said.logprobs)) == (2, {RELOADED_LOGPROB})
    assert server.weights == published[0].path


async def test_a_turn_waits_for_a_server_that_comes_back(
    tiny_folder: Path, tmp_path: Path, weights: Callable[[int], PublishedWeights]
) -> None:
    new = weights(1)

    async def latest() -> PublishedWeights:
        return new

    stand_in = VllmStandIn(lay_out(tiny_folder, cache=tmp_path))
    async with listening(stand_in):
        config = ServerConfig(
            stand_in.base_url, "policy", tiny_folder, patience_seconds=10.0, cache=tmp_path
        )
        engine = RemotePolicyEngine(config, latest)
        await engine.start()
        await engine.open_sequence("k", PROMPT, noise_seed=0)
        stand_in.turn_seconds = 30.0
        cut = asyncio.create_task(say(engine, "k"))
        await until(lambda: stand_in.running)
    stand_in.restart()
    stand_in.turn_seconds, stand_in.running = 0.0, 0
    assert not cut.done()
    async with listening(stand_in):
        said = await cut
        assert (said.policy_version, set(said.logprobs)) == (1, {RELOADED_LOGPROB})
        await engine.stop()


async def test_weights_that_do_not_load_leave_the_old_ones(
    server: VllmStandIn, connect: Connect, weights: Callable[[int], PublishedWeights]
) -> None:
    engine = await connect()
    await engine.open_sequence("b", PROMPT, noise_seed=0)
    for error, path in (
        (NotFound, server.root / "nothing"),
        (Corrupt, server.root / "config.json"),
    ):
        with pytest.raises(error):
            await engine.load_weights(1, path)
    assert server.label == "default"
    server.reload_fault = JSONResponse({"error": {"message": "no memory"}}, 500)
    with pytest.raises(ModelUnavailable, match="no memory"):
        await engine.load_weights(1, weights(1).path)
    assert server.paused
    assert server.label.startswith("loading 1-")
    server.reload_fault = None
    said = await say(engine, "b")
    assert (said.policy_version, engine.version) == (0, 0)
    assert server.weights == (server.root / "model.safetensors").resolve()
    assert not server.paused


async def test_two_services_share_a_server(
    server: VllmStandIn, connect: Connect, weights: Callable[[int], PublishedWeights]
) -> None:
    published: list[PublishedWeights] = []
    one, other = await connect(published), await connect(published)
    await other.open_sequence("o", PROMPT, noise_seed=0)
    await one.load_weights(1, weights(1).path)
    early = asyncio.create_task(say(other, "o"))  # before the database knows of version 1
    await asyncio.sleep(0.3)
    assert not early.done()
    published.append(weights(1))
    assert (await early).policy_version == 1
    assert server.calls.count("/collective_rpc") == 1  # nobody took the weights away again
    await other.load_weights(2, weights(2).path)
    published.append(weights(2))
    await one.load_weights(2, weights(2).path)
    assert server.calls.count("/collective_rpc") == 2


async def test_a_pause_that_nobody_ends_is_ended(server: VllmStandIn, connect: Connect) -> None:
    server.paused = True
    engine = await connect()
    await engine.open_sequence("p", PROMPT, noise_seed=0)
    assert await say(engine, "p")


async def test_a_server_with_weights_of_another_run_is_brought_back(
    server: VllmStandIn, connect: Connect
) -> None:
    server.label, server.weights = "5-0123456789abcdef", server.root
    engine = await connect()
    assert engine.version == 0
    assert server.label.startswith("0-")
    assert server.weights == (server.root / "model.safetensors").resolve()


@pytest.fixture
def adapters(tmp_path: Path, tiny_folder: Path) -> Callable[..., PublishedWeights]:
    """Publishes a version as an adapter, in peft's layout."""

    def write(version: int, rank: int = 4) -> PublishedWeights:
        config = LoraConfig(r=rank, target_modules=["q_proj", "down_proj"])
        torch.manual_seed(version)
        adapted = get_peft_model(tiny_model(), config)
        state = {k: v.contiguous() for k, v in get_peft_model_state_dict(adapted).items()}
        path = tmp_path / f"adapter-v{version}" / adapter.WEIGHTS
        path.parent.mkdir()
        written = json.dumps({"r": rank}).encode()
        path.with_name(adapter.CONFIG).write_bytes(written)
        vouched = {adapter.CONFIG_DIGEST: hashlib.sha256(written).hexdigest()}
        save_file(state, path, metadata=vouched)
        return PublishedWeights(version, path)

    return write


async def test_an_adapter_samples_by_its_name_and_old_ones_are_unloaded(
    server: VllmStandIn, connect: Connect, adapters: Callable[..., PublishedWeights]
) -> None:
    engine = await connect()
    server.hold = True
    for key in ("a", "b"):
        await engine.open_sequence(key, PROMPT, noise_seed=0)
    before = asyncio.create_task(say(engine, "a"))
    await until(lambda: server.running)
    assert await engine.load_weights(1, adapters(1).path) is Way.ADAPTER
    assert not before.done()  # nobody waited for it
    first = asyncio.create_task(say(engine, "b"))
    await until(lambda: server.running == 2)
    await engine.load_weights(2, adapters(2).path)
    server.hold = False
    old, one, two = await before, await first, await say(engine, "a")
    assert [(said.policy_version, set(said.logprobs)) for said in (old, one, two)] == [
        (0, {INITIAL_LOGPROB}),
        (1, {ADAPTED_LOGPROB}),
        (2, {ADAPTED_LOGPROB}),
    ]
    digest = hashlib.sha256(adapters_file(server).read_bytes()).hexdigest()
    assert list(server.adapters) == [f"adapter-2-{digest[:16]}"]
    assert [asked["model"].split("-")[:2] for asked in server.turns] == [
        ["policy"],
        ["adapter", "1"],
        ["adapter", "2"],
    ]
    assert not {"/pause", "/collective_rpc"} & set(server.calls)
    assert adapters_file(server).exists()  # the trainer's; not ours to forget


def adapters_file(server: VllmStandIn) -> Path:
    (folder,) = server.adapters.values()
    return folder / adapter.WEIGHTS


async def test_a_restarted_server_gets_the_adapter_before_a_token_is_sampled(
    server: VllmStandIn, connect: Connect, adapters: Callable[..., PublishedWeights]
) -> None:
    published = [adapters(3)]
    engine = await connect(published)
    await engine.open_sequence("r", PROMPT, noise_seed=0)
    await say(engine, "r")
    server.restart()
    said = await say(engine, "r", (1,))
    assert (said.policy_version, set(said.logprobs)) == (3, {ADAPTED_LOGPROB})
    # Also one that came back with whole weights of another version.
    server.restart()
    server.label, server.weights = "2-0123456789abcdef", server.root
    said = await say(engine, "r", (1,))
    assert (said.policy_version, set(said.logprobs)) == (3, {ADAPTED_LOGPROB})
    assert server.label.startswith("0-")


async def test_whole_weights_after_an_adapter_and_back(
    server: VllmStandIn,
    connect: Connect,
    adapters: Callable[..., PublishedWeights],
    weights: Callable[[int], PublishedWeights],
) -> None:
    engine = await connect()
    await engine.open_sequence("m", PROMPT, noise_seed=0)
    await engine.load_weights(1, adapters(1).path)
    assert await engine.load_weights(2, weights(2).path) is Way.RELOAD
    assert set((await say(engine, "m")).logprobs) == {RELOADED_LOGPROB}
    await engine.load_weights(3, adapters(3).path)
    assert set((await say(engine, "m")).logprobs) == {ADAPTED_LOGPROB}
    assert server.label.startswith("0-")  # an adapter belongs to the model that it was trained on


async def test_an_adapter_that_cannot_be_had_leaves_the_old_weights(
    server: VllmStandIn, connect: Connect, adapters: Callable[..., PublishedWeights]
) -> None:
    engine = await connect()
    await engine.open_sequence("x", PROMPT, noise_seed=0)
    with pytest.raises(ModelUnavailable, match="LoRA rank 32 is greater"):
        await engine.load_weights(1, adapters(1, rank=32).path)
    changed = adapters(2)
    changed.path.with_name(adapter.CONFIG).write_text('{"r": 4, "lora_alpha": 64}')
    with pytest.raises(Corrupt, match="not the configuration that the adapter was written with"):
        await engine.load_weights(2, changed.path)
    server.rank = 0
    with pytest.raises(PreconditionFailed, match="does not give /v1/load_lora_adapter"):
        await engine.load_weights(3, adapters(3).path)
    said = await say(engine, "x")
    assert (said.policy_version, set(said.logprobs)) == (0, {INITIAL_LOGPROB})


def announced(
    server: VllmStandIn, published: PublishedWeights, receivers: int = 1
) -> dict[str, Any]:
    """What the trainer leaves beside the file, by the trainer's own code."""
    digest = hashlib.sha256(published.path.read_bytes()).hexdigest()
    announce(published.path, digest, bytes(range(128)), receivers)
    written: dict[str, Any] = json.loads(announcement(published.path).read_text())
    return written


async def test_weights_that_the_trainer_sends_take_vllms_steps(
    server: VllmStandIn, connect: Connect, weights: Callable[[int], PublishedWeights]
) -> None:
    engine = await connect()
    await engine.open_sequence("t", PROMPT, noise_seed=0)
    new = weights(1)
    told = announced(server, new)
    before = len(server.calls)
    assert await engine.load_weights(1, new.path) is Way.TRANSFER
    asked = [
        path for path in server.calls[before:] if path not in {"/get_world_size", "/weight_info"}
    ]
    assert asked == [step.partition("?")[0].partition(":")[0] for step in WAYS[Way.TRANSFER].steps]
    digest = hashlib.sha256(new.path.read_bytes()).hexdigest()
    info = {"names": told["names"], "dtype_names": told["dtype_names"], "shapes": told["shapes"]}
    unique_id = base64.b64encode(bytes(range(128))).decode()
    assert server.transfer == [
        (
            "init_weight_transfer_engine",
            {
                "init_info": {
                    "nccl_unique_id_b64": unique_id,
                    "rank_offset": 1,
                    "world_size": 2,
                    "packed": False,
                }
            },
        ),
        ("start_weight_update", {}),
        ("update_weights", {"update_info": info}),
        ("finish_weight_update", {"weight_version": f"1-{digest[:16]}"}),
        ("shutdown_weight_transfer_engine", {}),
    ]
    held = load_file(new.path)
    assert info["names"] == [*held, "lm_head.weight"]  # a served folder holds the head apart
    assert info["shapes"][:-1] == [list(value.shape) for value in held.values()]
    assert set(info["dtype_names"]) == {"float32"}
    said = await say(engine, "t")
    assert (said.policy_version, set(said.logprobs)) == (1, {RELOADED_LOGPROB})

    # A server that was restarted since gets them from the file: the trainer sends once.
    announcement(new.path).unlink()
    server.restart()
    assert (await say(engine, "t", (1,))).policy_version == 1
    assert server.calls.count("/collective_rpc") == 1


async def test_a_transfer_that_fails_gives_no_turn_of_half_the_weights(
    server: VllmStandIn, connect: Connect, weights: Callable[[int], PublishedWeights]
) -> None:
    engine = await connect()
    await engine.open_sequence("f", PROMPT, noise_seed=0)
    new = weights(1)
    announced(server, new, receivers=2)
    with pytest.raises(PreconditionFailed, match=r"2 GPUs and the model server has 1; set rollout"):
        await engine.load_weights(1, new.path)
    assert not server.transfer
    announced(server, new)
    server.transfer = [("init_weight_transfer_engine", {})]  # as after a trainer that died
    with pytest.raises(ModelUnavailable, match="init_weight_transfer_engine after"):
        await engine.load_weights(1, new.path)
    assert not server.paused
    server.transfer, server.absent = [], {"/update_weights"}
    with pytest.raises(PreconditionFailed):
        await engine.load_weights(1, new.path)
    assert server.label.startswith("loading 1-")
    said = await say(engine, "f")
    assert (said.policy_version, engine.version) == (0, 0)
    assert server.weights == (server.root / "model.safetensors").resolve()
    new.path.write_bytes(weights(9).path.read_bytes())
    with pytest.raises(Corrupt, match="of other weights"):
        await engine.load_weights(1, new.path)
    announcement(new.path).write_text("{}")
    with pytest.raises(Corrupt, match="makes no sense"):
        await engine.load_weights(1, new.path)
