"""The one file through which weights flow back: from the engine to the policy that samples.

Files appear whole, by a rename, and folders as well, so a reader never sees half of one. Names and
shapes are those of the Hugging Face layout; a tied output head is stored once, as the embedding.
With adapters a file holds the model with them added; `write_version` may publish the adapter alone.
What takes an engine is to be called on all ranks; rank 0 writes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from synthagent.model_server import adapter as layout
from trainer.checkpoint import file_sha256
from trainer.engine import TrainingEngine

_KEPT_VERSIONS = 2  # the one that samples, and the one before while it is being replaced
_COPIED = {".json", ".jinja", ".txt", ".model"}
_WEIGHTS_FILE = "model.safetensors"
_ADAPTER_FOLDER = "adapter"


def write_weights(engine: TrainingEngine, path: Path) -> str:
    """Writes the whole policy to `path` and returns its SHA-256; an empty string on other ranks."""
    tensors = _gather(engine)
    return _save(tensors, path) if engine.ranks.first else ""


def write_reference(engine: TrainingEngine, path: Path) -> None:
    """Writes what `TrainingEngine.hold_reference` reads: the policy, or only its adapter."""
    if engine.adapters is None:
        write_weights(engine, path)
        return
    tensors = engine.adapters.gather(engine)
    if engine.ranks.first:
        _save(tensors, path)


def write_version(engine: TrainingEngine, folder: Path, version: int) -> tuple[Path, str]:
    """Writes a version of the policy into `folder`, forgetting older ones: path and SHA-256.

    The path is that of the whole model's file or, where `lora.publish` asks for it, of the
    adapter's, which lies with its configuration in a folder of its own.
    """
    folder = folder.resolve()
    if engine.adapters is not None and engine.adapters.settings.publish == "adapter":
        path = folder / f"adapter-v{version:06d}" / layout.WEIGHTS
        tensors = engine.adapters.gather(engine)
        digest = ""
        if engine.ranks.first:
            digest = write_adapter(tensors, _adapter_config(engine), path.parent)
            for old in _outdated(folder.glob("adapter-v*"), path.parent):
                shutil.rmtree(old)
        return path, digest
    path = folder / f"policy-v{version:06d}.safetensors"
    digest = write_weights(engine, path)
    if engine.ranks.first:
        for old in _outdated(folder.glob("policy-v*.safetensors"), path):
            old.unlink()
    return path, digest


def _outdated(versions: Iterable[Path], written: Path) -> list[Path]:
    """Versions to forget, by name. A resumed run may have written later ones: those stay."""
    return sorted(version for version in versions if version <= written)[:-_KEPT_VERSIONS]


def export_model(engine: TrainingEngine, source: Path, target: Path) -> None:
    """Writes the policy as a folder that transformers and vLLM load, in `target`'s place.

    Config and tokenizer are those of `source`. With adapters, the folder holds the model with them
    added, and its folder adapter/ the adapter alone.
    """
    tensors = _gather(engine)
    adapter = engine.adapters.gather(engine) if engine.adapters is not None else {}
    if engine.ranks.first:
        write_model_folder(
            tensors, source, target, adapter=adapter, adapter_config=_adapter_config(engine)
        )


def write_model_folder(
    tensors: Mapping[str, Tensor],
    source: Path,
    target: Path,
    *,
    adapter: Mapping[str, Tensor],
    adapter_config: bytes,
) -> None:
    """Writes a model's folder, whole or not at all, in `target`'s place. See `export_model`."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in source.iterdir():
        # An index would name shards that are not here.
        if file.is_file() and file.suffix in _COPIED and not file.name.endswith(".index.json"):
            shutil.copyfile(file, partial / file.name)
    _save(tensors, partial / _WEIGHTS_FILE)
    if adapter:
        write_adapter(adapter, adapter_config, partial / _ADAPTER_FOLDER)
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)


def write_adapter(tensors: Mapping[str, Tensor], config: bytes, folder: Path) -> str:
    """Writes an adapter's folder and returns the SHA-256 of its weights file."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / layout.CONFIG).write_bytes(config)
    vouched = {layout.CONFIG_DIGEST: hashlib.sha256(config).hexdigest()}
    digest = _save(tensors, partial / layout.WEIGHTS, vouched)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    return digest


def _save(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> str:
    """Writes a file, whole or not at all, and returns its SHA-256. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(dict(tensors), partial, metadata={"format": "pt", **(metadata or {})})
        partial.chmod(0o644)  # the rollout service may run as another user
        digest = file_sha256(partial)
        partial.replace(path)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    finally:
        partial.unlink(missing_ok=True)
    return digest


def _adapter_config(engine: TrainingEngine) -> bytes:
    if engine.adapters is None:
        return b""
    return engine.adapters.config(int(engine.scorer.model.config.num_hidden_layers))


def _gather(engine: TrainingEngine) -> dict[str, Tensor]:
    """Each parameter of the policy once, whole, on the CPU of rank 0; empty elsewhere."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in engine.scorer.model.named_parameters():
        with engine.gathered(parameter) as whole:
            if engine.ranks.first:
                # A copy: a view of ZeRO's flat buffer would store the whole buffer.
                tensors[name] = whole.detach().to("cpu", copy=True).contiguous()
    if engine.adapters is None:
        return tensors
    base, adapter = engine.adapters.split(tensors)
    engine.adapters.merge(base, adapter)
    return base
