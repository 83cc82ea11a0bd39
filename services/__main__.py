"""Runs one service, or all of them in one process: `python -m services NAME|all|migrate`.

Prints the settings to standard error and, once it serves, one line of JSON to standard output:
{"ready": true, "address", "metrics_address", "health_address", "services", "pid"}. SIGTERM and
SIGINT drain; a second one cuts the draining short.

`migrate` brings the database to this version's schema and ends; with SYNTHAGENT_MIGRATE=false it
waits until another process has. Both wait for a database that is out of reach, however long.

Exit codes: 0 after draining or migrating, 2 settings that do not fit, 3 a port that is taken, 4 a
database that cannot be used.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import sys
import time
from enum import IntEnum, StrEnum
from typing import Annotated, NoReturn

import structlog
import typer

from synthagent import logs
from synthagent.errors import BackendUnavailable, PreconditionFailed, SynthAgentError
from synthagent.security.watched import UnusableFile
from synthagent.server import PortTaken, Register, running
from synthagent.settings import Settings, SettingsError, load_settings
from synthagent.store import check_current, upgrade

_POLL_SECONDS = 1.0
_TELL_SECONDS = 30.0


class ServiceName(StrEnum):
    """What can be run."""

    MIGRATE = "migrate"
    ALL = "all"
    TASK_SYNTHESIS = "task_synthesis"
    TOOL_MOCK = "tool_mock"
    USER_SIMULATOR = "user_simulator"
    RUBRIC_JUDGE = "rubric_judge"
    ROLLOUT = "rollout"


class ExitCode(IntEnum):
    """Why the process ended before it served."""

    BAD_SETTINGS = 2
    PORT_TAKEN = 3
    DATABASE_UNUSABLE = 4


_log = structlog.get_logger()


def registers(name: ServiceName) -> list[Register]:
    """The `register` functions of a service, or of all; only those modules are imported."""
    names = [name] if name is not ServiceName.ALL else list(ServiceName)[2:]
    return [importlib.import_module(f"services.{part}.servicer").register for part in names]


async def serve(name: ServiceName, settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then drains."""
    stop, stop_now = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (stop_now if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    async with running(
        settings,
        registers(name),
        stop_now=stop_now,
        name="synthagent" if name is ServiceName.ALL else f"synthagent-{name.value}",
    ) as server:
        ready = {
            "ready": True,
            "address": server.address,
            "metrics_address": server.metrics_address,
            "health_address": server.health_address,
            "services": server.services,
            "pid": os.getpid(),
        }
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        await stop.wait()
        _log.info("draining", seconds=settings.drain_seconds)
    _log.info("stopped")


def migrate(settings: Settings) -> None:
    """Brings the schema up to date, or waits until it is; see the module's text."""
    bring, passing = (
        (upgrade, (BackendUnavailable,))
        if settings.migrate
        else (check_current, (BackendUnavailable, PreconditionFailed))
    )
    told = float("-inf")
    while True:
        try:
            bring(settings.database_url)
        except passing as error:
            if time.monotonic() - told >= _TELL_SECONDS:
                _log.info("waiting", why=error.message)
                told = time.monotonic()
            time.sleep(_POLL_SECONDS)
        else:
            _log.info("migrated" if settings.migrate else "schema is current")
            return


def main(
    name: Annotated[ServiceName, typer.Argument(help="The service to run, or migrate.")],
    host: Annotated[str | None, typer.Option(help="As SYNTHAGENT_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="As SYNTHAGENT_PORT; 0 is any.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="As SYNTHAGENT_METRICS_PORT; 0 is any.")
    ] = None,
    database_url: Annotated[str | None, typer.Option(help="As SYNTHAGENT_DATABASE_URL.")] = None,
) -> None:
    """Runs a service. Every setting is an environment variable SYNTHAGENT_*; options win."""
    given = {
        "host": host,
        "port": port,
        "metrics_port": metrics_port,
        "database_url": database_url,
    }
    try:
        settings = load_settings(
            **{key: value for key, value in given.items() if value is not None}
        )
    except SettingsError as error:
        _fail(ExitCode.BAD_SETTINGS, str(error))
    logs.configure(settings.log_level, settings.log_format)
    _log.info("settings", **settings.describe())
    try:
        if name is ServiceName.MIGRATE:
            migrate(settings)
        else:
            asyncio.run(serve(name, settings))
    except UnusableFile as error:
        _fail(ExitCode.BAD_SETTINGS, error.message)
    except PortTaken as error:
        _fail(ExitCode.PORT_TAKEN, str(error))
    except SynthAgentError as error:
        _fail(ExitCode.DATABASE_UNUSABLE, error.message)


def _fail(code: ExitCode, message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    typer.run(main)
