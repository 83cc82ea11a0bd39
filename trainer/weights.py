"""The one file through which weights flow back: from the engine to the policy that samples.

Files appear whole, by a rename, so a reader never sees half of one. Names and shapes are those of
the Hugging Face layout; a tied output head is stored once, as the embedding.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from trainer.engine import TrainingEngine

_KEPT_VERSIONS = 2  # the one that samples, and the one before while it is being replaced


def write_weights(engine: TrainingEngine, path: Path) -> str:
    """Writes the whole policy to `path` and returns its SHA-256. To be called on all ranks.

    Rank 0 writes; the others return an empty string.
    """
    tensors = _gather(engine)
    if not engine.ranks.first:
        return ""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, partial, metadata={"format": "pt"})
        partial.chmod(0o644)  # the rollout service may run as another user
        digest = file_sha256(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return digest


def write_version(engine: TrainingEngine, folder: Path, version: int) -> tuple[Path, str]:
    """Writes a version of the policy into `folder`, forgetting older ones: path and SHA-256."""
    path = (folder / f"policy-v{version:06d}.safetensors").resolve()
    digest = write_weights(engine, path)
    if engine.ranks.first:
        for old in sorted(folder.glob("policy-v*.safetensors"))[:-_KEPT_VERSIONS]:
            old.unlink()
    return path, digest


def export_model(engine: TrainingEngine, source: Path, target: Path) -> None:
    """Writes a folder that transformers loads: weights, and `source`'s config and tokenizer."""
    write_weights(engine, target / "model.safetensors")
    if engine.ranks.first:
        for file in source.iterdir():
            if file.is_file() and file.suffix in {".json", ".jinja", ".txt", ".model"}:
                shutil.copyfile(file, target / file.name)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _gather(engine: TrainingEngine) -> dict[str, Tensor]:
    """Each parameter once, whole, on the CPU of rank 0; empty elsewhere."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in engine.scorer.model.named_parameters():
        with engine.gathered(parameter) as whole:
            if engine.ranks.first:
                # A copy: a view of ZeRO's flat buffer would store the whole buffer.
                tensors[name] = whole.detach().to("cpu", copy=True).contiguous()
    return tensors
