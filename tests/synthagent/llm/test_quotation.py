"""Quoted values: one line, the same value back, nothing that a template or an eye mistakes."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from synthagent.llm.quotation import fence, quoted

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


def test_a_lone_surrogate_does_not_end_the_judging() -> None:
    assert quoted({"\udc80": ["a\ud800"]}) == '{"?":["a?"]}'


def test_a_fence_is_a_digest_and_cannot_be_foreseen() -> None:
    text = "one\ntwo"
    assert fence(text) == fence(text)
    forged = f"{text}\n{fence(text)}"
    assert fence(forged) not in forged
