"""A checkpoint is whole or refused, by name; saving one forgets those before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from synthagent.errors import Corrupt
from trainer.checkpoint import Checkpoints, Progress

PLACE = Progress(stage="rl", step=4, policy_version=5, metrics_length=12)


def completed(folder: Path, place: Progress = PLACE, keep: int = 1) -> Checkpoints:
    """A checkpoint with one file, completed like a real one."""
    checkpoints = Checkpoints(folder, keep=keep)
    name = f"{place.stage}-{place.step:06d}"
    (folder / f"{name}.partial").mkdir(parents=True)
    (folder / f"{name}.partial" / "weights.pt").write_bytes(b"0123456789")
    checkpoints._complete(name, f"{name}.partial", place, world_size=2)
    return checkpoints


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    assert not Checkpoints(tmp_path, keep=1).exists
    checkpoints = completed(tmp_path)
    assert checkpoints.exists
    assert checkpoints.read(world_size=2) == PLACE


def test_older_checkpoints_are_forgotten_only_beyond_those_to_keep(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoints = completed(tmp_path, PLACE.model_copy(update={"step": step}), keep=2)
    kept = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert kept == ["rl-000002", "rl-000003"]
    assert checkpoints.read(world_size=2).step == 3


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("rl-000004/weights.pt", b"0123456780", "its content differs"),
        ("rl-000004/weights.pt", b"0123", "missing or has another length"),
        ("rl-000004/weights.pt", None, "missing or has another length"),
        ("rl-000004/manifest.json", b"{", "not JSON"),
        ("rl-000004/manifest.json", b"[]", "not an object"),
        ("rl-000004/manifest.json", None, "cannot be read"),
        ("latest", b"rl-000009", "which is not there"),
        ("latest", b"", "which is not there"),
    ],
)
def test_damage_is_named_and_left_alone(
    tmp_path: Path, file: str, content: bytes | None, why: str
) -> None:
    checkpoints = completed(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(Corrupt) as caught:
        checkpoints.read(world_size=2)
    assert str(tmp_path / file) in caught.value.message
    assert why in caught.value.message
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_another_number_of_ranks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="written by 2 ranks and 1 run now"):
        completed(tmp_path).read(world_size=1)
