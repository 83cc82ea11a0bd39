from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file
from starlette.responses import JSONResponse

from services.rollout.policy.generation import Generation, PolicyFault
from services.rollout.policy.remote import PublishedWeights, RemotePolicyEngine, ServerConfig
from synthagent.errors import (
    Corrupt,
    InvalidInput,
    LimitExceeded,
    ModelUnavailable,
    NotFound,
    PreconditionFailed,
)
from synthagent.model_server.folder import lay_out
from tests.services.rollout.policy.conftest import tiny_model
from tests.services.rollout.policy.vllm_server import (
    INITIAL_LOGPROB,
    RELOADED_LOGPROB,
    VllmStandIn,
    listening,
    turn,
    until,
)

PROMPT = [1, 2, 3]
Connect = Callable[..., Awaitable[RemotePolicyEngine]]


@pytest.fixture
async def server(tiny_folder: Path, tmp_path: Path) -> AsyncIterator[VllmStandIn]:
    stand_in = VllmStandIn(lay_out(tiny_folder, cache=tmp_path))
    async with listening(stand_in):
        yield stand_in


@pytest.fixture
async def connect(server: VllmStandIn, tiny_folder: Path, tmp_path: Path) -> AsyncIterator[Connect]:
    """Makes engines on that server; `published` are the weights that the database would name."""
    engines: list[RemotePolicyEngine] = []

    async def make(
        published: list[PublishedWeights] | None = None, **changes: object
    ) -> RemotePolicyEngine:
        config = ServerConfig(
            server.base_url,
            "policy",
            tiny_folder,
            max_sequences=3,
            max_sequence_tokens=300,
            turn_seconds=5.0,
            patience_seconds=3.0,
            cache=tmp_path,
        )
        named = published if published is not None else []

        async def latest() -> PublishedWeights | None:
            return named[-1] if named else None

        engine = RemotePolicyEngine(replace(config, **changes), latest)  # type: ignore[arg-type]  # a test's own
        await engine.start()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        await engine.stop()


@pytest.fixture
def weights(tmp_path: Path) -> Callable[[int], PublishedWeights]:
    """Publishes a version: a file of other weights for the tiny model."""

    def write(version: int) -> PublishedWeights:
        path = tmp_path / f"policy-v{version}.safetensors"
        state = tiny_model(version).state_dict()
        save_file({k: v.clone() for k, v in state.items() if k != "lm_head.weight"}, path)
        return PublishedWeights(version, path)

    return write


async def say(
    engine: RemotePolicyEngine, key: str, append: tuple[int, ...] = (), most: int = 9
) -> Generation:
    return await engine.generate(key, append, temperature=0.7, top_p=0.9, max_tokens=most)


async def test_tokens_go_out_and_come_in_as_they_are(server: VllmStandIn, connect: Connect) -> None:
    engine = await connect()
    await engine.open_sequence("e", PROMPT, noise_seed=-7)
    first = await say(engine, "e")
    second = await say(engine, "e", (9, 8))
    assert len(first.token_ids) == len(first.logprobs) == 9
    assert (first.policy_version, first.finish_reason) == (0, "length")
    assert set(first.logprobs) == {INITIAL_LOGPROB}
    asked = server.turns[1]
    assert asked["token_ids"] == [*PROMPT, *first.token_ids, 9, 8]
    sampling = asked["sampling_params"]
    assert (sampling["temperature"], sampling["top_p"], sampling["top_k"]) == (0.7, 0.9, 0)
    assert sampling["stop"] == ["</tool_call>", "</answer>"]
    assert set(sampling["stop_token_ids"]) == engine.chat.stop_token_ids
    assert second.token_ids != first.token_ids

    # The same tokens at the same place have the same noise, whatever was opened how.
    await engine.open_sequence("again", PROMPT, noise_seed=-7)
    resumed = await say(engine, "again", (*first.token_ids, 9, 8))
    assert resumed == second
    await engine.open_sequence("other", PROMPT, noise_seed=8)
    assert (await say(engine, "other")).token_ids != first.token_ids


async def test_turns_end_where_the_local_engine_ends_them(
    server: VllmStandIn, connect: Connect
) -> None:
    engine = await connect()
    call = engine.chat.tokenizer.encode("a</tool_call>b", add_special_tokens=False).ids
    end = engine.chat.end_of_turn_id
    await engine.open_sequence("s", PROMPT, noise_seed=0)
    for script, kept, reason in (
        (call, call[:-1], "stop"),
        ([5, end, 6], [5, end], "stop"),
        ([5, 6], [5, 6], "length"),
    ):
        server.script = lambda _, ids=script: ids  # type: ignore[misc]  # one argument is given
        said = await say(engine, "s")
        assert (said.token_ids, said.finish_reason) == (kept, reason)
        assert len(said.logprobs) == len(kept)


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


async def test_a_server_that_stays_away_is_unavailable_and_leaves_no_trace(
    server: VllmStandIn, connect: Connect
) -> None:
    engine = await connect(patience_seconds=0.5)
    await engine.open_sequence("u", PROMPT, noise_seed=0)
    failed = JSONResponse({"error": {"message": "engine dead"}}, 500)
    server.faults = [failed] * 20
    with pytest.raises(ModelUnavailable, match="500: engine dead"):
        await say(engine, "u", (7,))
    server.faults = []
    await say(engine, "u", (8,))
    assert server.turns[-1]["token_ids"] == [*PROMPT, 8]


