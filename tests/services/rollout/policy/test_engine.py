from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from services.rollout.policy.engine import EngineConfig, Generation, PolicyEngine, PolicyFault
from synthagent.errors import Corrupt, InvalidInput, LimitExceeded, NotFound, PreconditionFailed
from tests.services.rollout.policy.conftest import tiny_model, write_tokenizer

Episode = tuple[list[int], list[tuple[int, Generation]]]


def prompt(seed: int, length: int = 40) -> list[int]:
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


async def play(
    engine: PolicyEngine,
    key: str,
    start: list[int],
    seed: int,
    *,
    temperature: float = 1.0,
    turns: int = 3,
    observation: int = 7,
) -> Episode:
    """Plays an episode; returns all its tokens and where each turn begins."""
    await engine.open_sequence(key, start, noise_seed=seed)
    ids, generated = list(start), []
    append: list[int] = []
    for turn in range(turns):
        ids += append
        result = await engine.generate(
            key, append, temperature=temperature, top_p=1.0, max_tokens=9
        )
        generated.append((len(ids), result))
        ids += result.token_ids
        append = prompt(1000 + turn, observation)
    await engine.close_sequence(key)
    return ids, generated


@torch.inference_mode()
def mismatch(model: torch.nn.Module, episode: Episode) -> float:
    """Largest difference of the engine's log-probabilities from the model's full forward pass."""
    ids, generated = episode
    expected = model(torch.tensor([ids])).logits.float().log_softmax(-1)[0]
    worst = 0.0
    for start, turn in generated:
        for offset, (token, logprob) in enumerate(zip(turn.token_ids, turn.logprobs, strict=True)):
            worst = max(worst, abs(float(expected[start + offset - 1, token]) - logprob))
    return worst


async def test_equals_the_full_forward_pass_whatever_the_company(engine: PolicyEngine) -> None:
    model = tiny_model()
    starts = [prompt(1), prompt(1), prompt(2, 33), prompt(1), prompt(3, 5), prompt(2, 33)]
    together = await asyncio.gather(
        *(play(engine, f"e{i}", start, i) for i, start in enumerate(starts))
    )
    assert max(mismatch(model, episode) for episode in together) < 1e-4
    alone = [await play(engine, f"a{i}", start, i) for i, start in enumerate(starts)]
    assert [ids for ids, _ in alone] == [ids for ids, _ in together]
    assert together[0][0] != together[1][0]  # same prompt, other noise


async def test_greedy_takes_the_most_probable_token(engine: PolicyEngine) -> None:
    ids, generated = await play(engine, "g", prompt(4), 0, temperature=0.0)
    with torch.inference_mode():
        best = tiny_model()(torch.tensor([ids])).logits[0].argmax(-1)
    for start, turn in generated:
        assert turn.token_ids == best[start - 1 : start - 1 + len(turn.token_ids)].tolist()


async def test_a_resumed_episode_goes_on_as_it_would_have(engine: PolicyEngine) -> None:
    start = prompt(5)
    ids, generated = await play(engine, "whole", start, 99)
    last, turn = generated[-1]
    await engine.open_sequence("resumed", start, noise_seed=99)
    resumed = await engine.generate(
        "resumed", ids[len(start) : last], temperature=1.0, top_p=1.0, max_tokens=9
    )
    assert resumed.token_ids == turn.token_ids
    assert resumed.logprobs == pytest.approx(turn.logprobs, abs=1e-4)


async def test_long_episodes_outgrow_the_first_cache(engine: PolicyEngine) -> None:
    episode = await play(engine, "long", prompt(6), 1, turns=4, observation=50)
    assert len(episode[0]) > 40 + 128
    assert mismatch(tiny_model(), episode) < 1e-4


async def test_untied_head(tmp_path: Path) -> None:
    model = tiny_model(3, tied=False)
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    engine = PolicyEngine(EngineConfig(tmp_path, threads=1, max_sequence_tokens=200))
    await engine.start()
    assert mismatch(model, await play(engine, "u", prompt(7), 3)) < 1e-4
    await engine.stop()


async def test_turns_end_at_the_end_of_turn_and_at_their_limit(engine: PolicyEngine) -> None:
    for seed in range(200):
        await engine.open_sequence("t", prompt(8), noise_seed=seed)
        turn = await engine.generate("t", (), temperature=2.0, top_p=1.0, max_tokens=40)
        await engine.close_sequence("t")
        ended = turn.token_ids[-1] in engine.chat.stop_token_ids
        assert turn.finish_reason == ("stop" if ended else "length")
        assert ended or len(turn.token_ids) == 40
        assert not engine.chat.stop_token_ids & set(turn.token_ids[:-1])
        if ended:
            return
    pytest.fail("no turn ended by itself")


