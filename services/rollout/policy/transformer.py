"""The forward pass of a Llama-family model over cached keys and values.

One pass takes a flat batch of tokens: decode rows (the next token of a sequence, one each) and
chunks (several tokens of a prompt or of an observation). Matrix products run over all tokens at
once; only attention knows where they belong. Stateless apart from the weights.

Attention of decode rows has two parts under one softmax: the prompt, one product for all sequences
of a group (their queries are stacked, so the prompt's keys are read once and not once per
sequence), and the sequence's own slot, one batched product. Decoding is bound by memory traffic,
and prompts are most of it.

Precision: the residual stream, norms, rotary embedding, softmax and head are float32 whatever the
setting; `dtype` is that of the other matrix products, `cache dtype` that of keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from services.rollout.policy.cache import Prefix, Slots
from services.rollout.policy.weights import Architecture, Layer, Weights


@dataclass(frozen=True)
class DecodeRow:
    """The next token of a sequence, to be written at `position` of its slot."""

    token_id: int
    prefix: Prefix
    slot: int
    position: int


@dataclass(frozen=True)
class Chunk:
    """Consecutive tokens, to be written from `start` of a slot, or of the prefix (slot None)."""

    token_ids: Sequence[int]
    prefix: Prefix
    slot: int | None
    start: int


@dataclass(frozen=True)
class _DecodePlan:
    """What attention of decode rows needs in every layer, computed once per pass.

    Rows are seen as a span of neighbouring slots, where gaps cost less than gathering the cache,
    or else gathered by `slots`. `rows` are the places of the decode rows in the span.
    """

    slots: Tensor
    positions: Tensor
    span: slice | None
    rows: Tensor | None
    size: int
    own: int
    widest: int
    mask: Tensor
    groups: tuple[tuple[Prefix, Tensor | slice], ...]


class Transformer:
    """Runs batches of tokens through the model."""

    def __init__(
        self, architecture: Architecture, weights: Weights, rotary: tuple[Tensor, Tensor]
    ) -> None:
        self.architecture = architecture
        self.weights = weights
        self._cosine, self._sine = rotary
        self._device = weights.embedding.device
        self._dtype = weights.embedding.dtype
        self._groups = architecture.heads // architecture.kv_heads
        self._scale = architecture.head_dim**-0.5

    def forward(self, rows: Sequence[DecodeRow], chunks: Sequence[Chunk], slots: Slots) -> Tensor:
        """Final states [tokens, hidden] in float32: decode rows first, then chunks, in order.

        Writes keys and values. `rows` must be in order of their slots; `slots` must have room.
        """
        ids = [row.token_id for row in rows]
        positions = [row.prefix.length + row.position for row in rows]
        for chunk in chunks:
            ids += chunk.token_ids
            first = chunk.start + (0 if chunk.slot is None else chunk.prefix.length)
            positions += range(first, first + len(chunk.token_ids))
        at = torch.tensor(positions, device=self._device)
        rotary = self._cosine[at].unsqueeze(1), self._sine[at].unsqueeze(1)
        hidden = self.weights.embedding[torch.tensor(ids, device=self._device)].float()
        plan = self._plan(rows, slots) if rows else None
        masks = [self._chunk_mask(chunk) for chunk in chunks]
        for number, layer in enumerate(self.weights.layers):
            query, key, value = self._project(layer, hidden, rotary, slots.keys.dtype)
            attended = torch.empty_like(query)
            if plan is not None:
                n = len(rows)
                self._write(number, plan, key[:n], value[:n], slots)
                attended[:n] = self._attend_rows(number, plan, query[:n], slots)
            start = len(rows)
            for chunk, mask in zip(chunks, masks, strict=True):
                part = slice(start, start + len(chunk.token_ids))
                keys, values = _extend(number, chunk, key[part], value[part], slots)
                attended[part] = self._attend_chunk(query[part], keys, values, mask)
                start = part.stop
            hidden = hidden + layer.output(attended.flatten(1).to(self._dtype))
            hidden = hidden + self._feed_forward(layer, hidden)
        return self._norm(hidden, self.weights.norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [n, vocabulary] in float32 of final states [n, hidden]."""
        return self.weights.head(hidden)

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(hidden, weight.shape, weight, eps=self.architecture.norm_epsilon)

    def _feed_forward(self, layer: Layer, hidden: Tensor) -> Tensor:
        normed = self._norm(hidden, layer.feed_forward_norm).to(self._dtype)
        gate, up = layer.gate_up(normed).chunk(2, dim=-1)
        return layer.down(functional.silu(gate) * up)

    def _project(
        self, layer: Layer, hidden: Tensor, rotary: tuple[Tensor, Tensor], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled queries [n, heads, dim], keys and values [n, kv_heads, dim] in the cache dtype."""
        model = self.architecture
        normed = self._norm(hidden, layer.attention_norm).to(self._dtype)
        projected = layer.query_key_value(normed).view(len(hidden), -1, model.head_dim)
        turned = projected[:, : model.heads + model.kv_heads].float()
        cosine, sine = rotary  # the sine's first half is negative: see rotary_tables
        turned = turned * cosine + turned.roll(model.head_dim // 2, -1) * sine
        query = (turned[:, : model.heads] * self._scale).to(dtype)
        return (
            query,
            turned[:, model.heads :].to(dtype),
            projected[:, model.heads + model.kv_heads :].to(dtype),
        )

    def _plan(self, rows: Sequence[DecodeRow], slots: Slots) -> _DecodePlan:
        numbers = [row.slot for row in rows]
        first, size = numbers[0], numbers[-1] - numbers[0] + 1
        spanned = size <= 2 * len(rows)
        places = [n - first for n in numbers] if spanned else list(range(len(rows)))
        size = size if spanned else len(rows)
        own = max(row.position for row in rows) + 1
        lengths = torch.full((size,), own)
        lengths[places] = torch.tensor([row.position + 1 for row in rows])
        mask = torch.zeros(size, 1, own, dtype=slots.keys.dtype)
        mask.masked_fill_(torch.arange(own) >= lengths[:, None, None], float("-inf"))
        mask = mask.repeat_interleave(self.architecture.kv_heads, 0).to(self._device)
        groups: dict[Prefix, list[int]] = {}
        for place, row in zip(places, rows, strict=True):
            groups.setdefault(row.prefix, []).append(place)
        return _DecodePlan(
            slots=torch.tensor(numbers, device=self._device),
            positions=torch.tensor([row.position for row in rows], device=self._device),
            span=slice(first, first + size) if spanned else None,
            rows=None if size == len(rows) else torch.tensor(places, device=self._device),
            size=size,
            own=own,
            widest=max(prefix.length for prefix in groups),
            mask=mask,
            groups=tuple((prefix, self._index(group)) for prefix, group in groups.items()),
        )

    def _index(self, places: list[int]) -> Tensor | slice:
        """A slice where the places are neighbours, which copies nothing."""
        if places[-1] - places[0] + 1 == len(places):
            return slice(places[0], places[-1] + 1)
        return torch.tensor(places, device=self._device)

    @staticmethod
    def _write(number: int, plan: _DecodePlan, key: Tensor, value: Tensor, slots: Slots) -> None:
        slots.keys[number][plan.slots, :, :, plan.positions] = key
        slots.values[number][plan.slots, :, plan.positions] = value

    def _attend_rows(self, number: int, plan: _DecodePlan, query: Tensor, slots: Slots) -> Tensor:
        """Attention of decode rows [n, heads, dim] over their prompt and their slot."""
        kv_heads, per, dim = self.architecture.kv_heads, self._groups, query.shape[-1]
        if plan.rows is not None:
            query = query.new_zeros(plan.size, *query.shape[1:]).index_copy_(0, plan.rows, query)
        query = query.view(plan.size, kv_heads, per, dim)
        own_slots = plan.slots if plan.span is None else plan.span
        keys = slots.keys[number][own_slots][..., : plan.own].flatten(0, 1)
        values = slots.values[number][own_slots][..., : plan.own, :].flatten(0, 1)
        wide = plan.widest
        scores = torch.full(
            (plan.size, kv_heads, per, wide + plan.own), float("-inf"), device=self._device
        )
        own = torch.baddbmm(plan.mask, query.flatten(0, 1), keys)
        scores[..., wide:] = own.view(plan.size, kv_heads, per, plan.own)
        for prefix, places in plan.groups:
            stacked = query[places].transpose(0, 1).flatten(1, 2)
            shared = torch.bmm(stacked, prefix.keys[number]).view(kv_heads, -1, per, prefix.length)
            scores[places, :, :, wide - prefix.length : wide] = shared.transpose(0, 1).float()
        weights = scores.softmax(-1).to(query.dtype)
        attended = torch.bmm(weights[..., wide:].flatten(0, 1), values).view_as(query)
        for prefix, places in plan.groups:
            part = weights[places][..., wide - prefix.length : wide]
            shared = torch.bmm(part.transpose(0, 1).flatten(1, 2), prefix.values[number])
            attended[places] += shared.view(kv_heads, -1, per, dim).transpose(0, 1)
        attended = attended.flatten(1, 2)
        return attended if plan.rows is None else attended[plan.rows]

    def _chunk_mask(self, chunk: Chunk) -> Tensor:
        """Additive mask [chunk, everything up to its end]: causal."""
        tokens = len(chunk.token_ids)
        before = chunk.start + (0 if chunk.slot is None else chunk.prefix.length)
        mask = torch.full((tokens, before + tokens), float("-inf"), device=self._device)
        return mask.triu_(before + 1)

    def _attend_chunk(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Attention of a chunk [n, heads, dim] over keys [kv_heads, dim, m] and values."""
        tokens, heads, dim = query.shape
        kv_heads = self.architecture.kv_heads
        stacked = query.view(tokens, kv_heads, self._groups, dim).permute(1, 2, 0, 3)
        scores = torch.bmm(stacked.flatten(1, 2), keys).float()
        scores = scores.view(kv_heads, self._groups, tokens, -1) + mask
        weights = scores.softmax(-1).to(values.dtype).flatten(1, 2)
        attended = torch.bmm(weights, values).view(kv_heads, self._groups, tokens, dim)
        return attended.permute(2, 0, 1, 3).reshape(tokens, heads, dim)


def _extend(
    number: int, chunk: Chunk, key: Tensor, value: Tensor, slots: Slots
) -> tuple[Tensor, Tensor]:
    """Writes a chunk's keys and values; returns all that the chunk may look at."""
    prefix, end = chunk.prefix, chunk.start + len(chunk.token_ids)
    own_keys, own_values = prefix.keys[number], prefix.values[number]
    if chunk.slot is not None:
        own_keys, own_values = slots.keys[number, chunk.slot], slots.values[number, chunk.slot]
    own_keys[..., chunk.start : end] = key.permute(1, 2, 0)
    own_values[:, chunk.start : end] = value.transpose(0, 1)
    own_keys, own_values = own_keys[..., :end], own_values[:, :end]
    if chunk.slot is None:
        return own_keys, own_values
    return (
        torch.cat([prefix.keys[number], own_keys], -1),
        torch.cat([prefix.values[number], own_values], 1),
    )


def rotary_tables(folder: Path, tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine [tokens, head_dim] of the model's rotary embedding.

    The first half of the sine is negated, so that rotating is `x * cosine + roll(x, half) * sine`.
    """
    config = AutoConfig.from_pretrained(folder)
    with torch.inference_mode():
        rotary = LlamaRotaryEmbedding(config)
        cosine, sine = rotary(torch.zeros(1), torch.arange(tokens)[None])
    sine = torch.cat([-sine[0, :, : sine.shape[-1] // 2], sine[0, :, sine.shape[-1] // 2 :]], -1)
    return cosine[0].to(device), sine.to(device)
