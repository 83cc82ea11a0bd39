"""Checks published weights without torch, before a model server is told to load them.

They are a whole model's file or an adapter's folder.

A server that fails in the middle of loading has lost the weights that it had. So everything that
can be wrong with a file is found here first: names, shapes and types against those of the model,
and values that are not finite.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from synthagent.errors import Corrupt, NotFound
from synthagent.model_server import adapter
from synthagent.model_server.folder import read_header

_HEAD = "lm_head.weight"
_FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
_VALUES = 2**22
"""Values looked at in one go."""


@dataclass(frozen=True)
class _Format:
    """A number format: its values are not finite where all bits of the exponent are set."""

    unsigned: str
    exponent: int

    @property
    def size(self) -> int:
        return np.dtype(self.unsigned).itemsize


_FORMATS = {
    "F32": _Format("<u4", 0x7F80_0000),
    "BF16": _Format("<u2", 0x7F80),
    "F16": _Format("<u2", 0x7C00),
}


def check_weights(path: Path, model: Path) -> None:
    """Checks that `path` holds weights for the model of folder `model`.

    Raises NotFound where there is no such file, Corrupt where it is unreadable, lacks a tensor, has
    an unknown one, one of another shape or type, or values that are not finite.
    """
    _read_metadata(path)
    found, start = read_header(path)
    expected, _ = read_header(model / "model.safetensors")
    if json.loads((model / "config.json").read_text()).get("tie_word_embeddings"):
        for header in (found, expected):
            header.pop(_HEAD, None)  # the embedding once more
    _compare(path, found, expected)
    for name, entry in found.items():
        _check_values(path, name, entry, start)


def check_adapter(path: Path, model: Path) -> None:
    """Checks that `path` is the weights file of an adapter for the model of folder `model`.

    Raises NotFound where it or its configuration is missing, Corrupt where the configuration is not
    the one that it was written with, a factor fits no matrix of the model or lacks the other one,
    or values are not finite.
    """
    metadata = _read_metadata(path)
    config = path.with_name(adapter.CONFIG)
    if not config.is_file():
        raise NotFound(f"no configuration {config} beside the adapter's weights")
    if metadata.get(adapter.CONFIG_DIGEST) != hashlib.sha256(config.read_bytes()).hexdigest():
        raise Corrupt(f"{config} is not the configuration that the adapter was written with")
    rank = json.loads(config.read_text()).get("r")
    found, start = read_header(path)
    matrices, _ = read_header(model / "model.safetensors")
    for name, entry in found.items():
        named = _FACTOR.fullmatch(name)
        matrix = matrices.get(f"{named['module']}.weight") if named else None
        if named is None or matrix is None:
            raise Corrupt(f"adapter {path}: {name} belongs to no matrix of the model")
        rows, columns = matrix["shape"]
        shape = [rank, columns] if named["factor"] == "A" else [rows, rank]
        if entry["shape"] != shape or entry["dtype"] not in _FORMATS:
            raise Corrupt(
                f"adapter {path}: {name} is {entry['dtype']} {entry['shape']}, not {shape}"
            )
        here, there = ("A", "B") if named["factor"] == "A" else ("B", "A")
        other = name.replace(f".lora_{here}.", f".lora_{there}.")
        if other not in found:
            raise Corrupt(f"adapter {path} lacks {other}")
        _check_values(path, name, entry, start)


def _read_metadata(path: Path) -> dict[str, str]:
    """A safetensors file's metadata, its header checked against its size."""
    if not path.is_file():
        raise NotFound(f"no weights file {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata: dict[str, str] | None = file.metadata()
    except SafetensorError as error:
        raise Corrupt(f"weights file {path} is damaged: {error}") from error
    return metadata or {}


def _compare(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    if lacking := sorted(expected.keys() - found.keys()):
        raise Corrupt(f"weights file {path} lacks {len(lacking)} tensors: {lacking[0]}, ...")
    if unknown := sorted(found.keys() - expected.keys()):
        raise Corrupt(f"weights file {path} has {len(unknown)} unknown tensors: {unknown[0]}")
    for name, entry in found.items():
        shape = expected[name]["shape"]
        if entry["shape"] != shape:
            raise Corrupt(f"weights file {path}: {name} is {entry['shape']}, not {shape}")
        if entry["dtype"] not in _FORMATS:
            raise Corrupt(
                f"weights file {path}: {name} is of type {entry['dtype']}, "
                f"not one of {', '.join(_FORMATS)}"
            )


def _check_values(path: Path, name: str, entry: Mapping[str, Any], start: int) -> None:
    number = _FORMATS[entry["dtype"]]
    total = math.prod(entry["shape"])
    offset = start + entry["data_offsets"][0]
    for first in range(0, total, _VALUES):
        count = min(_VALUES, total - first)
        bits = np.fromfile(path, number.unsigned, count, offset=offset + first * number.size)
        if len(bits) != count:
            raise Corrupt(f"weights file {path} ends within {name}")
        if bool(((bits & number.exponent) == number.exponent).any()):
            raise Corrupt(f"weights file {path}: {name} holds values that are not finite")
