"""The replay server as a process: what it offers to an OpenAI client, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.replay.products import load
from tests.replay.server import MODEL


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """A replay server on a free port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.replay"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    assert ready["model"] == MODEL
    yield ready["base_url"]
    process.terminate()
    process.stdout.close()
    assert process.wait(timeout=10) in (0, -15)


@pytest.fixture(scope="module")
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as opened:
        yield opened


def test_it_offers_its_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="other", messages=[{"role": "user", "content": "?"}])


def test_a_step_is_answered_for_its_product_and_again_when_it_is_sent_back(
    client: openai.OpenAI,
) -> None:
    product = next(product for product in load().values() if not product.is_sql)
    persona = {"name": product.persona.name, "role": product.persona.role}
    asked: Any = {"role": "user", "content": f"Persona: <data>{json.dumps(persona)}</data>"}
    schema = {"name": "ToolSet", "schema": {"type": "object"}}
    form: Any = {"type": "json_schema", "json_schema": schema}
    answer = client.chat.completions.create(model=MODEL, messages=[asked], response_format=form)
    assert json.loads(answer.choices[0].message.content or "") == product.step("ToolSet")
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 100


def test_an_agents_turn_ends_where_it_was_told_to_stop(client: openai.OpenAI) -> None:
    product = next(product for product in load().values() if product.attempts)
    told = " ".join(sorted(product.tool_names))
    turns = product.attempts[0].turns
    said: list[str] = []
    for _ in turns:
        messages: list[Any] = [{"role": "system", "content": told}]
        messages += [{"role": "assistant", "content": text} for text in said]
        answer = client.chat.completions.create(
            model=MODEL,
            messages=messages,
            seed=7,
            stop=["</tool_call>", "</answer>"],
        )
        said.append(answer.choices[0].message.content or "")
    assert said[-1] == f"<answer>{turns[-1].answer}"
    assert not any("</" in text for text in said)
    assert sum(text.startswith("<tool_call>") for text in said) == sum(bool(t.call) for t in turns)


def test_what_no_product_is_about_is_refused_with_the_reason(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no product is recognised"):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hello"}])
