"""The physical limit of a step: its arithmetic, and how fast this machine multiplies matrices.

Counted are the operations that the loss and its gradient need, a multiplication and an addition as
two: matrix products with weights, three times their forward pass (Kaplan et al., arXiv 2001.08361,
section 2.1), the head's only where a token is scored, and attention between the pairs of tokens
that see each other. Recomputation is not counted: it is the trainer's own choice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoConfig

from trainer.packing import Row

_BACKWARD = 2  # the gradient of a product is two products
_SECONDS = 0.3  # of measuring each shape


def shapes(model: Path) -> list[tuple[int, int, int]]:
    """Matrices of a Llama as (inputs, outputs, how many); the last is the head."""
    config: Any = AutoConfig.from_pretrained(model)
    width, inner, layers = (
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
    )
    heads = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    return [
        (width, heads, layers),
        (width, keys, 2 * layers),
        (heads, width, layers),
        (width, inner, 2 * layers),
        (inner, width, layers),
        (width, config.vocab_size, 1),
    ]


def operations(rows: Sequence[Row], model: Path) -> float:
    """Floating-point operations of the forward and backward pass over `rows`."""
    *body, head = shapes(model)
    heads, layers = body[0][1], body[0][2]
    weights = sum(inputs * outputs * count for inputs, outputs, count in body)
    tokens = sum(row.tokens for row in rows)
    scored = sum(len(row.targets) for row in rows)
    pairs = 0.0
    for tree in (tree for row in rows for tree in row.trees):
        prompt = tree.prompt[1] - tree.prompt[0]
        lengths = [end - start for start, end in tree.branches]
        pairs += prompt**2 / 2 + sum(prompt * length + length**2 / 2 for length in lengths)
    forward = 2 * weights * tokens + 2 * head[0] * head[1] * scored + 4 * heads * layers * pairs
    return (1 + _BACKWARD) * forward


def matrix_rate(model: Path, tokens: int, dtype: torch.dtype) -> float:
    """Operations a second of the model's products at so many tokens, each by its share."""
    total, seconds = 0.0, 0.0
    for inputs, outputs, count in shapes(model):
        work = 2.0 * tokens * inputs * outputs
        total += work * count
        seconds += _seconds(tokens, inputs, outputs, dtype) * count
    return total / seconds


def _seconds(tokens: int, inputs: int, outputs: int, dtype: torch.dtype) -> float:
    """The fastest product of [tokens, inputs] with [inputs, outputs] within a while."""
    left, right = torch.randn(tokens, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    best, until = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        started = time.perf_counter()
        functional.linear(left, right)
        best = min(best, time.perf_counter() - started)
    return best
