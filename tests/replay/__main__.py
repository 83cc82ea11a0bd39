"""`python -m tests.replay`: serves the products until it is stopped.

Prints one line of JSON when it is ready: {"base_url": ..., "model": ...}.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from tests.replay.actors import Actors
from tests.replay.products import FOLDER, load
from tests.replay.server import MODEL, application


def main(
    port: Annotated[int, typer.Option(help="0 means any free one.")] = 0,
    delay: Annotated[float, typer.Option(help="Seconds that each answer takes.")] = 0.0,
    products: Annotated[Path, typer.Option(help="Folder of the products.")] = FOLDER,
) -> None:
    """Serves hand-written answers in the place of a model."""
    app = application(Actors(load(products)), delay)
    # Named as TCP, or asyncio leaves Nagle's algorithm on, which costs 40 ms an answer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    print(json.dumps({"base_url": address, "model": MODEL}), flush=True)  # noqa: T201 - the output
    server.run(sockets=[listener])


if __name__ == "__main__":
    typer.run(main)
