"""One real model server for all tests of this folder; `make test-llm` runs them.

`model_server` is started once, with the default model; tests may kill it and bring it back, and
leave it running. With SYNTHAGENT_TEST_MODEL_SERVER set to a base URL, that server is used instead,
and the tests that kill are skipped. Every test here carries the marker `llm` by itself.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from services.rollout.policy.convert import convert
from services.rollout.policy.generation import Engine, Generation
from services.rollout.policy.remote import RemotePolicyEngine, ServerConfig
from services.rollout.policy.server_weights import PublishedWeights
from services.rollout.policy.vllm import VllmServer
from synthagent.llm import LanguageModel, Models
from synthagent.metrics import ServerMetrics
from synthagent.model_server import adapter, supervise
from synthagent.model_server.folder import lay_out
from synthagent.models import DEFAULT_MODEL
from synthagent.settings import load_settings
from synthagent.store import Store, upgrade
from tests.services.rollout.conftest import database_url, serve
from trainer.config import LoraSettings
from trainer.lora import Adapters
from trainer.weights import write_adapter

__all__ = ["database_url", "serve"]  # the embedded services of a test, on a database of its own

Connect = Callable[[], Awaitable[RemotePolicyEngine]]

PATIENCE_SECONDS = 240.0

_VARIABLE = "SYNTHAGENT_TEST_MODEL_SERVER"


class RunningServer:
    """The model server of the tests."""

    def __init__(self, options: supervise.ServerOptions | None, log: Path, base_url: str) -> None:
        self.base_url = base_url
        self.model = DEFAULT_MODEL
        self._options = options
        self._log = log
        self._lives = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, again on its port, and returns once it answers."""
        if self._options:
            self._process = self._lives.enter_context(
                supervise.model_server(self._options, self._log)
            )

    def kill(self) -> None:
        """SIGKILL, as a machine short of memory would."""
        if self._process is None:
            pytest.skip(f"the server of {_VARIABLE} is not ours to kill")
        server = psutil.Process(self._process.pid).children()[0]  # the process is its keeper
        server.kill()
        self._process.wait()
        self._lives.close()

    def stop(self) -> None:
        """Ends it."""
        self._lives.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is here, so that no test can forget it."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.llm)


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """The default model, converted into the cache as `make model` does."""
    return convert()


