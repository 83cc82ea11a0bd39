"""Keys and values of prompts and sequences.

A sequence is a prompt and what follows it. The prompt's keys and values are a `Prefix`, computed
once and shared by every sequence that opened with the same token ids: the rollouts of a group.
What follows lives in the sequence's own slot of `Slots`, and stays there from turn to turn.

Memory: a prefix takes exactly its length. Slots share one capacity, which grows with the longest
of them and never shrinks; both are bounded by `max sequences x max tokens`. One token takes
layers x kv_heads x head_dim x 2 values (46 kB in float32 for SmolLM2-135M).

Keys are stored transposed, [..., head_dim, token], as the scores' product wants them. Unused places
hold zeros, never leftovers that are not numbers: they are masked, but 0 x NaN is NaN. Not thread
safe: belongs to the worker's thread.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.rollout.policy.weights import Architecture

_GROWTH = 128
"""Slots grow to multiples of this many tokens."""


@dataclass(frozen=True)
class CacheLayout:
    """What keys and values look like."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, model: Architecture, dtype: torch.dtype, device: torch.device) -> CacheLayout:
        """The layout for a model."""
        return cls(model.layers, model.kv_heads, model.head_dim, dtype, device)

    def zeros(self, leading: tuple[int, ...], tokens: int) -> tuple[Tensor, Tensor]:
        """Keys [layers, *leading, kv_heads, head_dim, tokens] and values, the last two swapped."""
        head = (self.layers, *leading, self.kv_heads)
        return (
            torch.zeros(*head, self.head_dim, tokens, dtype=self.dtype, device=self.device),
            torch.zeros(*head, tokens, self.head_dim, dtype=self.dtype, device=self.device),
        )


@dataclass(eq=False)
class Prefix:
    """A prompt with its keys [layers, kv_heads, head_dim, tokens] and values.

    `filled` tokens have been computed. `last_hidden` [hidden] is the final state of the last token
    once all are, so that every sequence can sample its first token without a forward pass.
    """

    token_ids: tuple[int, ...]
    keys: Tensor
    values: Tensor
    filled: int = 0
    references: int = 0
    last_hidden: Tensor | None = None

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.token_ids)

    @property
    def complete(self) -> bool:
        """Whether the whole prompt has been computed."""
        return self.last_hidden is not None

    def advance(self, tokens: int, hidden: Tensor) -> None:
        """Counts tokens as computed; `hidden` is the final state of the last of them."""
        self.filled += tokens
        if self.filled == self.length:
            self.last_hidden = hidden.clone()


@dataclass
class Prefixes:
    """All prefixes by token ids; a few that nobody uses are kept for the next group member."""

    layout: CacheLayout
    keep_idle: int = 4
    _used: dict[tuple[int, ...], Prefix] = field(default_factory=dict)
    _idle: OrderedDict[tuple[int, ...], Prefix] = field(default_factory=OrderedDict)

    def acquire(self, token_ids: tuple[int, ...]) -> Prefix:
        """The prefix of these ids, made where there is none. Release it once."""
        prefix = self._used.get(token_ids) or self._idle.pop(token_ids, None)
        if prefix is None:
            prefix = Prefix(token_ids, *self.layout.zeros((), len(token_ids)))
        prefix.references += 1
        self._used[token_ids] = prefix
        return prefix

    def release(self, prefix: Prefix) -> None:
        """Gives up one reference."""
        prefix.references -= 1
        if prefix.references == 0:
            del self._used[prefix.token_ids]
            if prefix.complete:
                self._idle[prefix.token_ids] = prefix
            while len(self._idle) > self.keep_idle:
                self._idle.popitem(last=False)

    def invalidate(self) -> None:
        """Forgets everything computed: the weights have changed."""
        self._idle.clear()
        for prefix in self._used.values():
            prefix.filled, prefix.last_hidden = 0, None


class Slots:
    """Keys [layers, slots, kv_heads, head_dim, capacity] and values of what follows the prompts."""

    def __init__(self, layout: CacheLayout, slots: int) -> None:
        self._layout = layout
        self._slots = slots
        self.keys, self.values = layout.zeros((slots,), 0)

    @property
    def capacity(self) -> int:
        """Tokens that each slot can hold now."""
        return self.values.shape[-2]

    def reserve(self, tokens: int) -> None:
        """Makes room for that many tokens in each slot; keeps what is there."""
        if tokens <= self.capacity:
            return
        old = self.capacity
        wanted = max(tokens, old + old // 2)
        keys, values = self._layout.zeros((self._slots,), -(-wanted // _GROWTH) * _GROWTH)
        keys[..., :old] = self.keys
        values[..., :old, :] = self.values
        self.keys, self.values = keys, values

    def invalidate(self) -> None:
        """Forgets everything computed: the weights have changed."""
        self.keys.zero_()
        self.values.zero_()
