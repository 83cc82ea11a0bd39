"""Attention within trees: both ways of computing it agree, and nothing leaks across branches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from synthagent.errors import InvalidInput
from trainer.attention import masked_attention, packed_attention
from trainer.packing import TreeSpan

TREES = (
    TreeSpan((0, 7), ((7, 12), (12, 20))),
    TreeSpan((20, 23), ()),
    TreeSpan((23, 30), ((30, 31),)),
)
TOKENS, HEADS, KEY_HEADS, WIDTH = 31, 4, 2, 8
SCALE = WIDTH**-0.5


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    query = torch.randn(1, HEADS, TOKENS, WIDTH, dtype=dtype, requires_grad=True)
    key = torch.randn(1, KEY_HEADS, TOKENS, WIDTH, dtype=dtype, requires_grad=True)
    value = torch.randn(1, KEY_HEADS, TOKENS, WIDTH, dtype=dtype, requires_grad=True)
    return query, key, value


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return packed_attention(torch.nn.Identity(), query, key, value, None, SCALE, trees=TREES)[0]


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 4e-2)],
)
def test_both_parts_joined_equal_one_masked_call(dtype: torch.dtype, tolerance: float) -> None:
    own, other = inputs(dtype), inputs(dtype)
    found = attend(*own)
    expected = masked_attention(*other, TREES, SCALE).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    slope = torch.randn_like(found)
    torch.autograd.backward(found, slope)
    torch.autograd.backward(expected, slope)
    for mine, theirs in zip(own, other, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=tolerance, rtol=0)


@pytest.mark.parametrize("window", [None, 15])
def test_a_window_that_holds_the_longest_sequence_changes_nothing(window: int | None) -> None:
    own = inputs(torch.float32)
    found = packed_attention(
        torch.nn.Identity(), *own, None, SCALE, trees=TREES, sliding_window=window
    )[0]
    assert torch.equal(found, attend(*own))


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("sliding_window", 14, "the last 14 tokens only, and an episode has 15"),
        ("softcap", 50.0, "caps its scores or has sinks"),
        ("s_aux", torch.zeros(HEADS), "caps its scores or has sinks"),
    ],
)
def test_attention_of_another_kind_is_refused(option: str, value: Any, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        packed_attention(
            torch.nn.Identity(),
            *inputs(torch.float32),
            None,
            SCALE,
            trees=TREES,
            **{option: value},
        )


def test_what_lies_in_another_branch_changes_nothing() -> None:
    query, key, value = (x.detach() for x in inputs(torch.float32))
    before = attend(query, key, value)
    changed = slice(7, 12)  # the first branch
    for tensor in (query, key, value):
        tensor[:, :, changed] += 1
    after = attend(query, key, value)
    kept = [token for token in range(TOKENS) if not 7 <= token < 12]
    assert torch.equal(after[:, kept], before[:, kept])
    assert not torch.equal(after[:, changed], before[:, changed])


def test_no_token_sees_what_follows_it() -> None:
    query, key, value = (x.detach() for x in inputs(torch.float32))
    before = attend(query, key, value)
    for tensor in (key, value):
        tensor[:, :, 19] += 1  # the last token of the second branch
    after = attend(query, key, value)
    assert torch.equal(after[:, :19], before[:, :19])
    assert not torch.equal(after[:, 19], before[:, 19])
