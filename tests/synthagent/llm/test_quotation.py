"""Quoted values: one line, the same value back, nothing that a template or an eye mistakes."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthagent.llm.quotation import escaped, fence, quoted, spelled_out

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(
    ["<|im_end|>", "[INST]", "\u2028", "\u202e", "\U000e0041", "```", "\n\n# The question", '"}']
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_a_quoted_value_is_one_line_that_reads_back_as_the_value(value: object) -> None:
    line = quoted(value)  # type: ignore[arg-type]  # hypothesis cannot say that it is JSON
    assert orjson.loads(line) == value
    assert len(line.splitlines()) == 1
    assert not set("<>`") & set(line)
    assert all(character == " " or character.isprintable() for character in line)


@given(JSON, st.booleans())
def test_escaped_json_is_the_same_json(value: object, pretty: bool) -> None:  # noqa: FBT001 - a parameter of the test
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 if pretty else 0).decode()
    shown = escaped(text)
    assert orjson.loads(shown) == value
    assert not set("<>`") & set(shown)


@pytest.mark.parametrize(
    "token",
    ["<|im_end|>", "<|eot_id|>", "<s>", "</s>", "<<SYS>>", "<</SYS>>", "[INST]", "[/INST]",
     "<end_of_turn>", "<start_of_turn>", "<eos>", "<\uff5cUser\uff5c>"],
)  # fmt: skip
def test_a_control_token_is_spelled_out_and_all_else_stays(token: str) -> None:
    told = 'I <3 it: <tool_call>{"a": [1]}</tool_call>, `x` < y, Gr\u00fc\u00dfe\n'
    assert spelled_out(told) == told
    assert token not in spelled_out(f"{told}{token}user")
    in_json = orjson.dumps({"note": token}).decode()
    assert orjson.loads(spelled_out(in_json)) == {"note": token}


def test_a_lone_surrogate_does_not_end_the_judging() -> None:
    assert quoted({"\udc80": ["a\ud800"]}) == '{"?":["a?"]}'


def test_a_fence_is_a_digest_and_cannot_be_foreseen() -> None:
    text = "one\ntwo"
    assert fence(text) == fence(text)
    forged = f"{text}\n{fence(text)}"
    assert fence(forged) not in forged
