"""One server process for all commands, and a way to run a command against it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from synthagent.cli.app import app
from synthagent.embedded import services

Invoke = Callable[..., Result]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of real services with a database of their own."""
    folder = tmp_path_factory.mktemp("cli")
    environment = {
        "SYNTHAGENT_DATABASE_URL": f"sqlite:///{folder}/synthagent.db",
        "SYNTHAGENT_DRAIN_SECONDS": "1",
    }
    with services(folder, environment) as address:
        yield address


@pytest.fixture
def invoke(server: str, tmp_path: Path) -> Invoke:
    """Runs a command in this process against the server."""

    def run(*arguments: str | Path, address: str = server, code: int = 0) -> Result:
        environment = {
            "SYNTHAGENT_ADDRESS": address,
            "SYNTHAGENT_DATA_DIR": str(tmp_path),
            "COLUMNS": "200",
        }
        result = CliRunner().invoke(app, [str(each) for each in arguments], env=environment)
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def invoke_json(invoke: Invoke) -> Callable[..., Any]:
    """Runs a command with --json and gives its one document."""

    def run(*arguments: str | Path, **named: Any) -> Any:
        return json.loads(invoke(*arguments, "--json", **named).stdout)

    return run
