"""The launchers themselves start the trainer: on one machine, and as two nodes that meet by
environment (torchrun, as the Kubernetes Job starts it) or by a hostfile (deepspeed)."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from tests.trainer.processes import serving, written
from tests.trainer.scripted_rollout import ScriptedRollout
from tests.trainer.tiny import write_model
from trainer.batch_log import read_batches

pytestmark = [pytest.mark.launchers, pytest.mark.timeout(900)]

BIN = Path(sys.executable).parent
SHORT = ("--set", "sft.max_steps=1", "--set", "rl.steps=1", "--set", "evaluation.before=false")


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


async def launched(*commands: tuple[tuple[str, ...], dict[str, str]]) -> None:
    """Runs commands with variables at once; all must end well."""
    processes = [
        await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **variables},
        )
        for command, variables in commands
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in processes))
    for process, (output, _) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output.decode()[-4000:]


def check(folder: Path) -> None:
    [batch] = read_batches(folder / "batches.jsonl")
    assert batch.rank_tokens == (200, 100)  # two ranks, three groups
    assert (folder / "report.md").is_file()


async def test_torchrun_on_two_nodes_by_environment(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with serving(ScriptedRollout()) as address:
        config = str(written(model, tmp_path / "run", address))
        node = {
            "PET_NNODES": "2",
            "PET_NPROC_PER_NODE": "1",
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": free_port(),
        }
        command = (str(BIN / "torchrun"), "-m", "trainer", config, *SHORT)
        await launched(*((command, {**node, "PET_NODE_RANK": rank}) for rank in ("0", "1")))
    check(tmp_path / "run")


async def test_deepspeed_on_one_machine(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with serving(ScriptedRollout()) as address:
        config = str(written(model, tmp_path / "run", address))
        command = (
            *(str(BIN / "deepspeed"), "--num_gpus", "2", "--master_port", free_port()),
            *("--module", "trainer", config, *SHORT),
        )
        await launched((command, {"LOCAL_SIZE": "2"}))  # how many "GPUs" its CPU backend counts
    check(tmp_path / "run")


async def test_deepspeed_on_two_nodes_by_hostfile(tmp_path: Path) -> None:
    model, hosts = write_model(tmp_path / "model"), tmp_path / "hostfile"
    hosts.write_text("node-0 slots=1\nnode-1 slots=1\n")
    port = free_port()
    async with serving(ScriptedRollout()) as address:
        config = str(written(model, tmp_path / "run", address))

        def node(rank: str) -> tuple[str, ...]:
            return (
                *(str(BIN / "deepspeed"), "--hostfile", str(hosts), "--no_ssh"),
                *("--node_rank", rank, "--master_addr", "127.0.0.1", "--master_port", port),
                *("--module", "trainer", config, *SHORT),
            )

        await launched((node("0"), {}), (node("1"), {}))
    check(tmp_path / "run")
