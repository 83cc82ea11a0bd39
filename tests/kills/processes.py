"""A run's trainer, services and, where asked for, engine: processes to be killed.

Each is started as a user would start it, on ports that it keeps, and started again after every
kill. Nothing else is done for it: no file is repaired, no row is changed.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from synthagent.model_server.folder import lay_out
from synthagent.store import Store, upgrade
from synthagent.store.tasks import put
from tests.services.rollout.conftest import certified_tasks
from tests.services.rollout.policy.conftest import tiny_model, write_tokenizer

STEPS, GROUPS, GROUP_SIZE = 12, 2, 3

_CONFIG = """
[run]
folder = "{folder}/run"
seed = 3
tensorboard = false
[model]
name = "{model}"
tokens_per_row = 4096
[rollout]
address = "127.0.0.1:{port}"
[deepspeed]
precision = "float32"
threads = 1
[sft]
enabled = false
[evaluation]
before = false
after_rl = false
[rl]
# Random weights earn nothing; lengths vary, and this algorithm learns from them over a batch.
algorithm = "reinforce_plus_plus"
overlong_fraction = 0.9
steps = {steps}
groups_per_step = {groups}
group_size = {group_size}
learning_rate = 1e-3
# The loss then also says which log-probabilities were recorded.
old_logprobs = "recorded"
max_turns = 3
max_turn_tokens = 16
max_episode_tokens = 4096
max_staleness = {max_staleness}
[checkpoint]
every_steps = 2
"""


@dataclass
class Deployment:
    """The processes of one run, in a folder of their own."""

    folder: Path
    max_staleness: int = 0
    separate_engine: bool = False
    steps: int = STEPS
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _ports: dict[str, int] = field(default_factory=dict)

    async def prepare(self) -> None:
        """Writes the model, the tasks and the configuration."""
        self.folder.mkdir()
        self._ports = {name: _free_port() for name in ("services", "engine")}
        model = self.folder / "model"
        tiny_model().save_pretrained(model)
        write_tokenizer(model)
        upgrade(self.database_url)
        store = Store(self.database_url)
        for task in certified_tasks()[:3]:
            await store.write(partial(put, task=task))
        await store.close()
        (self.folder / "config.toml").write_text(
            _CONFIG.format(
                folder=self.folder,
                model=model,
                port=self._ports["services"],
                steps=self.steps,
                groups=GROUPS,
                group_size=GROUP_SIZE,
                max_staleness=self.max_staleness,
            )
        )

    @property
    def run(self) -> Path:
        """The trainer's run folder."""
        return self.folder / "run"

    @property
    def database_url(self) -> str:
        """URL of the services' database."""
        return f"sqlite:///{self.folder}/synthagent.db"

    @property
    def address(self) -> str:
        """Address of the services."""
        return f"127.0.0.1:{self._ports['services']}"

    @property
    def names(self) -> tuple[str, ...]:
        """The processes that there are."""
        return ("trainer", "services", *(("engine",) if self.separate_engine else ()))

    def start(self, name: str) -> None:
        """Starts a process, for the first time or again."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self._command(name), env=self._environment(), stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        """Kills a process with SIGKILL."""
        process = self.processes[name]
        process.send_signal(signal.SIGKILL)
        process.wait()

    def tend(self) -> bool:
        """Whether the trainer has finished; starts it again where a service failed it.

        Any other end of a process is an error, told with the end of its log.
        """
        for name in self.names:
            code = self.processes[name].poll()
            if name == "trainer" and code == 0:
                return True
            if name == "trainer" and code == 3:
                self.start(name)
            elif code is not None:
                log = (self.folder / f"{name}.log").read_text(errors="replace")
                raise AssertionError(f"{name} ended with {code}: {log[-4000:]}")
        return False

    def events(self) -> int:
        """Events of episodes that are committed: how far the run is."""
        connection = sqlite3.connect(f"{self.folder}/synthagent.db", timeout=30)
        try:
            return int(connection.execute("SELECT count(*) FROM event").fetchone()[0])
        finally:
            connection.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Starts every process; at the end none is left."""
        try:
            for name in reversed(self.names):
                self.start(name)
            yield
        finally:
            for process in self.processes.values():
                process.kill()
                process.wait()

    def _command(self, name: str) -> list[str]:
        if name == "trainer":
            return [sys.executable, "-m", "trainer", str(self.folder / "config.toml")]
        if name == "services":
            return [sys.executable, "-m", "services", "all"]
        model = self.folder / "model"
        root = lay_out(model, cache=self.folder)
        port = str(self._ports["engine"])
        command = [sys.executable, "-m", "tests.kills.policy_server", str(model), str(root), port]
        # Which version samples a turn of an asynchronous run is a matter of time.
        return [*command, "--frozen"] if self.max_staleness else command

    def _environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SYNTHAGENT_")}
        engine = {
            "SYNTHAGENT_POLICY_BASE_URL": f"http://127.0.0.1:{self._ports['engine']}/v1",
        }
        return {
            **inherited,
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "SYNTHAGENT_DATABASE_URL": self.database_url,
            "SYNTHAGENT_PORT": str(self._ports["services"]),
            "SYNTHAGENT_METRICS_PORT": "none",
            "SYNTHAGENT_LOG_LEVEL": "warning",
            "SYNTHAGENT_MODEL_CACHE": str(self.folder),
            "SYNTHAGENT_POLICY_MODEL": str(self.folder / "model"),
            "SYNTHAGENT_POLICY_THREADS": "1",
            "SYNTHAGENT_POLICY_MAX_SEQUENCE_TOKENS": "4096",
            "SYNTHAGENT_POLICY_DETERMINISTIC": "true",
            **(engine if self.separate_engine else {}),
        }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
