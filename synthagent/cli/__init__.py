"""The command line `synthagent`: clients of the five services, and a program that embeds them.

`main` is the console script. One file holds one group of commands; `connection` finds or starts the
server, `output` writes to the terminal, `exits` says what each exit code means.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line and exits."""
    try:
        # Imported here, so that an interrupt while modules load ends as any other.
        from synthagent.cli.app import app  # noqa: PLC0415

        app()
    except KeyboardInterrupt:
        sys.exit(130)
