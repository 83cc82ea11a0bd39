from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starlette.responses import JSONResponse

from services.rollout.policy.generation import Generation, PolicyFault
from synthagent.errors import (
    InvalidInput,
    LimitExceeded,
    ModelUnavailable,
    PreconditionFailed,
)
from tests.services.rollout.policy.conftest import Connect
from tests.services.rollout.policy.vllm_server import (
    INITIAL_LOGPROB,
    PROMPT,
    VllmStandIn,
    say,
    turn,
    until,
)


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
