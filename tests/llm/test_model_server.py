"""The server itself, as roles see it: what it gives, and what callers get when it dies."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

import httpx2
import pytest
from pydantic import BaseModel, Field

from synthagent.errors import ModelUnavailable
from synthagent.llm import Message
from tests.llm.conftest import OpenRole, RunningServer


class Watch(BaseModel):
    """An answer that takes many seconds and surely ends: the grammar says where."""

    seen: list[Literal["wave", "light", "ship"]] = Field(min_length=60, max_length=60)


class Weather(BaseModel):
    """What a structured answer is held to."""

    city: str = Field(max_length=20)
    degrees: int = Field(ge=-50, le=50)


def test_it_is_known_by_two_names(model_server: RunningServer) -> None:
    listed = httpx2.get(f"{model_server.base_url}/models").json()["data"]
    assert {entry["id"] for entry in listed} >= {model_server.model, "policy"}


async def test_text_and_structured_answers(open_role: OpenRole) -> None:
    judge = open_role()
    said = await judge.text(
        [Message("user", "What is the capital of France?")],
        key="capital",
        purpose="test",
        temperature=0.0,
        max_tokens=64,
        stop=(".",),
    )
    assert "Paris" in said.value
    assert said.usage.completion_tokens > 0
    weather = await judge.structured(
        [Message("user", "How warm is it in Paris today? Invent a number.")],
        Weather,
        key="weather",
        purpose="test",
        max_tokens=128,
    )
    assert -50 <= weather.value.degrees <= 50


async def test_long_prompts_with_seeds_do_it_no_harm(open_role: OpenRole) -> None:
    """Read in parts beside each other, they ended vLLM 0.32 on a CPU."""
    judge = open_role()
    words = " ".join(["wave light ship"] * 200)
    said = await asyncio.gather(
        *(
            judge.text(
                [Message("user", f"{number} {words}. Say one word.")],
                key=f"long-{number}",
                purpose="test",
                temperature=1.0,
                max_tokens=64,
                seed=number,
                stop=(" ", "."),
            )
            for number in range(8)
        ),
        return_exceptions=True,
    )
    assert not any(isinstance(each, ModelUnavailable) for each in said), said


async def test_calls_in_flight_when_it_dies_end_in_an_answer_or_a_typed_error(
    model_server: RunningServer, open_role: OpenRole
) -> None:
    impatient = open_role("judge", timeout_seconds=20.0, attempts=2)
    patient = open_role("user", timeout_seconds=400.0, attempts=20)
    begun = time.monotonic()
    lost, kept = (
        asyncio.create_task(
            model.structured([Message("user", "Watch.")], Watch, key="watch", purpose="test")
        )
        for model in (impatient, patient)
    )
    await _in_flight(model_server)
    model_server.kill()
    try:
        with pytest.raises(ModelUnavailable):
            await lost
        assert time.monotonic() - begun < 25
    finally:
        await asyncio.to_thread(model_server.start)
    assert len((await kept).value.seen) == 60


async def _in_flight(server: RunningServer) -> None:
    """Returns once the server computes something."""
    root = server.base_url.removesuffix("/v1")
    async with httpx2.AsyncClient(base_url=root, timeout=30) as client:
        while True:
            lines = (await client.get("/metrics")).text.splitlines()
            running = [line for line in lines if line.startswith("vllm:num_requests_running")]
            if any(float(line.rpartition(" ")[2]) > 0 for line in running):
                return
            await asyncio.sleep(0.05)