async def test_full_sequences_end_with_length_and_then_refuse(engine: PolicyEngine) -> None:
    await engine.open_sequence("f", prompt(9, 290), noise_seed=1)
    turn = await engine.generate("f", (), temperature=0.0, top_p=1.0, max_tokens=100)
    if turn.finish_reason == "length":
        assert len(turn.token_ids) == 10
    with pytest.raises(LimitExceeded, match="no room"):
        await engine.generate("f", [1] * 10, temperature=0.0, top_p=1.0, max_tokens=1)
    with pytest.raises(LimitExceeded, match="no room"):
        await engine.open_sequence("g", [1] * 300, noise_seed=1)


async def test_new_weights_take_over_between_turns(engine: PolicyEngine, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    other = tiny_model(1)
    save_file({k: v.clone() for k, v in other.state_dict().items()}, path)
    await engine.open_sequence("w", prompt(10), noise_seed=4)
    before = await engine.generate("w", (), temperature=1.0, top_p=1.0, max_tokens=5)
    assert before.policy_version == 0
    running = asyncio.create_task(
        engine.generate("w", [1, 2], temperature=1.0, top_p=1.0, max_tokens=30)
    )
    await asyncio.sleep(0)
    await engine.load_weights(3, path)
    middle = await running
    after = await engine.generate("w", [3], temperature=1.0, top_p=1.0, max_tokens=5)
    assert (middle.policy_version, after.policy_version, engine.version) == (0, 3, 3)
    ids = [*prompt(10), *before.token_ids, 1, 2, *middle.token_ids, 3]
    assert mismatch(other, (ids + after.token_ids, [(len(ids), after)])) < 1e-4


async def test_bad_weights_leave_the_old_ones(
    engine: PolicyEngine, tiny_folder: Path, tmp_path: Path
) -> None:
    state = load_file(tiny_folder / "model.safetensors")
    norm = "model.norm.weight"
    path = tmp_path / "bad.safetensors"

    async def refused(error: type[Exception], sentence: str) -> None:
        with pytest.raises(error, match=sentence):
            await engine.load_weights(1, path)

    await refused(NotFound, "no weights file")
    path.write_bytes(b"not a tensor in sight")
    await refused(Corrupt, "is damaged")
    save_file({k: v for k, v in state.items() if k != norm}, path)
    await refused(Corrupt, f"lacks 1 tensors: {norm}")
    save_file(state | {"extra": torch.zeros(1)}, path)
    await refused(Corrupt, "unknown tensors: extra")
    save_file(state | {norm: torch.zeros(3)}, path)
    await refused(Corrupt, r"is \[3\], not \[48\]")
    save_file(state | {norm: torch.full((48,), float("nan"))}, path)
    await refused(Corrupt, "not finite")
    save_file(state | {norm: torch.zeros(48, dtype=torch.int32)}, path)
    await refused(Corrupt, "of type I32")
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:-100])
    await refused(Corrupt, "is damaged")
    assert engine.version == 0
    assert mismatch(tiny_model(), await play(engine, "still", prompt(11), 5)) < 1e-4
    save_file(state, path)
    await engine.load_weights(1, path)
    with pytest.raises(InvalidInput, match="not above"):
        await engine.load_weights(1, path)


async def test_weights_that_overflow_are_a_fault_and_pass(
    engine: PolicyEngine, tiny_folder: Path, tmp_path: Path
) -> None:
    state = load_file(tiny_folder / "model.safetensors")
    path = tmp_path / "w.safetensors"
    save_file(state | {"model.norm.weight": torch.full((48,), 3e38)}, path)
    await engine.load_weights(1, path)
    await engine.open_sequence("o", prompt(12), noise_seed=1)
    with pytest.raises(PolicyFault, match="not finite"):
        await engine.generate("o", (), temperature=1.0, top_p=1.0, max_tokens=3)
    save_file(state, path)
    await engine.load_weights(2, path)
    turn = await engine.generate("o", (), temperature=1.0, top_p=1.0, max_tokens=3)
    start = len(prompt(12))
    assert mismatch(tiny_model(), (prompt(12) + turn.token_ids, [(start, turn)])) < 1e-4


