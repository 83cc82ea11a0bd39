"""A model folder as vLLM serves it: links to the model's files, with an output head of its own.

Two things make this folder another one than the model's. Weights that are published are one
safetensors file without a config, and vLLM reloads from folders only. And a CPU build packs the
output head apart: where the head is tied to the embedding, a reload renews the embedding and leaves
the packed head as it was, without a word (vLLM 0.32: logits of new layers under an old head). So
the folder unties it: the config says so, and the embedding stands in it once more as `lm_head`.

Folders are named by what is in them and appear whole, by a rename, so they are made once and
shared by processes. They hold links: the weights must stay where they are while they are served.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from synthagent.errors import Corrupt, NotFound
from synthagent.models import model_cache

_LINKED = {".json", ".jinja", ".txt", ".model"}
_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"
_CHUNK = 2**24


def lay_out(model: Path, weights: Path | None = None, cache: Path | str | None = None) -> Path:
    """The folder that serves `weights` (None: the model's own) as the model of folder `model`.

    Kept under `served` in the model cache, where the server must find it by the same path. Raises
    NotFound where a file is missing, Corrupt where the weights are no safetensors file.
    """
    weights = (weights or model / "model.safetensors").resolve()
    config_path = model / "config.json"
    try:
        config: dict[str, Any] = json.loads(config_path.read_text())
        stat = weights.stat()
    except OSError as error:
        raise NotFound(f"{error.filename} cannot be read ({error.strerror})") from error
    identity = f"{config_path.read_text()}|{weights}|{stat.st_size}|{stat.st_mtime_ns}"
    parent = model_cache(cache) / "served"
    folder = parent / hashlib.sha256(identity.encode()).hexdigest()[:16]
    if folder.is_dir():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=parent, prefix=".new-"))
    try:
        _fill(scratch, model, config, weights)
        scratch.chmod(0o755)  # the server may run as another user
        os.rename(scratch, folder)  # noqa: PTH104 - Path.rename says nothing of an existing target
    except OSError:
        if not folder.is_dir():  # unless another process was first
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _fill(folder: Path, model: Path, config: dict[str, Any], weights: Path) -> None:
    for file in model.iterdir():
        if file.suffix in _LINKED and file.name != "config.json":
            (folder / file.name).symlink_to(file.resolve())
    (folder / "model.safetensors").symlink_to(weights)
    if config.get("tie_word_embeddings"):
        config = {**config, "tie_word_embeddings": False}
        _write_head(weights, folder / "lm_head.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _write_head(weights: Path, target: Path) -> None:
    """Writes the embedding's bytes as a safetensors file of their own."""
    header, start = read_header(weights)
    if _HEAD in header or _EMBEDDING not in header:
        raise Corrupt(f"weights file {weights} holds an untied head, or no {_EMBEDDING}")
    entry = header[_EMBEDDING]
    begin, end = entry["data_offsets"]
    head = json.dumps({_HEAD: {**entry, "data_offsets": [0, end - begin]}}).encode()
    head += b" " * (-len(head) % 8)
    with weights.open("rb") as source, target.open("wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        source.seek(start + begin)
        left = end - begin
        while left:
            data = source.read(min(_CHUNK, left))
            if not data:
                raise Corrupt(f"weights file {weights} ends within {_EMBEDDING}")
            out.write(data)
            left -= len(data)


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Tensors of a safetensors file by name, without its metadata, and where their data begin.

    Raises NotFound where there is no such file, Corrupt where it is not one.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= size - 8:
                raise Corrupt(f"weights file {path} is damaged: no header")
            header = json.loads(file.read(length))
    except OSError as error:
        raise NotFound(f"no weights file {path} ({error.strerror})") from error
    except ValueError as error:
        raise Corrupt(f"weights file {path} is damaged: {error}") from error
    header.pop("__metadata__", None)
    return header, 8 + length
