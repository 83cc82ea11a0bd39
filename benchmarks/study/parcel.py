"""Files in parts that fit through narrow doors, and a study's folder as such a parcel.

`pack` takes what a study needs to go on elsewhere: all of a training that is under way, and of one
that is done its model and figures. `install.join` puts parts together again.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Annotated

import orjson
import typer

from benchmarks.study.install import DIGESTS, PART_NAME, BundleDamaged, digest, join

MIB = 1 << 20
_LEFT_BEHIND = frozenset({"checkpoints", "weights", "tensorboard"})
"""Folders of a trainer's run that a finished training needs no more."""


def split(archive: Path, out: Path, size: int) -> list[Path]:
    """Cuts a file into parts of at most `size` bytes."""
    parts: list[Path] = []
    with archive.open("rb") as source:
        while block := source.read(min(size, MIB)):
            part = out / PART_NAME.format(f"{len(parts):03d}")
            with part.open("wb") as target:
                written = 0
                while block:
                    target.write(block)
                    written += len(block)
                    block = source.read(min(MIB, size - written))
            parts.append(part)
    return parts


def write_parts(archive: Path, out: Path, part_mib: int) -> int:
    """Replaces the parts in `out` by those of this file; returns how many."""
    out.mkdir(parents=True, exist_ok=True)
    for stale in out.glob(PART_NAME.format("*")):
        stale.unlink()
    parts = split(archive, out, part_mib * MIB)
    digests = {part.name: digest(part) for part in parts}
    (out / DIGESTS).write_bytes(orjson.dumps(digests, option=orjson.OPT_INDENT_2))
    return len(parts)


def needed(path: PurePosixPath, done: frozenset[str]) -> bool:
    """Whether a file of a study's folder is needed to go on; `done` are its finished trainings."""
    if path.parts[0] not in done:
        return True
    return not (_LEFT_BEHIND & set(path.parts) or path.name.startswith("synthagent.db"))


PartMib = Annotated[int, typer.Option(min=1, help="Largest part, in MiB.")]


def pack(
    folder: Annotated[Path, typer.Argument(help="The study's folder.")],
    *,
    out: Annotated[Path, typer.Option(help="Receives the parts and their digests.")],
    part_mib: PartMib = 60,
) -> None:
    """Packs a study that goes on, at the same path, on another machine."""
    state = folder / "state.json"
    if not state.exists():
        raise typer.BadParameter(f"{folder} holds no study")
    stages = orjson.loads(state.read_bytes())["done"]
    done = frozenset(name.removeprefix("train-") for name in stages if name.startswith("train-"))
    with tempfile.TemporaryDirectory(dir=out.parent if out.parent.exists() else None) as temporary:
        archive = Path(temporary) / "study.tar"
        with tarfile.open(archive, "w") as tar:
            for path in sorted(folder.rglob("*")):
                name = PurePosixPath(path.relative_to(folder).as_posix())
                if path.is_file() and needed(name, done):
                    tar.add(path, arcname=str(name))
        count = write_parts(archive, out, part_mib)
    typer.echo(f"{count} parts in {out}; there: python -m benchmarks.study unpack PARTS {folder}")


def unpack(
    parts: Annotated[Path, typer.Argument(help="What `pack` left.")],
    folder: Annotated[Path, typer.Argument(help="Where the study goes on: its path as it was.")],
) -> None:
    """Unpacks a study. Its folder must be empty: databases hold paths within it."""
    if folder.exists() and any(folder.iterdir()):
        raise typer.BadParameter(f"{folder} is not empty; move it away first")
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "study.tar"
    try:
        join(parts, archive)
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except BundleDamaged as error:
        shutil.rmtree(folder)
        raise typer.BadParameter(str(error)) from error
    archive.unlink()
