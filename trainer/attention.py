"""Attention within the trees of a row: exact, without masks, and without copies of a prompt.

A prompt attends to itself; a branch to its prompt and to itself. Nothing attends across branches
or trees. transformers calls `packed_attention` by the name `ATTENTION`, with `trees` among the
keywords.

On CPUs a branch's attention is computed in two parts, to its prompt and to itself, which are joined
by their normalisers; the prompt part of all branches is one call, and nothing is masked or copied.
Elsewhere each branch is one masked call, which the device's own kernels and autograd take care of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import AttentionInterface

from synthagent.errors import InvalidInput
from trainer.packing import TreeSpan

ATTENTION = "packed_trees"

Trees = tuple[TreeSpan, ...]

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 - see below
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001
# What torch's public function calls on CPUs; only these give and take the normalisers.


def packed_attention(  # noqa: PLR0917 - called by transformers, in its order
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within each tree of a row: a prompt to itself, a branch to its prompt and itself.

    `query` is [1, heads, tokens, width], `key` and `value` [1, key heads, tokens, width]; the
    result is [1, tokens, heads, width]. Expects `trees` among the keywords. Work grows with the
    sum of (prompt + branch) x branch, not with the square of the row.
    """
    del module, attention_mask, dropout  # the trees say what attends to what; policies have none
    trees: Trees = kwargs["trees"]
    _require_plain(trees, kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.device.type == "cpu":
        output: Tensor = _TreeAttention.apply(query, key, value, trees, scale)  # type: ignore[no-untyped-call]  # torch's
    else:
        output = masked_attention(query, key, value, trees, scale)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, packed_attention)


def _require_plain(trees: Trees, options: Mapping[str, Any]) -> None:
    """Raises InvalidInput where a model asks for attention that is not computed here."""
    window = options.get("sliding_window")
    longest = max((_longest(tree) for tree in trees), default=0)
    if window is not None and longest > window:
        raise InvalidInput(
            f"the model attends to the last {window} tokens only, and an episode has {longest}; "
            "set rl.max_episode_tokens to its window, or choose a model without one",
            field="model.name",
        )
    if any(options.get(name) is not None for name in ("softcap", "s_aux")):
        raise InvalidInput(
            "the model's attention caps its scores or has sinks, which the trainer does not "
            "compute; choose another model",
            field="model.name",
        )


def _longest(tree: TreeSpan) -> int:
    """Tokens of a tree's longest sequence, its prompt included."""
    prompt = tree.prompt[1] - tree.prompt[0]
    return prompt + max((end - start for start, end in tree.branches), default=0)


class _TreeAttention(torch.autograd.Function):
    """Both parts of every branch, forward and backward, on CPUs.

    Parts are joined as in Rabe and Staats, "Self-attention does not need O(n^2) memory" (2021):
    with the logarithms l of the parts' normalisers, the whole is sum(part * exp(l - logsumexp(l))).
    Going back, each part's kernel is given the whole's output and normaliser, as in ring attention
    (Liu et al., 2023). All in float32: on CPUs the float32 kernel is also faster backward than the
    bfloat16 one (32 ms instead of 50 for 530 tokens of 9 heads of width 64 on one core).
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - torch passes them in order
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, trees: Trees, scale: float
    ) -> Tensor:
        """[1, heads, tokens, width]."""
        q, k, v = _widened(query, key, value)
        output = torch.empty_like(q)
        normaliser = torch.empty(q.shape[:3], dtype=q.dtype)
        for tree in trees:
            prompt = slice(*tree.prompt)
            for start, end in (tree.prompt, *tree.branches):
                own = slice(start, end)
                output[:, :, own], normaliser[:, :, own] = _attend(
                    q[:, :, own], k[:, :, own], v[:, :, own], scale, causal=True
                )
            if tree.branches:
                rest = slice(tree.branches[0][0], tree.branches[-1][1])
                seen, weight = _attend(
                    q[:, :, rest], k[:, :, prompt], v[:, :, prompt], scale, causal=False
                )
                whole = torch.logaddexp(normaliser[:, :, rest], weight)
                own_share = (normaliser[:, :, rest] - whole).exp_()[..., None]
                prompt_share = (weight - whole).exp_()[..., None]
                output[:, :, rest].mul_(own_share).addcmul_(seen, prompt_share)
                normaliser[:, :, rest] = whole
        ctx.save_for_backward(query, key, value, output, normaliser)
        ctx.trees, ctx.scale = trees, scale
        return output.to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Gradients of query, key and value."""
        query, key, value, output, normaliser = ctx.saved_tensors
        q, k, v = _widened(query, key, value)
        given = gradient.to(q.dtype)
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)

        def add(rows: slice, columns: slice, *, causal: bool) -> None:
            parts = _backward(
                given[:, :, rows],
                q[:, :, rows],
                k[:, :, columns],
                v[:, :, columns],
                output[:, :, rows],
                normaliser[:, :, rows],
                0.0,
                causal,
                scale=ctx.scale,
            )
            for total, part, place in zip(
                (dq, dk, dv), parts, (rows, columns, columns), strict=True
            ):
                total[:, :, place] += part

        for tree in ctx.trees:
            for start, end in (tree.prompt, *tree.branches):
                add(slice(start, end), slice(start, end), causal=True)
            if tree.branches:
                rest = slice(tree.branches[0][0], tree.branches[-1][1])
                add(rest, slice(*tree.prompt), causal=False)
        return dq.to(query.dtype), _narrowed(dk, key), _narrowed(dv, value), None, None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attention and the logarithm of its normaliser, [1, heads, tokens(, width)]."""
    output, normaliser = _forward(query, key, value, 0.0, causal, scale=scale)
    return output, normaliser


def _widened(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In at least float32, with as many key heads as query heads."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    repeats = query.shape[1] // key.shape[1]
    k, v = (x.to(dtype).repeat_interleave(repeats, dim=1) for x in (key, value))
    return query.to(dtype).contiguous(), k, v


def _narrowed(gradient: Tensor, like: Tensor) -> Tensor:
    """The gradient of heads that were repeated."""
    _, heads, tokens, width = like.shape
    return gradient.reshape(1, heads, -1, tokens, width).sum(dim=2).to(like.dtype)


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, trees: Trees, scale: float
) -> Tensor:
    """The same, one masked call a branch."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    attend = functional.scaled_dot_product_attention
    pieces = []
    for tree in trees:
        prompt = slice(*tree.prompt)
        prompt_key, prompt_value = key[:, :, prompt], value[:, :, prompt]
        pieces.append(
            attend(query[:, :, prompt], prompt_key, prompt_value, is_causal=True, scale=scale)
        )
        for start, end in tree.branches:
            branch = slice(start, end)
            keys = torch.cat((prompt_key, key[:, :, branch]), dim=2)
            values = torch.cat((prompt_value, value[:, :, branch]), dim=2)
            seen = torch.ones(end - start, keys.shape[2], dtype=torch.bool, device=query.device)
            seen = seen.tril(keys.shape[2] - (end - start))
            pieces.append(attend(query[:, :, branch], keys, values, attn_mask=seen, scale=scale))
    return torch.cat(pieces, dim=2)
