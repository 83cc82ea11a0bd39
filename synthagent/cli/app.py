"""The root of the command line, its groups, and what holds for all of them."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from synthagent.cli import judge, personas, rollout, tasks, trajectories
from synthagent.cli.exits import EPILOG

app = typer.Typer(
    name="synthagent",
    help="Makes certified mock worlds, runs agents in them, and judges what they did. Every "
    "command talks to a server: the one of --address or SYNTHAGENT_ADDRESS, or its own.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)
app.add_typer(tasks.app, name="tasks")
app.add_typer(personas.app, name="personas")
app.command("rollout", epilog=EPILOG)(rollout.rollout)
app.add_typer(trajectories.app, name="trajectories")
app.add_typer(judge.app, name="judge")


def _version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(importlib.metadata.version("synthagent"))
        raise typer.Exit


@app.callback()
def root(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=lambda value: _version(wanted=value), is_eager=True),
    ] = False,
) -> None:
    """Holds the options of the program itself."""
