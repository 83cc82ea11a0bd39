"""The server as its own process, as `make postgresql` runs it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from synthagent import postgresql_server
from synthagent.postgresql_server import PostgresqlFailed, PostgresqlServer
from synthagent.store import check_current, upgrade


def test_the_command_serves_until_it_is_ended_and_leaves_nothing() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "synthagent.postgresql_server", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    name, _, url = process.stdout.readline().strip().partition("=")
    assert name == "SYNTHAGENT_DATABASE_URL"
    upgrade(url)
    check_current(url)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_server_that_cannot_start_shows_why(postgresql: PostgresqlServer) -> None:
    second = PostgresqlServer(port=postgresql.port)
    with pytest.raises(PostgresqlFailed, match="Address already in use"), second:
        pass
    assert not second.log.parent.exists()


def test_programs_that_its_user_may_not_reach_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root runs the server as somebody else")
    closed = tmp_path / "closed"
    package = postgresql_server.find_programs().parents[1]
    closed.mkdir(mode=0o700)
    for folder in (package, package.with_name(f"{package.name}.libs")):
        (closed / folder.name).symlink_to(folder)
    monkeypatch.setattr(
        postgresql_server, "find_programs", lambda: closed / package.name / "pginstall" / "bin"
    )
    with PostgresqlServer() as server:
        server.execute("SELECT 1")
        assert (server.log.parent / "programs" / package.name).is_dir()
