"""A model's weights: which tensors there are, reading and checking them, packing them to multiply.

Owns the tensor names and shapes of Llama-family models as transformers writes them. A file is
checked as a whole before anything is built from it, so a bad one changes nothing. Built weights
are immutable.

Packing: on a CPU, oneDNN multiplies a weight matrix 1.5 to 2 times faster when it is laid out in
blocks beforehand (one thread, batch 32, all matrices of SmolLM2-135M: 53 ms instead of 85 in
bfloat16, 93 ms instead of 139 in float32). The operators are the ones that torch's own compiler
emits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from synthagent.errors import Corrupt, InvalidInput, NotFound

Project = Callable[[Tensor], Tensor]
"""Multiplies rows [n, in] by a weight matrix: [n, out]."""

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}

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


class StateFile:
    """A safetensors file with the full state dict of a model, checked as a whole.

    Tensors are read one by one and not mapped: a mapped file would count as memory of the process.
    Raises NotFound where there is no such file, Corrupt where it is unreadable, lacks a tensor,
    has an unknown one or one of another shape.
    """

    def __init__(self, path: Path, architecture: Architecture) -> None:
        if not path.is_file():
            raise NotFound(f"no weights file {path}")
        self._path = path
        try:
            with safe_open(path, framework="pt"):
                pass  # checks the header against the size of the file
        except SafetensorError as error:
            raise Corrupt(f"weights file {path} is damaged: {error}") from error
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self._header: dict[str, Any] = json.loads(file.read(length))
        self._start = 8 + length
        self._header.pop("__metadata__", None)
        if architecture.tied:
            self._header.pop("lm_head.weight", None)  # the embedding once more
        self._check(architecture.shapes())

    def _check(self, expected: dict[str, tuple[int, ...]]) -> None:
        found, path = self._header, self._path
        if lacking := sorted(expected.keys() - found.keys()):
            raise Corrupt(f"weights file {path} lacks {len(lacking)} tensors: {lacking[0]}, ...")
        if unknown := sorted(found.keys() - expected.keys()):
            raise Corrupt(f"weights file {path} has {len(unknown)} unknown tensors: {unknown[0]}")
        for name, shape in expected.items():
            entry = found[name]
            if tuple(entry["shape"]) != shape:
                raise Corrupt(f"weights file {path}: {name} is {entry['shape']}, not {list(shape)}")
            if entry["dtype"] not in _DTYPES:
                raise Corrupt(
                    f"weights file {path}: {name} is of type {entry['dtype']}, "
                    f"not one of {', '.join(_DTYPES)}"
                )

    def read(self, name: str) -> Tensor:
        """One tensor. Raises Corrupt where a value is not finite."""
        entry = self._header[name]
        begin, end = entry["data_offsets"]
        data = np.fromfile(self._path, np.uint8, end - begin, offset=self._start + begin)
        if len(data) != end - begin:
            raise Corrupt(f"weights file {self._path} ends within {name}")
        tensor = torch.from_numpy(data).view(_DTYPES[entry["dtype"]]).view(entry["shape"])
        if not bool(torch.isfinite(tensor).all()):
            raise Corrupt(f"weights file {self._path}: {name} holds values that are not finite")
        return tensor


def build_weights(
    state: StateFile, architecture: Architecture, dtype: torch.dtype, device: torch.device
) -> Weights:
    """Reads, casts, fuses and packs all weights. Raises Corrupt where a value is not finite."""

    def project(*names: str) -> Project:
        matrix = (
            torch.cat([state.read(name) for name in names]) if names[1:] else state.read(names[0])
        )
        return _packed(matrix.to(device, dtype))

    def norm(name: str) -> Tensor:
        return state.read(name).to(device, torch.float32)

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
    embedding = state.read("model.embed_tokens.weight")
    head = embedding if architecture.tied else state.read("lm_head.weight")
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
