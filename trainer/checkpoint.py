"""Checkpoints: weights, optimizer, random state and place in the loop, whole or not at all.

A checkpoint is written under a partial name, described by a manifest of sizes and digests, renamed,
and only then pointed to by `latest`. It is verified before anything is loaded from it; a damaged
one is named and left as it is. The learning rate is a function of the step and needs no state.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from synthagent.errors import Corrupt
from trainer.engine import TrainingEngine
from trainer.weights import file_sha256

Stage = Literal["start", "sft", "dpo", "rl"]


class Progress(BaseModel):
    """Place in the loop: `step` steps of `stage` are done, `policy_version` samples."""

    model_config = ConfigDict(frozen=True)

    stage: Stage = "start"
    step: int = 0
    policy_version: int = 0
    metrics_length: int = 0


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._folder = folder
        self._keep = keep

    @property
    def exists(self) -> bool:
        """Whether there is one to resume from."""
        return (self._folder / "latest").is_file()

    def save(self, engine: TrainingEngine, progress: Progress) -> None:
        """Saves on all ranks; returns when `latest` names the new checkpoint."""
        name = f"{progress.stage}-{progress.step:06d}"
        partial = f"{name}.partial"
        if engine.ranks.first:
            shutil.rmtree(self._folder / partial, ignore_errors=True)
            self._folder.mkdir(parents=True, exist_ok=True)
        engine.barrier()
        engine.deepspeed.save_checkpoint(str(self._folder), tag=partial, save_latest=False)
        torch.save(_random_state(), self._folder / partial / _random_name(engine))
        engine.barrier()
        if engine.ranks.first:
            self._complete(name, partial, progress, engine.ranks.world_size)
        engine.barrier()

    def read(self, *, world_size: int) -> Progress:
        """Verifies the latest checkpoint and returns its place. Raises Corrupt naming the file."""
        folder = self._latest()
        manifest = _read_json(folder / "manifest.json")
        for name, expected in manifest.get("files", {}).items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != expected["bytes"]:
                raise _damaged(file, "it is missing or has another length")
            if file_sha256(file) != expected["sha256"]:
                raise _damaged(file, "its content differs from what was written")
        if manifest.get("world_size") != world_size:
            raise _damaged(
                folder,
                f"it was written by {manifest.get('world_size')} ranks and {world_size} run now",
            )
        try:
            return Progress.model_validate(manifest.get("progress"))
        except ValidationError as error:
            raise _damaged(
                folder / "manifest.json", "it does not hold a place to resume"
            ) from error

    def restore(self, engine: TrainingEngine) -> None:
        """Loads the latest checkpoint, verified by `read`, into a fresh engine, on all ranks."""
        folder = self._latest()
        path, _ = engine.deepspeed.load_checkpoint(str(self._folder), tag=folder.name)
        if path is None:
            raise _damaged(folder, "DeepSpeed does not find its files there")
        state = torch.load(folder / _random_name(engine), weights_only=False)
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        torch.set_rng_state(state["torch"])

    def _latest(self) -> Path:
        name = (self._folder / "latest").read_text(encoding="utf-8").strip()
        folder = self._folder / name
        if not name or not folder.is_dir():
            raise _damaged(self._folder / "latest", f"it names {name!r}, which is not there")
        return folder

    def _complete(self, name: str, partial: str, progress: Progress, world_size: int) -> None:
        source, target = self._folder / partial, self._folder / name
        files = {
            file.relative_to(source).as_posix(): {
                "bytes": file.stat().st_size,
                "sha256": file_sha256(file),
            }
            for file in sorted(source.rglob("*"))
            if file.is_file()
        }
        manifest = {"progress": progress.model_dump(), "world_size": world_size, "files": files}
        (source / "manifest.json").write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
        shutil.rmtree(target, ignore_errors=True)
        source.rename(target)
        write_atomically(self._folder / "latest", name.encode())
        complete = [p.parent for p in self._folder.glob("*/manifest.json") if p.parent != target]
        complete.sort(key=lambda folder: (folder / "manifest.json").stat().st_mtime_ns)
        for old in complete[: max(0, len(complete) + 1 - self._keep)]:
            shutil.rmtree(old)


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces `path` as a whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = orjson.loads(path.read_bytes())
    except OSError as error:
        raise _damaged(path, "it cannot be read") from error
    except orjson.JSONDecodeError as error:
        raise _damaged(path, "it is not JSON") from error
    if not isinstance(content, dict):
        raise _damaged(path, "it is not an object")
    return content


def _damaged(path: Path, why: str) -> Corrupt:
    return Corrupt(
        f"cannot resume from {path}: {why}. Nothing was changed. Restore the file, or name another "
        "checkpoint in `latest` beside it, or move the run folder away to start anew"
    )


def _random_name(engine: TrainingEngine) -> str:
    return f"random-rank-{engine.ranks.rank:03d}.pt"


def _random_state() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # libraries draw from the global state
        "torch": torch.get_rng_state(),
    }
