from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from synthagent.model_server.supervise import (
    ServerFailed,
    ServerOptions,
    failure,
    free_port,
    model_server,
)
from tests.synthagent.model_server.conftest import gone


@pytest.fixture
def options(stand_in: Path) -> ServerOptions:
    return ServerOptions(
        python=Path(sys.executable),
        folder=stand_in,
        name="small",
        port=free_port(),
        max_model_len=512,
        start_seconds=30.0,
        extra=("--seed", "3"),
    )


def family(folder: Path) -> list[int]:
    pids: list[int] = json.loads((folder / "family").read_text())
    return pids


def test_it_is_ready_when_it_answers_and_leaves_nothing(
    options: ServerOptions, stand_in: Path
) -> None:
    log = stand_in / "logs" / "server.log"
    with model_server(options, log):
        pids = family(stand_in)
        with pytest.raises(ServerFailed, match="cannot be used"), model_server(options, log):
            pass
    assert gone(pids)
    said = log.read_text()
    assert "dev mode 1" in said
    arguments = json.loads(said.partition("arguments ")[2].splitlines()[0])
    assert arguments[arguments.index("--served-model-name") + 1 :][:2] == ["small", "policy"]
    assert arguments[arguments.index("--max-model-len") + 1] == "512"
    assert arguments[-2:] == ["--seed", "3"]


def test_a_failed_start_shows_the_end_of_the_log(options: ServerOptions, stand_in: Path) -> None:
    (stand_in / "fail").touch()
    with (
        pytest.raises(ServerFailed, match=r"exit code 1(.|\n)*no memory for the cache"),
        model_server(options, stand_in / "server.log"),
    ):
        pass


def test_a_server_that_never_answers_is_given_up(options: ServerOptions, stand_in: Path) -> None:
    other = replace(options, start_seconds=0.0)
    with (
        pytest.raises(ServerFailed, match="was not ready after 0 s"),
        model_server(other, stand_in / "server.log"),
    ):
        pass


def test_the_rest_of_a_killed_server_is_ended(options: ServerOptions, stand_in: Path) -> None:
    log = stand_in / "server.log"
    with model_server(options, log) as process:
        pids = family(stand_in)
        os.kill(pids[0], signal.SIGKILL)
        assert f"exit code {128 + signal.SIGKILL}" in str(failure(process, log))
        assert gone(pids)
