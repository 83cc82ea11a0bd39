import os
import tarfile
from pathlib import Path

import orjson
import pytest

from benchmarks.study import install
from benchmarks.study.bundle import PROVIDED, bfcl_requirements, requirements
from benchmarks.study.parcel import split


def _parts(folder: Path, archive: Path) -> Path:
    folder.mkdir()
    parts = split(archive, folder, 1000)
    digests = {part.name: install.digest(part) for part in parts}
    (folder / install.DIGESTS).write_bytes(orjson.dumps(digests))
    return folder


def test_parts_are_small_and_come_together_again(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(os.urandom(3500))
    parts = _parts(tmp_path / "parts", archive)
    sizes = [path.stat().st_size for path in sorted(parts.glob("*.part"))]
    assert sizes == [1000, 1000, 1000, 500]
    install.join(parts, tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == archive.read_bytes()
    (parts / "study-002.part").write_bytes(b"other")
    with pytest.raises(install.BundleDamaged, match=r"study-002\.part"):
        install.join(parts, tmp_path / "joined")
    (parts / install.DIGESTS).unlink()
    with pytest.raises(install.BundleDamaged, match="missing"):
        install.join(parts, tmp_path / "joined")


def test_a_bundle_for_another_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "python.txt").write_text("2.7")
    with tarfile.open(tmp_path / "bundle.tar", "w") as tar:
        tar.add(tmp_path / "python.txt", arcname="python.txt")
    with pytest.raises(install.BundleDamaged, match=r"for Python 2\.7"):
        install.install(_parts(tmp_path / "parts", tmp_path / "bundle.tar"))


def test_what_the_other_machine_has_is_left_out() -> None:
    pins = requirements()
    names = {pin.partition("==")[0] for pin in pins}
    assert not names & PROVIDED
    assert not any(name.startswith("nvidia") for name in names)
    assert {"grpcio", "pydantic", "sqlmodel", "hjson", "orjson", "msgpack"} <= names
    assert not {"pytest", "ruff", "deepspeed", "synthagent"} & names
    assert all("==" in pin for pin in [*pins, *bfcl_requirements()])
