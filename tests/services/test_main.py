"""`python -m services`: the ready line, the exit codes and the signals, with real processes."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.__main__ import ServiceName, registers

Process = subprocess.Popen[str]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SYNTHAGENT_")}
    return {
        **inherited,
        "SYNTHAGENT_DATABASE_URL": f"sqlite:///{tmp_path / 'synthagent.db'}",
        "SYNTHAGENT_PORT": "0",
        "SYNTHAGENT_LOG_FORMAT": "json",
    }


def finished(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def tool_mock(environment: dict[str, str]) -> Iterator[Process]:
    with subprocess.Popen(
        [sys.executable, "-m", "services", "tool_mock"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def test_it_says_when_it_is_ready_and_stops_on_sigterm(tool_mock: Process) -> None:
    assert tool_mock.stdout is not None
    ready = json.loads(tool_mock.stdout.readline())
    assert ready["ready"] is True
    assert ready["services"] == ["synthagent.api.v1.ToolMock"]
    assert ready["pid"] == tool_mock.pid
    for address in (ready["address"], ready["metrics_address"]):
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=5).close()
    tool_mock.send_signal(signal.SIGTERM)
    rest, logged = tool_mock.communicate(timeout=30)
    assert tool_mock.returncode == 0
    assert rest == ""
    first = json.loads(logged.splitlines()[0])
    assert first["event"] == "settings"
    assert first["port"] == 0


def test_settings_that_do_not_fit_exit_with_2(environment: dict[str, str]) -> None:
    done = finished({**environment, "SYNTHAGENT_DATABSE_URL": "x"}, "tool_mock")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "SYNTHAGENT_DATABSE_URL is no setting; did you mean SYNTHAGENT_DATABASE_URL?"
    ]


def test_a_port_that_is_taken_exits_with_3(environment: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = finished(environment, "tool_mock", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 3
    assert "the port is in use" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_database_that_cannot_be_used_exits_with_4(
    environment: dict[str, str], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/nowhere/synthagent.db"
    done = finished(environment, "tool_mock", "--database-url", url)
    assert done.returncode == 4
    assert "see that its folder exists" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_an_unknown_service_is_refused_with_the_names(environment: dict[str, str]) -> None:
    done = finished(environment, "toolmock")
    assert done.returncode == 2
    assert "tool_mock" in done.stderr


def test_migrate_makes_the_schema_and_who_may_not_waits_for_it(
    environment: dict[str, str],
) -> None:
    waits = {**environment, "SYNTHAGENT_MIGRATE": "false"}
    with subprocess.Popen(
        [sys.executable, "-m", "services", "migrate"], env=waits, stderr=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.stderr is not None
        told = [json.loads(waiting.stderr.readline())["event"] for _ in range(2)]
        assert told == ["settings", "waiting"]
        assert finished(environment, "migrate").returncode == 0
        assert waiting.wait(timeout=30) == 0
    assert finished(waits, "migrate").returncode == 0


def test_a_database_of_a_newer_version_ends_migrate_with_4(environment: dict[str, str]) -> None:
    assert finished(environment, "migrate").returncode == 0
    path = environment["SYNTHAGENT_DATABASE_URL"].removeprefix("sqlite:///")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    done = finished(environment, "migrate")
    assert done.returncode == 4
    assert "another version of SynthAgent" in done.stderr.splitlines()[-1]


def test_all_means_every_service() -> None:
    assert len(registers(ServiceName.ALL)) == 5
