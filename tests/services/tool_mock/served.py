"""A tool service as a process of its own, to be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys


class Served:
    """A `tool_mock` process and its address."""

    def __init__(self, database_url: str, **settings: str) -> None:
        """`settings` by name, beside those of a test server."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SYNTHAGENT_")}
        chosen = {"database_url": database_url, "port": "0", "metrics_port": "none", **settings}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services", "tool_mock"],
            env=environment | {f"SYNTHAGENT_{name.upper()}": text for name, text in chosen.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.address: str = json.loads(self.process.stdout.readline())["address"]

    def kill(self) -> None:
        """Sends SIGKILL; a second time does nothing."""
        self.process.kill()
        self.process.communicate(timeout=10)
