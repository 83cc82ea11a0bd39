"""The peer: an OpenEnv environment that does nothing, served as its project serves environments.

Runs in the environment of `.venv-openenv`, apart from ours; prints its port once it listens.
"""

import socket
import sys
from typing import Any

import uvicorn
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State


class NoOp(Environment[Action, Observation, State]):  # type: ignore[misc]  # not installed with us
    """Answers every step with an empty observation."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._state = State()

    def reset(self, **_: Any) -> Observation:
        """Nothing to go back to."""
        return Observation()

    def step(self, action: Action, **_: Any) -> Observation:
        """Nothing to do."""
        del action
        return Observation()

    @property
    def state(self) -> State:
        """Nothing to remember."""
        return self._state


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        app = create_fastapi_app(NoOp, Action, Observation, max_concurrent_envs=int(sys.argv[1]))
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        server.run(sockets=[listener])
