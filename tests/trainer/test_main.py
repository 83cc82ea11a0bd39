"""`python -m trainer` refuses bad input with its exit code and one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from synthagent.errors import (
    BackendUnavailable,
    Conflict,
    Corrupt,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    SynthAgentError,
)
from tests.trainer.tiny import write_model
from trainer.__main__ import exit_code
from trainer.engine import TrainingDiverged


def run(tmp_path: Path, content: str, *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a trainer, without the libraries' own lines."""
    path = tmp_path / "config.toml"
    path.write_text(content)
    done = subprocess.run(
        [sys.executable, "-m", "trainer", str(path), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "COLUMNS": "300"},
    )
    said = [line for line in done.stderr.splitlines() if line.startswith("trainer: ")]
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, "\n".join(said)


def test_an_unknown_key_names_the_closest(tmp_path: Path) -> None:
    code, said = run(tmp_path, "[sft]\nlearing_rate = 1")
    assert code == 2
    assert "unknown key `learing_rate` in [sft]: did you mean `learning_rate`?" in said


def test_an_unreachable_service_and_then_a_damaged_checkpoint(tmp_path: Path) -> None:
    """One folder: the first start finds no service; the second finds its checkpoint damaged."""
    model = write_model(tmp_path / "model")
    folder = tmp_path / "run"
    content = f"""
        [run]
        folder = "{folder}"
        [model]
        name = "{model}"
        [rollout]
        address = "127.0.0.1:9"
        timeout_seconds = 2
    """
    code, said = run(tmp_path, content)
    assert code == 3, said
    assert "127.0.0.1:9" in said or "UNAVAILABLE" in said
    checkpoints = folder / "checkpoints"
    (checkpoints / "sft-000002").mkdir(parents=True)
    (checkpoints / "sft-000002" / "manifest.json").write_text("{damaged")
    (checkpoints / "latest").write_text("sft-000002")
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    code, said = run(tmp_path, content)
    assert code == 4, said
    assert "manifest.json: it is not JSON. Nothing was changed." in said
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput, 2),
        (NotFound, 2),
        (PreconditionFailed, 2),
        (BackendUnavailable, 3),
        (Conflict, 3),
        (Corrupt, 4),
        (TrainingDiverged, 5),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error: type[SynthAgentError], code: int) -> None:
    assert exit_code(error("because")) == code
