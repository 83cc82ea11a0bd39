"""Checkpoints: weights, optimizer, random state and place in the loop, whole or not at all.

A checkpoint is written under a partial name, described by a manifest of sizes and digests, renamed,
and only then pointed to by `latest`. It is verified before anything is loaded from it; a damaged
one is named and left as it is. One from which no update gave finite numbers is withdrawn, so that
`latest` leads somewhere. The learning rate is a function of the step and needs no state. Imports no
torch: what is wrong with a checkpoint is said before that is loaded.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from synthagent.errors import Corrupt
from trainer.failures import naming

if TYPE_CHECKING:
    from trainer.engine import TrainingEngine  # imports torch, which looking needs not

Stage = Literal["start", "sft", "dpo", "rl"]


class Progress(BaseModel):
    """Place in the loop: `step` steps of `stage` are done, `policy_version` samples."""

    model_config = ConfigDict(frozen=True)

    stage: Stage = "start"
    step: int = 0
    policy_version: int = 0
    metrics_length: int = 0


class Seal(BaseModel):
    """What a file of a checkpoint was when it was written."""

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a complete checkpoint consists of; its last file to be written."""

    progress: Progress
    world_size: int
    files: dict[str, Seal]


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        """Two are kept at least: the latest is proven only by an update that follows it."""
        self._folder = folder
        self._keep = max(2, keep)
        self._saved_at = 0
        """`TrainingEngine.updates` when the latest was saved or restored."""

    @property
    def exists(self) -> bool:
        """Whether there is one to resume from."""
        return (self._folder / "latest").is_file()

    def save(self, engine: TrainingEngine, progress: Progress) -> None:
        """Saves on all ranks; returns when `latest` names the new checkpoint."""
        name = f"{progress.stage}-{progress.step:06d}"
        partial = f"{name}.partial"
        if engine.ranks.first:
            self._folder.mkdir(parents=True, exist_ok=True)
            for left in (*self._folder.glob("*.partial"), *self._folder.glob("*.diverged")):
                shutil.rmtree(left, ignore_errors=True)
        engine.barrier()
        try:
            with naming(self._folder / partial):
                engine.save_state(self._folder, partial)
        except OSError:
            shutil.rmtree(self._folder / partial, ignore_errors=True)  # a full disk needs the room
            raise
        engine.barrier()
        if engine.ranks.first:
            self._complete(name, partial, progress, engine.ranks.world_size)
        self._saved_at = engine.updates
        engine.barrier()

    def withdraw_unproven(self, engine: TrainingEngine) -> Path | None:
        """After a divergence, on all ranks: the checkpoint to resume from; None where none is left.

        The latest is put aside where no update from it was finite: its weights lead nowhere.
        """
        unproven = self.exists and engine.updates == self._saved_at
        engine.barrier()
        if unproven and engine.ranks.first:
            latest = self.latest
            others = [folder for folder in self._complete_ones() if folder != latest]
            if others:
                write_atomically(self._folder / "latest", others[-1].name.encode())
            else:
                (self._folder / "latest").unlink()
            latest.rename(latest.with_name(f"{latest.name}.diverged"))
        engine.barrier()
        return self.latest if self.exists else None

    @property
    def latest(self) -> Path:
        """Folder of the latest checkpoint. Raises Corrupt where it is not there."""
        name = (self._folder / "latest").read_bytes().decode(errors="replace").strip()
        folder = self._folder / name
        if not name or not folder.is_dir():
            raise _damaged(self._folder / "latest", f"it names {name!r}, which is not there")
        return folder

    def read(self, *, world_size: int | None, verify: bool = True) -> Progress:
        """Verifies the latest checkpoint and returns its place. Raises Corrupt naming the file.

        `world_size` is the number of ranks that go on from it; None only looks. Without `verify`
        the files' content is left to another rank.
        """
        folder = self.latest
        manifest = _read_manifest(folder / "manifest.json")
        for name, seal in manifest.files.items() if verify else ():
            file = folder / name
            if not file.is_file() or file.stat().st_size != seal.bytes:
                raise _damaged(file, "it is missing or has another length")
            if file_sha256(file) != seal.sha256:
                raise _damaged(file, "its content differs from what was written")
        if world_size is not None and manifest.world_size != world_size:
            written = manifest.world_size
            raise _damaged(folder, f"it was written by {written} ranks and {world_size} run now")
        return manifest.progress

    def restore(self, engine: TrainingEngine) -> None:
        """Loads the latest checkpoint, verified by `read`, into a fresh engine, on all ranks."""
        if not engine.restore_state(self._folder, self.latest.name):
            raise _damaged(self.latest, "DeepSpeed does not find its files there")
        self._saved_at = engine.updates

    def _complete_ones(self) -> list[Path]:
        """Folders of complete checkpoints, oldest first."""
        manifests = [
            path
            for path in self._folder.glob("*/manifest.json")
            if not path.parent.name.endswith((".partial", ".diverged"))
        ]
        return [path.parent for path in sorted(manifests, key=lambda p: p.stat().st_mtime_ns)]

    def _complete(self, name: str, partial: str, progress: Progress, world_size: int) -> None:
        source, target = self._folder / partial, self._folder / name
        files = {
            file.relative_to(source).as_posix(): Seal(
                bytes=file.stat().st_size, sha256=file_sha256(file)
            )
            for file in sorted(source.rglob("*"))
            if file.is_file()
        }
        manifest = Manifest(progress=progress, world_size=world_size, files=files)
        (source / "manifest.json").write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
        # On the disk before `latest` names it: the machine may lose its power, too.
        for path in (source, *source.rglob("*")):
            _sync(path)
        shutil.rmtree(target, ignore_errors=True)
        source.rename(target)
        write_atomically(self._folder / "latest", name.encode())
        for old in self._complete_ones()[: -self._keep]:
            if old != target:
                shutil.rmtree(old)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces `path` as a whole."""
    partial = path.with_name(path.name + ".partial")
    with naming(path):
        partial.write_bytes(content)
        _sync(partial)
    partial.replace(path)


def _sync(path: Path) -> None:
    """Has the disk hold a file's or a folder's content."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _read_manifest(path: Path) -> Manifest:
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise _damaged(path, "it cannot be read") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        why = _UNREADABLE.get(first["type"]) if not where else None
        raise _damaged(path, why or f"{where}: {first['msg']}") from error


_UNREADABLE = {"json_invalid": "it is not JSON", "model_type": "it is not an object"}


def _damaged(path: Path, why: str) -> Corrupt:
    return Corrupt(
        f"cannot resume from {path}: {why}. Nothing was changed. Restore the file, or name another "
        "checkpoint in `latest` beside it, or move the run folder away to start anew"
    )
