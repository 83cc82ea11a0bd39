"""What stays behind is seen: files, processes, transactions that stand still, memory."""

import subprocess
import sys
import time
from pathlib import Path

from sqlalchemy import create_engine, text

from benchmarks.chaos.leftovers import (
    Memory,
    grown,
    orphan_files,
    orphan_processes,
    stuck_transactions,
)
from synthagent.postgresql_server import PostgresqlServer


def test_a_file_that_was_left_is_named(tmp_path: Path) -> None:
    assert orphan_files(tmp_path) == []
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "left").touch()
    assert len(orphan_files(tmp_path)) == 2


def test_a_process_that_outlived_the_leader_of_its_session_is_named() -> None:
    leave = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", leave], stdout=subprocess.PIPE, start_new_session=True
    ) as leader:
        assert leader.stdout is not None
        child = int(leader.stdout.readline())
    (found,) = orphan_processes([leader.pid])
    assert str(child) in found
    subprocess.run(["kill", str(child)], check=True)
    assert orphan_processes([leader.pid + 10**7]) == []


def test_a_transaction_that_stands_still_is_named(postgresql: PostgresqlServer) -> None:
    url = postgresql.url()
    theirs = create_engine(url, connect_args={"application_name": "synthagent"})
    ours = create_engine(url)
    with theirs.connect() as idle, ours.connect() as connection:
        assert stuck_transactions(connection) == []
        idle.execute(text("SELECT 42"))
        time.sleep(2.5)
        connection.rollback()
        (found,) = stuck_transactions(connection)
        assert "SELECT 42" in found
    theirs.dispose()
    ours.dispose()


def test_growth_beyond_the_tolerance_is_named_of_services_and_survivors() -> None:
    before = Memory({"rollout": 500.0, "database": 80.0}, {1: 100.0, 2: 100.0})
    same = Memory({"rollout": 549.0, "database": 80.0}, {1: 109.0, 3: 400.0})
    assert grown(before, same) == []
    more = Memory({"rollout": 551.0, "database": 89.0}, {1: 111.0, 3: 400.0})
    assert [each.split(" has")[0] for each in grown(before, more)] == [
        "rollout", "database", "replica 1",
    ]  # fmt: skip
