from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import httpx2
import pytest

from synthagent.model_server.__main__ import _detach, _interpreter, _stop
from synthagent.model_server.supervise import ServerFailed, free_port
from tests.synthagent.model_server.conftest import gone, start


@pytest.fixture
def arguments(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setenv("SYNTHAGENT_MODEL_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"")
    (model / "tokenizer.json").write_text("{}")
    folder = tmp_path / "state"
    return ("--model", str(model), "--port", str(free_port()), "--folder", str(folder))


def family(folder: Path) -> list[int]:
    pids: list[int] = json.loads((folder / "family").read_text())
    return pids


def test_a_signal_ends_everything(arguments: tuple[str, ...], stand_in: Path) -> None:
    process = start(*arguments)
    assert process.stdout
    ready = json.loads(process.stdout.readline())
    assert ready["model"] == "model"
    assert httpx2.get(f"{ready['base_url']}/models").is_success
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert gone(family(stand_in))


def test_a_killed_supervisor_takes_the_server_along(
    arguments: tuple[str, ...], stand_in: Path
) -> None:
    process = start(*arguments)
    assert process.stdout
    process.stdout.readline()
    process.kill()
    process.communicate(timeout=30)
    assert gone(family(stand_in))


def test_the_death_of_the_server_is_an_error(arguments: tuple[str, ...], stand_in: Path) -> None:
    process = start(*arguments)
    assert process.stdout
    process.stdout.readline()
    os.kill(family(stand_in)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "error: the model server ended with exit code 137" in errors
    assert gone(family(stand_in))


def test_a_detached_server_stays_until_it_is_stopped(
    arguments: tuple[str, ...], stand_in: Path
) -> None:
    started = start("--detach", *arguments)
    line, _ = started.communicate(timeout=30)
    assert started.returncode == 0
    assert httpx2.get(f"{json.loads(line)['base_url']}/models").is_success
    folder = Path(arguments[-1])
    with pytest.raises(ServerFailed, match="runs already"):
        _detach(folder)
    stopped = start("--stop", *arguments)
    stopped.communicate(timeout=30)
    assert stopped.returncode == 0
    assert gone(family(stand_in))
    with pytest.raises(ServerFailed, match="no detached server runs"):
        _stop(folder)


def test_a_failed_start_is_told(arguments: tuple[str, ...], stand_in: Path) -> None:
    (stand_in / "fail").touch()
    process = start("--detach", *arguments)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "no memory for the cache" in errors
    with pytest.raises(ServerFailed, match="make model-server"):
        _interpreter(stand_in / "nothing")