async def test_a_cancelled_turn_leaves_no_trace(engine: PolicyEngine) -> None:
    ids, generated = await play(engine, "plain", prompt(13), 8, turns=2)
    await engine.open_sequence("c", prompt(13), noise_seed=8)
    first = await engine.generate("c", (), temperature=1.0, top_p=1.0, max_tokens=9)
    for pause in (0.0, 0.02):
        cut = asyncio.create_task(
            engine.generate("c", [9] * 20, temperature=1.0, top_p=1.0, max_tokens=200)
        )
        await asyncio.sleep(pause)
        cut.cancel()
        await asyncio.wait([cut])
    seen = prompt(1000, 7)
    second = await engine.generate("c", seen, temperature=1.0, top_p=1.0, max_tokens=9)
    assert [*prompt(13), *first.token_ids, *seen, *second.token_ids] == ids
    assert second.logprobs == pytest.approx(generated[1][1].logprobs, abs=1e-4)


async def test_sequences_wait_for_a_place(engine: PolicyEngine) -> None:
    for i in range(6):
        await engine.open_sequence(f"p{i}", prompt(14), noise_seed=i)
    late = asyncio.create_task(engine.open_sequence("late", prompt(14), noise_seed=9))
    given_up = asyncio.create_task(engine.open_sequence("given-up", prompt(14), noise_seed=9))
    await asyncio.sleep(0.01)
    assert not late.done()
    given_up.cancel()
    await asyncio.wait([given_up])
    await engine.close_sequence("p3")
    await engine.close_sequence("p3")  # closing twice is the same as once
    await asyncio.wait_for(late, 5)
    turn = await engine.generate("late", (), temperature=0.0, top_p=0.5, max_tokens=2)
    assert turn.token_ids


async def test_bad_requests(engine: PolicyEngine) -> None:
    with pytest.raises(InvalidInput, match="at least one token"):
        await engine.open_sequence("b", [], noise_seed=0)
    with pytest.raises(InvalidInput, match="token id 259"):
        await engine.open_sequence("b", [259], noise_seed=0)
    await engine.open_sequence("b", [1, 2], noise_seed=0)
    with pytest.raises(InvalidInput, match="open already"):
        await engine.open_sequence("b", [1], noise_seed=0)
    with pytest.raises(InvalidInput, match="not open"):
        await engine.generate("x", (), temperature=1.0, top_p=1.0, max_tokens=1)
    for temperature, top_p, most in ((-1.0, 1.0, 1), (1.0, 0.0, 1), (1.0, 1.0, 0)):
        with pytest.raises(InvalidInput, match="sampling needs"):
            await engine.generate("b", (), temperature=temperature, top_p=top_p, max_tokens=most)
    running = asyncio.create_task(
        engine.generate("b", (), temperature=0.0, top_p=1.0, max_tokens=200)
    )
    await asyncio.sleep(0)
    with pytest.raises(PreconditionFailed, match="middle of a turn"):
        await engine.generate("b", (), temperature=1.0, top_p=1.0, max_tokens=1)
    await engine.close_sequence("b")
    with pytest.raises(PolicyFault, match="closed during its turn"):
        await running


async def test_stopping_fails_what_runs(tiny_folder: Path) -> None:
    engine = PolicyEngine(EngineConfig(tiny_folder, threads=1))
    await engine.start()
    await engine.open_sequence("s", [1, 2, 3], noise_seed=0)
    running = asyncio.create_task(
        engine.generate("s", (), temperature=0.0, top_p=1.0, max_tokens=2000)
    )
    await asyncio.sleep(0)
    await engine.stop()
    with pytest.raises(PolicyFault, match="stopped"):
        await running


async def test_a_model_that_does_not_fit_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "chat_template.jinja", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny_folder / name).read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(InvalidInput, match="runs Llama models"):
        await PolicyEngine(EngineConfig(tmp_path)).start()


async def test_the_default_model(default_folder: Path) -> None:
    """One group and one loner through the real model, against transformers' forward pass."""
    engine = PolicyEngine(EngineConfig(default_folder, threads=2))
    await engine.start()
    chat = engine.chat
    capital = chat.prompt_ids("You are a helpful assistant.", "What is the capital of France?")
    moon = chat.prompt_ids("Answer briefly.", "What is the moon?")
    episodes = await asyncio.gather(
        play(engine, "a", capital, 0, temperature=0.0, turns=1),
        play(engine, "b", capital, 1, turns=2),
        play(engine, "c", moon, 2, turns=2),
    )
    await engine.stop()
    assert "Paris" in chat.decode(episodes[0][1][0][1].token_ids)
    model = AutoModelForCausalLM.from_pretrained(default_folder, dtype=torch.float32)
    assert max(mismatch(model, episode) for episode in episodes) < 1e-3
