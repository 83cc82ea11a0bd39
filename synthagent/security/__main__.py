"""Makes a token for a caller: `python -m synthagent.security NAME ROLE TOKEN_FILE`.

Writes the token to a new file that only its owner reads, and prints the entry for the callers file,
which holds the token's hash. The token itself is never shown.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from synthagent.security.access import Role
from synthagent.security.callers import token_hash

_TOKEN_BYTES = 32


def main(
    name: Annotated[str, typer.Argument(help="Name of the caller, as limits and audit know it.")],
    role: Annotated[Role, typer.Argument(help="What the caller is there for.")],
    token_file: Annotated[Path, typer.Argument(help="New file for SYNTHAGENT_TOKEN_FILE.")],
) -> None:
    """Makes a token and prints its entry for the callers file."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    try:
        number = os.open(token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        typer.echo(f"{token_file} cannot be made: {error.strerror}.", err=True)
        raise typer.Exit(1) from None
    with os.fdopen(number, "w") as stream:
        stream.write(token + "\n")
    typer.echo(
        f'[[caller]]\nname = "{name}"\nrole = "{role}"\ntoken_sha256 = "{token_hash(token)}"'
    )


if __name__ == "__main__":
    typer.run(main)
