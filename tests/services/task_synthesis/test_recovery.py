"""A synthesis whose server is killed in the middle."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Self

import psutil

from services.task_synthesis.admission import admit_novel
from services.task_synthesis.examine import Drawing, examine
from synthagent.client import SynthAgentClient
from synthagent.worlds.certify import Rejected
from synthagent.worlds.novelty import NoveltyIndex
from synthagent.worlds.spec import Split, Task

COUNT = 8


class Served:
    """A process of a service, and its address."""

    def __init__(
        self,
        database: Path,
        service: str = "task_synthesis",
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SYNTHAGENT_")}
        environment |= {
            "SYNTHAGENT_DATABASE_URL": f"sqlite:///{database}",
            "SYNTHAGENT_PORT": "0",
            "SYNTHAGENT_METRICS_PORT": "none",
            "SYNTHAGENT_DRAIN_SECONDS": "1",
            **settings,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services", service],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.address: str = json.loads(self.process.stdout.readline())["address"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves no process behind where a test fails."""
        if self.process.poll() is None:
            self.end(signal.SIGKILL)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: signal.Signals) -> int:
        os.kill(self.process.pid, number)
        self.process.communicate(timeout=30)
        return self.process.returncode


async def synthesize(address: str, wanted: int) -> list[Task]:
    """The first tasks of the request, as many as wanted."""
    tasks: list[Task] = []
    async with SynthAgentClient(task_synthesis=address) as client:
        async for item in client.synthesize_tasks(
            "one", COUNT, Split.TRAIN, difficulty="mini", seed=3
        ):
            if isinstance(item, Task):
                tasks.append(item)
                if len(tasks) == wanted:
                    break
    return tasks


def uninterrupted() -> list[str]:
    """What the request gives when nothing interrupts it, made in this process."""
    drawing = Drawing(Split.TRAIN, "mini", None, seed=3)
    index, admitted = NoveltyIndex(), list[str]()
    for each in examine(drawing, range(2 * COUNT)):
        if each.task is not None and len(admitted) < COUNT:
            with contextlib.suppress(Rejected):
                task = admit_novel(Task.model_validate_json(each.task), index)
                admitted.append(task.task_id)
    return admitted


async def test_a_killed_synthesis_goes_on_and_leaves_no_process(tmp_path: Path) -> None:
    first = Served(tmp_path / "killed.db")
    begun = await synthesize(first.address, 3)
    workers = first.children()
    assert workers
    first.end(signal.SIGKILL)
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    assert gone
    second = Served(tmp_path / "killed.db")
    whole = await synthesize(second.address, COUNT)
    workers = second.children()
    assert second.end(signal.SIGTERM) == 0
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert whole[:3] == begun
    assert [task.task_id for task in whole] == uninterrupted()