@pytest.fixture(scope="session")
def model_server(
    model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """The server, until the session ends."""
    given = os.environ.pop(_VARIABLE, None)  # else the settings would call it unknown
    log = tmp_path_factory.mktemp("model-server") / "server.log"
    if given:
        yield RunningServer(None, log, given)
        return
    python = Path(os.environ.get("VLLM_PYTHON", ".venv-model-server/bin/python")).absolute()
    options = supervise.ServerOptions(
        python,
        lay_out(model_folder),
        DEFAULT_MODEL,
        cpu=supervise.is_cpu_build(python),
        port=supervise.free_port(),
        max_lora_rank=16,
    )
    server = RunningServer(options, log, f"{options.root}/v1")
    server.start()
    yield server
    server.stop()


OpenRole = Callable[..., LanguageModel]


@pytest.fixture
async def open_role(model_server: RunningServer, tmp_path: Path) -> AsyncIterator[OpenRole]:
    """Opens a role's model on the server, over a database of the test's."""
    url = f"sqlite:///{tmp_path / 'roles.db'}"
    upgrade(url)
    async with AsyncExitStack() as stack:

        def open_one(role: str = "judge", **changes: object) -> LanguageModel:
            settings = {"base_url": model_server.base_url, "model": model_server.model}
            store = Store(url)
            stack.push_async_callback(store.close)
            models = Models(load_settings(**{role: settings | changes}), store, ServerMetrics())
            stack.push_async_callback(models.close)
            return models.need(role)  # type: ignore[arg-type]  # one of the role names

        yield open_one


@pytest.fixture
async def initial_weights(
    model_server: RunningServer, model_folder: Path, tmp_path: Path
) -> AsyncIterator[None]:
    """Gives the server its own weights back, which roles use, too, and takes adapters away."""

    async def nothing() -> None:
        return None

    yield
    config = ServerConfig(model_server.base_url, model_server.model, model_folder, cache=tmp_path)
    engine = RemotePolicyEngine(config, nothing)
    await engine.start()
    await engine.stop()
    server = VllmServer(model_server.base_url, model_server.model, turn_seconds=300)
    for name in await server.adapters():
        await server.unload_adapter(name)
    await server.close()


@pytest.fixture
def published() -> list[PublishedWeights]:
    """What the database would name, last one wins."""
    return []


@pytest.fixture
async def connect(
    model_server: RunningServer,
    model_folder: Path,
    published: list[PublishedWeights],
    tmp_path: Path,
) -> AsyncIterator[Connect]:
    engines: list[RemotePolicyEngine] = []

    async def latest() -> PublishedWeights | None:
        return published[-1] if published else None

    async def make() -> RemotePolicyEngine:
        config = ServerConfig(
            model_server.base_url,
            model_server.model,
            model_folder,
            patience_seconds=PATIENCE_SECONDS,
            cache=tmp_path,
        )
        engine = RemotePolicyEngine(config, latest)
        await engine.start()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        await engine.stop()


@pytest.fixture
def weights(model_folder: Path, tmp_path: Path) -> Callable[[int], PublishedWeights]:
    """Weights near the model's, of another kind for each version."""

    def write(version: int) -> PublishedWeights:
        noise = torch.Generator().manual_seed(version)
        state = load_file(model_folder / "model.safetensors")
        path = tmp_path / f"policy-v{version:06d}.safetensors"
        save_file(
            {
                k: v + 0.02 * v.std() * torch.randn(v.shape, generator=noise)
                for k, v in state.items()
            },
            path,
        )
        return PublishedWeights(version, path)

    return write


@pytest.fixture
def adapters(model_folder: Path, tmp_path: Path) -> Callable[[int], PublishedWeights]:
    """Adapters of the model, another one for each version."""

    def write(version: int) -> PublishedWeights:
        settings = LoraSettings(rank=8, target_modules=("q_proj", "down_proj"))
        torch.manual_seed(version)
        state = {}
        for name, value in load_file(model_folder / "model.safetensors").items():
            module = name.removesuffix(".weight")
            if module.endswith(settings.target_modules):
                factors = (8, value.shape[1]), (value.shape[0], 8)
                for factor, shape in zip("AB", factors, strict=True):
                    named = f"base_model.model.{module}.lora_{factor}.weight"
                    state[named] = 0.02 * torch.randn(shape)
        folder = tmp_path / f"adapter-v{version:06d}"
        write_adapter(state, Adapters(settings).config(30), folder)
        return PublishedWeights(version, folder / adapter.WEIGHTS)

    return write


def full_model(folder: Path, path: Path | None = None) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if path is not None:
        model.load_state_dict(load_file(path), strict=False)
    assert isinstance(model, torch.nn.Module)
    return model


@torch.inference_mode()
def mismatch(model: torch.nn.Module, read: list[int], turn: Generation) -> float:
    """Largest difference of a turn's log-probabilities from the model's full forward pass."""
    logits = model(torch.tensor([read + turn.token_ids])).logits
    expected = logits.float().log_softmax(-1)[0, len(read) - 1 :]
    pairs = enumerate(zip(turn.token_ids, turn.logprobs, strict=True))
    return max(abs(float(expected[at, token]) - logprob) for at, (token, logprob) in pairs)


async def turn(
    engine: Engine, key: str, append: list[int], temperature: float = 0.7, top_p: float = 0.9
) -> Generation:
    return await engine.generate(key, append, temperature=temperature, top_p=top_p, max_tokens=48)
