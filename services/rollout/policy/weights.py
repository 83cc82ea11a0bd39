"""A model's weights: which tensors there are, reading and checking them, packing them to multiply.

Owns the tensor names and shapes of Llama-family models as transformers writes them. A file is
checked as a whole before anything is built from it, so a bad one changes nothing. Built weights
are immutable.

Packing: on a CPU, oneDNN multiplies a weight matrix 1.5 to 2 times faster when it is laid out in
blocks beforehand (2 cores, batch 32, all matrices of SmolLM2-135M: 53 ms instead of 85 in bfloat16,
93 ms instead of 139 in float32). The operators are the ones that torch's own compiler emits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from synthagent.errors import Corrupt, InvalidInput, NotFound

Project = Callable[[Tensor], Tensor]
"""Multiplies rows [n, in] by a weight matrix: [n, out]."""

_PACK_ROWS = 32
"""Rows for which the packed layout is chosen: a full decode batch. Others work as well."""


@dataclass(frozen=True)
class Architecture:
    """The sizes of a Llama-family model, from its config.json."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    norm_epsilon: float
    tied: bool
    context: int

    @classmethod
    def read(cls, folder: Path) -> Architecture:
        """Reads config.json. Raises InvalidInput for models that the engine cannot run."""
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        refused = [name for name in ("attention_bias", "mlp_bias") if config.get(name)]
        if config.get("model_type") != "llama" or config.get("hidden_act") != "silu" or refused:
            raise InvalidInput(
                f"{folder} holds a {config.get('model_type')!r} model"
                f"{' with ' + ' and '.join(refused) if refused else ''}; the local policy engine "
                "runs Llama models without biases",
                field="model",
            )
        heads = int(config["num_attention_heads"])
        return cls(
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            intermediate=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            norm_epsilon=float(config["rms_norm_eps"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            context=int(config["max_position_embeddings"]),
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor of the state dict, by name; without lm_head where it is tied."""
        query, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = {
            "input_layernorm.weight": (self.hidden,),
            "self_attn.q_proj.weight": (query, self.hidden),
            "self_attn.k_proj.weight": (kv, self.hidden),
            "self_attn.v_proj.weight": (kv, self.hidden),
            "self_attn.o_proj.weight": (self.hidden, query),
            "post_attention_layernorm.weight": (self.hidden,),
            "mlp.gate_proj.weight": (self.intermediate, self.hidden),
            "mlp.up_proj.weight": (self.intermediate, self.hidden),
            "mlp.down_proj.weight": (self.hidden, self.intermediate),
        }
        shapes: dict[str, tuple[int, ...]] = {
            f"model.layers.{number}.{name}": shape
            for number in range(self.layers)
            for name, shape in layer.items()
        }
        shapes["model.embed_tokens.weight"] = (self.vocabulary, self.hidden)
        shapes["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocabulary, self.hidden)
        return shapes


@dataclass(frozen=True)
class Layer:
    """One decoder layer. Norm weights are float32; query, key and value are one matrix."""

    attention_norm: Tensor
    query_key_value: Project
    output: Project
    feed_forward_norm: Tensor
    gate_up: Project
    down: Project


@dataclass(frozen=True)
class Weights:
    """All weights, ready to multiply. The head is float32 so that logits keep their precision."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Project


def read_state(path: Path, architecture: Architecture) -> dict[str, Tensor]:
    """Reads a safetensors file with the full state dict of the model, on the CPU.

    Raises NotFound where there is no such file, Corrupt where it is unreadable, lacks a tensor,
    has one too many, one of another shape, or one with a value that is not finite.
    """
    if not path.is_file():
        raise NotFound(f"no weights file {path}")
    expected = architecture.shapes()
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a dict
            if architecture.tied:
                found.pop("lm_head.weight", None)  # the embedding once more
            _check_shapes(path, found, expected)
            state = {name: file.get_tensor(name) for name in expected}
    except SafetensorError as error:
        raise Corrupt(f"weights file {path} is damaged: {error}") from error
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise Corrupt(f"weights file {path}: {name} holds values that are not finite")
    return state


def _check_shapes(
    path: Path, found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]
) -> None:
    if lacking := sorted(expected.keys() - found.keys()):
        raise Corrupt(f"weights file {path} lacks {len(lacking)} tensors, first {lacking[0]}")
    if unknown := sorted(found.keys() - expected.keys()):
        raise Corrupt(f"weights file {path} has {len(unknown)} unknown tensors, first {unknown[0]}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise Corrupt(f"weights file {path}: {name} is {list(found[name])}, not {list(shape)}")


def build_weights(
    state: dict[str, Tensor], architecture: Architecture, dtype: torch.dtype, device: torch.device
) -> Weights:
    """Casts, fuses and packs a checked state dict. Takes tensors out of it to bound memory."""

    def project(*names: str) -> Project:
        matrix = (
            torch.cat([state.pop(name) for name in names]) if names[1:] else state.pop(names[0])
        )
        return _packed(matrix.to(device, dtype))

    def norm(name: str) -> Tensor:
        return state.pop(name).to(device, torch.float32)

    layers = []
    for number in range(architecture.layers):
        at = f"model.layers.{number}."
        attention, feed_forward = at + "self_attn.", at + "mlp."
        layers.append(
            Layer(
                attention_norm=norm(at + "input_layernorm.weight"),
                query_key_value=project(
                    *(f"{attention}{part}_proj.weight" for part in ("q", "k", "v"))
                ),
                output=project(attention + "o_proj.weight"),
                feed_forward_norm=norm(at + "post_attention_layernorm.weight"),
                gate_up=project(*(f"{feed_forward}{part}_proj.weight" for part in ("gate", "up"))),
                down=project(feed_forward + "down_proj.weight"),
            )
        )
    embedding = state.pop("model.embed_tokens.weight")
    head = embedding if architecture.tied else state.pop("lm_head.weight")
    return Weights(
        embedding=embedding.to(device, dtype, copy=True),
        layers=tuple(layers),
        norm=norm("model.norm.weight"),
        head=_packed(head.to(device, torch.float32)),
    )


def _packed(matrix: Tensor) -> Project:
    """A product with [out, in] `matrix`, packed for oneDNN where that is possible."""
    if _packs(matrix):
        packed = torch.ops.mkldnn._reorder_linear_weight(matrix.contiguous(), _PACK_ROWS)  # noqa: SLF001 - public only through torch.compile, whose start-up time rules it out
        multiply = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - as above

        def packed_product(rows: Tensor) -> Tensor:
            product: Tensor = multiply(rows, packed, None, "none", [], "")
            return product

        return packed_product

    def product(rows: Tensor) -> Tensor:
        return functional.linear(rows, matrix)

    return product


def _packs(matrix: Tensor) -> bool:
    """Whether this torch and this processor multiply packed matrices of that kind."""
    if matrix.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return False
    return matrix.dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - as in _packed
