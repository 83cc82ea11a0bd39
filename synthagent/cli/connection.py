"""The server that a command talks to: one at an address, or one of its own for its duration.

Without an address the five services are started as a process (`synthagent.embedded`), with their
database under the data folder, and ended when the command ends, fails or is interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from synthagent.cli.exits import ExitCode, exit_code
from synthagent.cli.output import remark, screen, write_json
from synthagent.client import SynthAgentClient
from synthagent.embedded import ProcessFailed, services
from synthagent.errors import SynthAgentError
from synthagent.security.channels import client_security

DEFAULT_DATA_DIR = Path("runs/synthagent")
_CALL_SECONDS = 600.0  # a judge's model may take its time; an absent server is told at once
_PANEL = "Server"

Address = Annotated[
    str | None,
    typer.Option(
        envvar="SYNTHAGENT_ADDRESS",
        metavar="HOST:PORT",
        help="Server to use. Without one, the command starts the services for its own duration.",
        rich_help_panel=_PANEL,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        envvar="SYNTHAGENT_DATA_DIR",
        file_okay=False,
        help="Folder for the database and log of services that the command starts itself. "
        f"Default: {DEFAULT_DATA_DIR}, or the database of SYNTHAGENT_DATABASE_URL.",
        rich_help_panel=_PANEL,
    ),
]
Work = Callable[[SynthAgentClient], Awaitable[ExitCode]]


def run(address: str | None, data_dir: Path | None, work: Work, *, as_json: bool) -> NoReturn:
    """Does the work with a client of the server and exits the command with its code.

    A failure is told on standard error and, with `as_json`, as {"error": ...} on standard output.
    """
    try:
        with _terminable(), _server(address, data_dir) as where:
            code = asyncio.run(_with_client(where, work))
    except KeyboardInterrupt:
        remark("Interrupted.")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except SynthAgentError as error:
        fail(exit_code(error), error.reason, _told(error, address), as_json=as_json)
    except ProcessFailed as error:
        fail(exit_code(error), "SERVICES_FAILED", str(error), as_json=as_json)
    raise typer.Exit(code)


def fail(code: ExitCode, reason: str, message: str, *, as_json: bool) -> NoReturn:
    """Tells a failure and exits."""
    if as_json:
        write_json({"error": {"reason": reason, "message": message}})
    remark(f"Error: {message}")
    raise typer.Exit(code)


async def _with_client(address: str, work: Work) -> ExitCode:
    async with SynthAgentClient(
        address, timeout_seconds=_CALL_SECONDS, security=client_security()
    ) as client:
        return await work(client)


def _told(error: SynthAgentError, address: str | None) -> str:
    if address and error.message.startswith("UNAVAILABLE: "):  # of the transport, not of a server
        detail = error.message.removeprefix("UNAVAILABLE: ")
        return f"No server answers at {address}; start one or check the address. ({detail})"
    return error.message


@contextlib.contextmanager
def _server(address: str | None, data_dir: Path | None) -> Iterator[str]:
    if address:
        yield address
        return
    folder = data_dir or DEFAULT_DATA_DIR
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProcessFailed(f"the data folder {folder} cannot be used: {error}") from error
    environment = {"SYNTHAGENT_DRAIN_SECONDS": "2"}
    if data_dir is not None or "SYNTHAGENT_DATABASE_URL" not in os.environ:
        environment["SYNTHAGENT_DATABASE_URL"] = f"sqlite:///{folder.resolve()}/synthagent.db"
    console = screen(stderr=True)
    starting = console.status("Starting the services")
    if console.is_terminal:
        starting.start()
    try:
        with services(folder, environment) as where:
            starting.stop()
            yield where
    finally:
        starting.stop()


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Makes SIGTERM end the command as an error does, so that what it started is ended."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
