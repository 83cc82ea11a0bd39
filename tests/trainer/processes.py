"""Trainers as real processes, forked from one that has loaded torch and DeepSpeed already.

Loading takes ten times as long as what these tests train; a fork has it for nothing, and is
otherwise what a launcher starts: a process with the launcher's variables in its environment.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import grpc
import typer

from synthagent.api.v1 import rollout_pb2_grpc
from tests.trainer.scripted_rollout import ScriptedRollout

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["trainer.loop", "trainer.__main__", "trainer.lora", __name__])
_LIMIT_SECONDS = 240.0  # a bound on what hangs, also on a machine with much else to do
_NOT_INHERITED = ("COLUMNS", "TERM", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when DeepSpeed is loaded
os.environ.setdefault("OMP_NUM_THREADS", "1")


@dataclass
class Started:
    """A process and what it says."""

    process: BaseProcess
    reader: Connection
    said: str = field(default="", init=False)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    async def end(self) -> tuple[int, str]:
        """Exit code, and standard output and error."""
        try:
            self.said = await asyncio.wait_for(asyncio.to_thread(self._read), _LIMIT_SECONDS)
        finally:
            if self.process.exitcode is None:
                self.process.join(5)
            if self.process.exitcode is None:
                self.process.kill()
                self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode, self.said

    def _read(self) -> str:
        parts = []
        while part := os.read(self.reader.fileno(), 65536):
            parts.append(part)
        self.reader.close()
        return b"".join(parts).decode()


def start(arguments: Sequence[str], environment: dict[str, str] | None = None) -> Started:
    """`python -m trainer ARGUMENTS` in a forked process."""
    return fork(_trainer, (list(arguments),), environment or {})


def fork(
    work: Callable[..., None], arguments: tuple[object, ...], environment: dict[str, str]
) -> Started:
    """A process that does `work` under a launcher's variables."""
    reader, writer = _FORKS.Pipe(duplex=False)
    process = _FORKS.Process(target=_run, args=(work, arguments, environment, writer))
    process.start()
    writer.close()
    return Started(process, reader)


def work_on_ranks(work: Callable[..., None], arguments: tuple[object, ...], ranks: int) -> None:
    """Does `work` on ranks that train together, and asserts that it ended well on each."""
    variables = rank_variables(ranks) if ranks > 1 else [{}]
    processes = [fork(work, arguments, each) for each in variables]

    async def ends() -> list[tuple[int, str]]:
        return await asyncio.gather(*(process.end() for process in processes))

    for code, said in asyncio.run(ends()):
        assert code == 0, said[-4000:]


def _run(
    work: Callable[..., None],
    arguments: tuple[object, ...],
    environment: dict[str, str],
    writer: Connection,
) -> None:
    for name in _NOT_INHERITED:
        os.environ.pop(name, None)
    os.environ.update(environment)
    for descriptor in (1, 2):
        os.dup2(writer.fileno(), descriptor)
    writer.close()
    work(*arguments)


def _trainer(arguments: list[str]) -> None:
    from trainer.__main__ import main  # noqa: PLC0415 - loaded where this was forked from

    sys.argv = ["trainer", *arguments]
    typer.run(main)


def rank_variables(world_size: int) -> list[dict[str, str]]:
    """What a launcher tells each of several ranks on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        {
            "RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        for rank in range(world_size)
    ]


def written(model: Path, folder: Path, address: str) -> Path:
    """A configuration for the tiny model and the scripted service."""
    config = folder.with_suffix(".toml")
    config.write_text(f"""
        [run]
        folder = "{folder}"
        seed = 3
        [model]
        name = "{model}"
        tokens_per_row = 64
        [rollout]
        address = "{address}"
        [deepspeed]
        precision = "float32"
        threads = 1
        [sft]
        trajectories_per_step = 2
        learning_rate = 1e-2
        [rl]
        steps = 3
        groups_per_step = 3
        group_size = 4
        learning_rate = 1e-2
        [checkpoint]
        every_steps = 1
    """)
    return config


def started(model: Path, folder: Path, address: str, *more: str, ranks: int = 1) -> list[Started]:
    """The ranks of a trainer; `more` overrides keys of its configuration, or is an option."""
    overrides = [("--set", each) if "=" in each else (each,) for each in more]
    arguments = [
        str(written(model, folder, address)),
        *(part for override in overrides for part in override),
    ]
    if ranks == 1:
        return [start(arguments)]
    return [start(arguments, variables) for variables in rank_variables(ranks)]


async def train(
    model: Path, folder: Path, address: str, *more: str, ranks: int = 1
) -> tuple[int, str]:
    """Highest exit code of a trainer's ranks, and what they said."""
    ends = await asyncio.gather(
        *(each.end() for each in started(model, folder, address, *more, ranks=ranks))
    )
    return max(code for code, _ in ends), "\n".join(said for _, said in ends)


@asynccontextmanager
async def serving(script: ScriptedRollout) -> AsyncIterator[str]:
    """The script behind a real gRPC server; its address."""
    server = grpc.aio.server()
    rollout_pb2_grpc.add_RolloutServicer_to_server(script, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)
