"""`make model-server`: serves a model with vLLM in the foreground, or `--detach`ed.

Prints one JSON line when it is ready: `base_url`, `model`, `pid`. Ctrl-C or SIGTERM ends it, and
so does the death of vLLM itself. Exit codes: 0 after Ctrl-C or SIGTERM, 1 where vLLM failed, 2 for
wrong arguments.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from synthagent.errors import SynthAgentError
from synthagent.model_server.folder import lay_out
from synthagent.model_server.supervise import (
    ServerFailed,
    ServerOptions,
    failure,
    free_port,
    is_cpu_build,
    model_server,
    tail,
)
from synthagent.models import DEFAULT_MODEL, resolve_model

_DETACHED = "--detached"  # tells the process in the background from the one that starts it
_STOP_SECONDS = 60.0


class _Ended(BaseException):
    """SIGTERM."""


def main(
    context: typer.Context,
    *,
    model: Annotated[
        str, typer.Option(help="Name of a packaged model, or a model folder.")
    ] = DEFAULT_MODEL,
    served_model_name: Annotated[
        str, typer.Option(help="Name by which requests ask for it. Default: the model's.")
    ] = "",
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0 means any free one.")] = 8000,
    max_model_len: Annotated[int, typer.Option(help="Most tokens of a request and answer.")] = 8192,
    dtype: Annotated[str, typer.Option(help="Number format of the weights.")] = "float32",
    kv_cache_gib: Annotated[int, typer.Option(help="GiB for keys and values, on a CPU.")] = 2,
    max_lora_rank: Annotated[
        int, typer.Option(help="Largest rank of adapters that it takes; 0 means none.")
    ] = 0,
    weight_transfer: Annotated[
        bool, typer.Option("--weight-transfer", help="Take weights by NCCL, on GPUs.")
    ] = False,
    start_seconds: Annotated[float, typer.Option(help="Seconds to become ready.")] = 600.0,
    python: Annotated[
        Path, typer.Option(envvar="VLLM_PYTHON", help="Python that has vLLM installed.")
    ] = Path(".venv-model-server/bin/python"),
    folder: Annotated[Path, typer.Option(help="Folder of server.log and server.json.")] = Path(
        "runs/model-server"
    ),
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when it is ready; end it with --stop.")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End a detached server.")] = False,
    detached: Annotated[bool, typer.Option(_DETACHED, hidden=True)] = False,
) -> None:
    """Serve a model with vLLM. Arguments after -- go to vLLM."""
    try:
        if stop:
            _stop(folder)
        elif detach:
            _detach(folder)
        else:
            source = resolve_model(model)
            interpreter = _interpreter(python)
            options = ServerOptions(
                python=interpreter,
                folder=lay_out(source),
                name=served_model_name or (model if model == DEFAULT_MODEL else source.name),
                cpu=is_cpu_build(interpreter),
                host=host,
                port=port or free_port(host),
                max_model_len=max_model_len,
                dtype=dtype,
                kv_cache_gib=kv_cache_gib,
                max_lora_rank=max_lora_rank,
                weight_transfer=weight_transfer,
                start_seconds=start_seconds,
                extra=tuple(context.args),
            )
            _serve(options, folder, hold_terminal=not detached)
    except (SynthAgentError, ServerFailed) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


def _interpreter(python: Path) -> Path:
    if not python.is_file():
        raise ServerFailed(
            f"there is no {python}; run `make model-server`, or set VLLM_PYTHON to a Python that "
            "has vLLM"
        )
    return python.absolute()


def _serve(options: ServerOptions, folder: Path, *, hold_terminal: bool) -> None:
    """Runs the server to its end."""
    log = folder / "server.log"
    signal.signal(signal.SIGTERM, _raise_ended)
    if hold_terminal:
        typer.echo(f"starting {options.name}; vLLM writes to {log}", err=True)
    with contextlib.suppress(KeyboardInterrupt, _Ended), model_server(options, log) as process:
        ready = json.dumps(
            {"base_url": f"{options.root}/v1", "model": options.name, "pid": os.getpid()}
        )
        state = folder / "server.json"
        state.write_text(ready + "\n")
        typer.echo(ready)
        try:
            process.wait()
        finally:
            state.unlink(missing_ok=True)
        raise failure(process, log)


def _raise_ended(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # one is enough; the rest would cut the cleaning up
    raise _Ended


def _detach(folder: Path) -> None:
    """Starts this program again in a session of its own, and returns at its ready line."""
    folder.mkdir(parents=True, exist_ok=True)
    if running := _running(folder):
        raise ServerFailed(f"a detached server runs already: {json.dumps(running)}")
    arguments = [argument for argument in sys.argv[1:] if argument != "--detach"]
    errors = folder / "supervisor.log"
    with errors.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - this program
            [sys.executable, "-m", "synthagent.model_server", _DETACHED, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )
    line = process.stdout.readline() if process.stdout else b""
    if not line:
        process.wait()
        raise ServerFailed(tail(errors).removeprefix("error: "))
    typer.echo(line.decode().strip())


def _running(folder: Path) -> dict[str, object] | None:
    """What the state file says of a server whose process is there."""
    try:
        state: dict[str, object] = json.loads((folder / "server.json").read_text())
        os.kill(int(str(state["pid"])), 0)
    except (OSError, ValueError):
        return None
    return state


def _stop(folder: Path) -> None:
    state = _running(folder)
    if state is None:
        raise ServerFailed(f"no detached server runs ({folder / 'server.json'})")
    os.kill(int(str(state["pid"])), signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while _running(folder):
        if time.monotonic() > deadline:
            raise ServerFailed(f"process {state['pid']} did not end within {_STOP_SECONDS:.0f} s")
        time.sleep(0.1)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(context_settings={"allow_extra_args": True})(main)
    app()
