"""Who answers: the local policy engine, a vLLM server, or any OpenAI-compatible chat server.

A `Model` holds conversations. Its texts come from greedy sampling, so a model gives the same
answers again where its arithmetic does. `ContextFull` ends a conversation; every other fault raises
`ModelFault` and is no answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import openai

from services.rollout.policy.chat import STOP_STRINGS
from services.rollout.policy.generation import Engine
from synthagent.errors import InvalidInput, LimitExceeded, SynthAgentError
from synthagent.models import resolve_model

_TEMPERATURE = 0.0


class ModelFault(RuntimeError):
    """The model could not be asked; carries no answer."""


class ContextFull(Exception):
    """The conversation leaves no room for another turn."""


@dataclass(frozen=True)
class Reply:
    """One turn of the model."""

    text: str
    tokens: int


class Conversation(Protocol):
    """One conversation. Both methods raise ModelFault and ContextFull."""

    async def begin(self, system: str, user: str) -> Reply:
        """The first turn."""

    async def go_on(self, role: str, content: str) -> Reply:
        """The next turn, after what a "tool" or the "user" says."""


class Model(Protocol):
    """A model under evaluation."""

    @property
    def identity(self) -> str:
        """What decides its answers: a digest of its weights, or its name and address."""

    @property
    def places(self) -> int:
        """Conversations that it holds at once."""

    def converse(self, key: str) -> AbstractAsyncContextManager[Conversation]:
        """A new conversation of that name."""


@dataclass(frozen=True)
class Limits:
    """Tokens of a turn, tokens of a conversation, and conversations at once."""

    turn_tokens: int = 256
    context_tokens: int = 8192
    places: int = 8


class EngineModel:
    """A policy engine: tokens in, tokens out, exactly as episodes are run."""

    def __init__(self, engine: Engine, identity: str, limits: Limits) -> None:
        self._engine = engine
        self._limits = limits
        self.identity = identity
        self.places = limits.places

    @asynccontextmanager
    async def converse(self, key: str) -> AsyncIterator[Conversation]:
        """A sequence of the engine, closed at the end."""
        try:
            yield _Sequence(self._engine, key, self._limits)
        finally:
            await self._engine.close_sequence(key)


class _Sequence:
    def __init__(self, engine: Engine, key: str, limits: Limits) -> None:
        self._engine = engine
        self._key = key
        self._limits = limits
        self._last: list[int] = []

    async def begin(self, system: str, user: str) -> Reply:
        prompt = self._engine.chat.prompt_ids(system, user)
        try:
            await self._engine.open_sequence(self._key, prompt, noise_seed=0)
        except LimitExceeded as error:
            raise ContextFull(str(error)) from error
        except SynthAgentError as error:
            raise ModelFault(str(error)) from error
        return await self._generate([])

    async def go_on(self, role: str, content: str) -> Reply:
        chat = self._engine.chat
        ended = chat.ends_turn(self._last)
        return await self._generate(chat.observation_ids(role, content, turn_ended=ended))

    async def _generate(self, append: list[int]) -> Reply:
        try:
            generation = await self._engine.generate(
                self._key,
                append,
                temperature=_TEMPERATURE,
                top_p=1.0,
                max_tokens=self._limits.turn_tokens,
            )
        except LimitExceeded as error:
            raise ContextFull(str(error)) from error
        except (SynthAgentError, RuntimeError) as error:  # torch's errors are RuntimeErrors
            raise ModelFault(f"the policy engine failed: {error}") from error
        self._last = generation.token_ids
        return Reply(self._engine.chat.decode(generation.token_ids), len(generation.token_ids))


class ChatModel:
    """A chat server, asked in messages; a tool's result goes as a user's message in tags."""

    def __init__(self, base_url: str, served_model: str, limits: Limits) -> None:
        self._client = openai.AsyncOpenAI(
            base_url=base_url, api_key="none", timeout=600, max_retries=4
        )
        self._served_model = served_model
        self._limits = limits
        self.identity = f"{base_url} {served_model}"
        self.places = limits.places

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    @asynccontextmanager
    async def converse(self, key: str) -> AsyncIterator[Conversation]:
        """A list of messages."""
        yield _Messages(self._client, self._served_model, self._limits.turn_tokens)


class _Messages:
    def __init__(self, client: openai.AsyncOpenAI, model: str, turn_tokens: int) -> None:
        self._client = client
        self._model = model
        self._turn_tokens = turn_tokens
        self._said: list[tuple[str, str]] = []

    async def begin(self, system: str, user: str) -> Reply:
        self._said = [("system", system), ("user", user)]
        return await self._next()

    async def go_on(self, role: str, content: str) -> Reply:
        said = f"<tool_response>\n{content}\n</tool_response>" if role == "tool" else content
        self._said.append(("user", said))
        return await self._next()

    async def _next(self) -> Reply:
        try:
            completion = await self._client.chat.completions.create(
                model=self._model,
                messages=[_message(role, content) for role, content in self._said],
                temperature=_TEMPERATURE,
                max_tokens=self._turn_tokens,
                stop=list(STOP_STRINGS),
            )
        except openai.BadRequestError as error:
            if "context length" in str(error) or "maximum context" in str(error):
                raise ContextFull(str(error)) from error
            raise ModelFault(f"the server refused the request: {error}") from error
        except openai.OpenAIError as error:
            raise ModelFault(f"the server gave no answer: {error}") from error
        text = completion.choices[0].message.content or ""
        self._said.append(("assistant", text))
        return Reply(text, completion.usage.completion_tokens if completion.usage else 0)


def _message(role: str, content: str) -> openai.types.chat.ChatCompletionMessageParam:
    if role == "system":
        return {"role": "system", "content": content}
    if role == "assistant":
        return {"role": "assistant", "content": content}
    return {"role": "user", "content": content}


@asynccontextmanager
async def local_model(
    folder: Path, limits: Limits, *, device: str = "auto", threads: int = 0, dtype: str = "bfloat16"
) -> AsyncIterator[Model]:
    """A model folder in the local engine. Raises InvalidInput where it is none."""
    from services.rollout.policy.engine import (  # noqa: PLC0415 - torch only where it is needed
        EngineConfig,
        PolicyEngine,
    )

    engine = PolicyEngine(
        EngineConfig(
            model=folder,
            dtype=dtype,
            device=device,
            threads=threads,
            max_sequences=limits.places,
            max_sequence_tokens=limits.context_tokens,
        )
    )
    await engine.start()
    try:
        yield EngineModel(engine, f"sha256:{weights_digest(folder)} {dtype}", limits)
    finally:
        await engine.stop()


@asynccontextmanager
async def served_model(base_url: str, name: str, limits: Limits) -> AsyncIterator[Model]:
    """A model on an OpenAI-compatible chat server."""
    if not name:
        raise InvalidInput(
            "say which model the server serves: --served-model", field="served_model"
        )
    model = ChatModel(base_url, name, limits)
    try:
        yield model
    finally:
        await model.close()


def weights_digest(folder: Path) -> str:
    """SHA-256 over a model folder's weights, in hexadecimal."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


Open = Callable[[Limits], AbstractAsyncContextManager[Model]]
"""Opens a model; what `__main__` chooses from its arguments."""


def opener(model: str, base_url: str, name: str, device: str, threads: int) -> Open:
    """The way to the model that the arguments name. Raises InvalidInput."""
    if base_url:
        return lambda limits: served_model(base_url, name, limits)
    folder = resolve_model(model)
    return lambda limits: local_model(folder, limits, device=device, threads=threads)
