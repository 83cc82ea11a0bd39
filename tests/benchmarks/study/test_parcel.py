from pathlib import Path

import orjson
import pytest
import typer

from benchmarks.study.parcel import pack, unpack

FILES = (
    "sft/run/model/model.safetensors",
    "sft/run/metrics.jsonl",
    "sft/run/checkpoints/1/state",
    "sft/run/weights/1.safetensors",
    "sft/synthagent.db",
    "full/run/checkpoints/4/state",
    "full/run/weights/4.safetensors",
    "full/synthagent.db",
    "bfcl/base/answers.jsonl",
)


def _study(folder: Path) -> Path:
    for name in FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (folder / "state.json").write_bytes(orjson.dumps({"done": ["tasks", "train-sft"]}))
    return folder


def test_a_study_goes_on_elsewhere_without_what_is_done_with(tmp_path: Path) -> None:
    study = _study(tmp_path / "study")
    pack(study, out=tmp_path / "parts", part_mib=1)
    moved = tmp_path / "moved"
    unpack(tmp_path / "parts", moved)
    found = {path.relative_to(moved).as_posix() for path in moved.rglob("*") if path.is_file()}
    behind = {FILES[2], FILES[3], FILES[4]}
    assert found == {"state.json", *FILES} - behind
    assert (moved / FILES[5]).read_text() == FILES[5]
    with pytest.raises(typer.BadParameter, match="not empty"):
        unpack(tmp_path / "parts", moved)


def test_damaged_parts_leave_nothing_behind(tmp_path: Path) -> None:
    pack(_study(tmp_path / "study"), out=tmp_path / "parts", part_mib=1)
    (tmp_path / "parts" / "study-000.part").write_bytes(b"other")
    with pytest.raises(typer.BadParameter, match="damaged"):
        unpack(tmp_path / "parts", tmp_path / "moved")
    assert not (tmp_path / "moved").exists()
    with pytest.raises(typer.BadParameter, match="no study"):
        pack(tmp_path, out=tmp_path / "parts", part_mib=1)