async def test_a_server_that_hangs_is_given_up(server: VllmStandIn, connect: Connect) -> None:
    engine = await connect(turn_seconds=0.2, patience_seconds=0.1)
    await engine.open_sequence("h", PROMPT, noise_seed=0)
    server.faults = ["hang"] * 5
    with pytest.raises(ModelUnavailable, match="no answer"):
        await say(engine, "h")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"choices": []}, "makes no sense: choices"),
        ({"choices": [turn([])]}, "no token"),
        ({"choices": [turn([1], logprobs={"content": []})]}, "not those of its tokens"),
        ({"choices": [turn([1], logprob=-9999.0)]}, "not finite"),
        ({"choices": [turn([1], weight_versions=[])]}, "weight_versions"),
        ({"choices": [turn([70000])]}, "token id 70000"),
    ],
)
async def test_an_answer_that_is_no_turn_is_a_fault(
    server: VllmStandIn, connect: Connect, answer: dict[str, object], sentence: str
) -> None:
    engine = await connect()
    await engine.open_sequence("m", PROMPT, noise_seed=0)
    server.faults = [JSONResponse(answer)]
    with pytest.raises((PolicyFault, InvalidInput), match=sentence):
        await say(engine, "m")
    server.faults = [JSONResponse({"error": {"message": "too long"}}, 400)]
    with pytest.raises(PolicyFault, match=r"refuses .* too long"):
        await say(engine, "m")
    assert await say(engine, "m")


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


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"max_model_len": 64}, "takes 64 tokens"),
        ({"logprobs_mode": "processed_logprobs"}, "--logprobs-mode raw_logprobs"),
        ({"absent": {"/server_info"}}, r"does not give /server_info \(404"),
        ({"root": Path("/nowhere")}, "tied to the embedding"),
    ],
)
async def test_a_server_that_cannot_act_says_why(
    server: VllmStandIn, connect: Connect, change: dict[str, object], sentence: str
) -> None:
    for name, value in change.items():
        setattr(server, name, value)
    with pytest.raises(PreconditionFailed, match=sentence):
        await connect()


async def test_wrong_addresses_and_names_are_told(server: VllmStandIn, connect: Connect) -> None:
    with pytest.raises(PreconditionFailed, match="serves policy, not 'parrot'"):
        await connect(served_model="parrot")
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        await connect(base_url="http://127.0.0.1:9/v1")
    server.absent = {"/inference/v1/generate"}
    engine = await connect()
    await engine.open_sequence("n", PROMPT, noise_seed=0)
    with pytest.raises(PreconditionFailed, match="make model-server"):
        await say(engine, "n")


async def test_bad_requests_and_full_sequences(server: VllmStandIn, connect: Connect) -> None:
    engine = await connect()
    with pytest.raises(InvalidInput, match="at least one token"):
        await engine.open_sequence("b", [], noise_seed=0)
    with pytest.raises(InvalidInput, match="token id 259"):
        await engine.open_sequence("b", [259], noise_seed=0)
    with pytest.raises(LimitExceeded, match="no room"):
        await engine.open_sequence("b", [1] * 300, noise_seed=0)
    await engine.open_sequence("b", [1] * 295, noise_seed=0)
    with pytest.raises(InvalidInput, match="open already"):
        await engine.open_sequence("b", [1], noise_seed=0)
    with pytest.raises(InvalidInput, match="not open"):
        await say(engine, "x")
    with pytest.raises(InvalidInput, match="sampling needs"):
        await engine.generate("b", (), temperature=1.0, top_p=0.0, max_tokens=1)
    assert len((await say(engine, "b")).token_ids) == 5  # what was left
    with pytest.raises(LimitExceeded, match="is full"):
        await say(engine, "b")


async def test_closing_cancelling_and_stopping_end_a_turn(
    server: VllmStandIn, connect: Connect
) -> None:
    engine = await connect(turn_seconds=60.0)
    server.turn_seconds = 60.0

    async def running(key: str) -> asyncio.Task[Generation]:
        await engine.open_sequence(key, PROMPT, noise_seed=0)
        task = asyncio.create_task(say(engine, key, (5,)))
        aim = len(server.turns) + 1
        await until(lambda: len(server.turns) == aim)
        return task

    closed = await running("closed")
    with pytest.raises(PreconditionFailed, match="middle of a turn"):
        await say(engine, "closed")
    await engine.close_sequence("closed")
    await engine.close_sequence("closed")
    with pytest.raises(PolicyFault, match="closed during its turn"):
        await closed
    cancelled = await running("cancelled")
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    server.turn_seconds = 0.0
    await say(engine, "cancelled", (6,))
    assert server.turns[-1]["token_ids"] == [*PROMPT, 6]
    server.turn_seconds = 60.0
    stopped = await running("stopped")
    await engine.stop()
    with pytest.raises(PolicyFault, match="stopped"):
        await stopped


async def test_sequences_wait_for_a_place(server: VllmStandIn, connect: Connect) -> None:
    engine = await connect()
    for number in range(3):
        await engine.open_sequence(f"p{number}", PROMPT, noise_seed=number)
    late = asyncio.create_task(engine.open_sequence("late", PROMPT, noise_seed=9))
    await asyncio.sleep(0.01)
    assert not late.done()
    await engine.close_sequence("p1")
    await asyncio.wait_for(late, 5)
    assert await say(engine, "late")
