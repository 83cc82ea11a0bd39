"""The door to models against a real server: what only a real one can show of schemas and limits."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, JsonValue

from synthagent.errors import ModelFault, ModelTruncated, PreconditionFailed
from synthagent.llm import Message
from tests.llm.conftest import OpenRole

ASKED = [Message("user", "The lamp in room 4 is lit, the one in room 5 is not. Describe room 4.")]


class State(StrEnum):
    LIT = "lit"
    DARK = "dark"


class Lamp(BaseModel):
    room: Annotated[int, Field(ge=1, le=9)]
    state: State
    checked: bool | None = None


class Rooms(BaseModel):
    lamps: Annotated[list[Lamp], Field(min_length=1, max_length=2)]
    name: Annotated[str, Field(max_length=4000)]
    mood: Literal["calm", "tense"]


async def test_a_nested_model_is_decoded_by_its_schema_without_delay(open_role: OpenRole) -> None:
    started = time.monotonic()
    answer = await open_role().structured(ASKED, Rooms, key="k", purpose="p", temperature=0)
    assert 1 <= len(answer.value.lamps) <= 2
    assert answer.usage.calls == 1, "guided decoding needs no repair"
    assert answer.usage.completion_tokens > 10
    assert time.monotonic() - started < 30, "a bound on a text makes vLLM's grammars slow"


@pytest.mark.parametrize(
    "schema",
    [
        {
            "type": "object",
            "properties": {"id": {"type": "integer", "multipleOf": 1}, "on": {"type": "boolean"}},
            "required": ["id", "on"],
            "additionalProperties": False,
            "minProperties": 2,
        },
        {
            "anyOf": [
                {"$ref": "#/$defs/lamp"},
                {
                    "type": "object",
                    "properties": {"error": {"enum": ["no_lamp"]}},
                    "required": ["error"],
                    "additionalProperties": False,
                },
            ],
            "$defs": {
                "lamp": {
                    "type": "object",
                    "properties": {"lit": {"type": "boolean"}},
                    "required": ["lit"],
                    "additionalProperties": False,
                }
            },
        },
        {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 2},
    ],
    ids=["bounds that guided decoding does not know", "alternatives", "list"],
)
async def test_a_json_schema_is_decoded_whatever_it_holds(
    schema: dict[str, JsonValue], open_role: OpenRole
) -> None:
    answer = await open_role().structured(ASKED, schema, key="k", purpose="p", temperature=0)
    assert answer.value


async def test_an_answer_without_end_is_cut_at_its_limit(open_role: OpenRole) -> None:
    with pytest.raises(ModelTruncated, match="within 16 tokens"):
        await open_role(max_tokens=16).text(ASKED, key="k", purpose="p", temperature=0)


async def test_a_prompt_that_is_too_long_says_so(open_role: OpenRole) -> None:
    long = [Message("user", "lamp " * 20_000)]
    with pytest.raises(ModelFault, match=r"answered 400: .*context length"):
        await open_role().text(long, key="k", purpose="p")


async def test_a_model_that_is_not_served_names_the_setting(open_role: OpenRole) -> None:
    with pytest.raises(PreconditionFailed, match="check SYNTHAGENT_JUDGE__MODEL"):
        await open_role(model="another").text(ASKED, key="k", purpose="p")
