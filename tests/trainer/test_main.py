"""`python -m trainer` answers bad input with its exit code and one sentence, without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """An environment in which torch cannot be loaded: what answers there has not tried."""
    folder = tmp_path_factory.mktemp("without") / "torch"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise ModuleNotFoundError('none here', name='torch')")
    return {**os.environ, "PYTHONPATH": str(folder.parent)}


def run(environment: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
        env=environment,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("content", "arguments", "sentence"),
    [
        ("[sft]\nlearing_rate = 1", (), "unknown key `learing_rate` in [sft]: did you mean"),
        ("", ("--set", "model.name=/nowhere"), "model '/nowhere' is neither a folder nor one of"),
        ("", ("--set", "epochs"), "write section.key=value"),
    ],
)
def test_bad_input_is_answered_before_torch_is_loaded(
    without_torch: Mapping[str, str],
    tmp_path: Path,
    content: str,
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    (tmp_path / "config.toml").write_text(content)
    code, said = run(without_torch, str(tmp_path / "config.toml"), *arguments)
    assert code == 2
    assert said.startswith("trainer: ")
    assert said.count("\n") == 1
    assert sentence in said


def test_half_of_a_launchers_variables_is_refused(
    without_torch: Mapping[str, str], tmp_path: Path
) -> None:
    (tmp_path / "config.toml").touch()
    code, said = run({**without_torch, "WORLD_SIZE": "2", "RANK": "1"}, f"{tmp_path}/config.toml")
    assert code == 2
    assert "trainer (rank 1): RANK is set in the environment and MASTER_ADDR" in said


def test_a_library_that_is_not_installed_is_named(
    without_torch: Mapping[str, str], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (model / name).touch()
    (tmp_path / "config.toml").write_text(
        f'[model]\nname = "{model}"\n[run]\nfolder = "{tmp_path}/run"'
    )
    code, said = run(without_torch, f"{tmp_path}/config.toml")
    assert code == 2
    assert said == "trainer: torch is not installed; run pip install 'synthagent[trainer]'\n"


def test_without_a_file_it_says_what_it_needs(without_torch: Mapping[str, str]) -> None:
    assert run(without_torch) == (
        2,
        "trainer: name a configuration file, such as trainer/configs/demo.toml\n",
    )
