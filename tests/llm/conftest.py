"""One real model server for all tests of this folder; `make test-llm` runs them.

`model_server` is started once, with the default model; tests may kill it and bring it back, and
leave it running. With SYNTHAGENT_TEST_MODEL_SERVER set to a base URL, that server is used instead,
and the tests that kill are skipped. Every test here carries the marker `llm` by itself.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import psutil
import pytest

from services.rollout.policy.convert import convert
from synthagent.llm import LanguageModel, Models
from synthagent.metrics import ServerMetrics
from synthagent.model_server import supervise
from synthagent.model_server.folder import lay_out
from synthagent.models import DEFAULT_MODEL
from synthagent.settings import load_settings
from synthagent.store import Store, upgrade
from tests.services.rollout.conftest import serve

__all__ = ["serve"]  # the embedded services of a test, on a database of its own

_VARIABLE = "SYNTHAGENT_TEST_MODEL_SERVER"


class RunningServer:
    """The model server of the tests."""

    def __init__(self, options: supervise.ServerOptions | None, log: Path, base_url: str) -> None:
        self.base_url = base_url
        self.model = DEFAULT_MODEL
        self._options = options
        self._log = log
        self._lives = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, again on its port, and returns once it answers."""
        if self._options:
            self._process = self._lives.enter_context(
                supervise.model_server(self._options, self._log)
            )

    def kill(self) -> None:
        """SIGKILL, as a machine short of memory would."""
        if self._process is None:
            pytest.skip(f"the server of {_VARIABLE} is not ours to kill")
        server = psutil.Process(self._process.pid).children()[0]  # the process is its keeper
        server.kill()
        self._process.wait()
        self._lives.close()

    def stop(self) -> None:
        """Ends it."""
        self._lives.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is here, so that no test can forget it."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.llm)


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """The default model, converted into the cache as `make model` does."""
    return convert()


@pytest.fixture(scope="session")
def model_server(
    model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """The server, until the session ends."""
    given = os.environ.pop(_VARIABLE, None)  # else the settings would call it unknown
    log = tmp_path_factory.mktemp("model-server") / "server.log"
    if given:
        yield RunningServer(None, log, given)
        return
    python = Path(os.environ.get("VLLM_PYTHON", ".venv-model-server/bin/python")).absolute()
    options = supervise.ServerOptions(
        python,
        lay_out(model_folder),
        DEFAULT_MODEL,
        cpu=supervise.is_cpu_build(python),
        port=supervise.free_port(),
    )
    server = RunningServer(options, log, f"{options.root}/v1")
    server.start()
    yield server
    server.stop()


OpenRole = Callable[..., LanguageModel]


@pytest.fixture
async def open_role(model_server: RunningServer, tmp_path: Path) -> AsyncIterator[OpenRole]:
    """Opens a role's model on the server, over a database of the test's."""
    url = f"sqlite:///{tmp_path / 'roles.db'}"
    upgrade(url)
    async with AsyncExitStack() as stack:

        def open_one(role: str = "judge", **changes: object) -> LanguageModel:
            settings = {"base_url": model_server.base_url, "model": model_server.model}
            store = Store(url)
            stack.push_async_callback(store.close)
            models = Models(load_settings(**{role: settings | changes}), store, ServerMetrics())
            stack.push_async_callback(models.close)
            return models.need(role)  # type: ignore[arg-type]  # one of the role names

        yield open_one
