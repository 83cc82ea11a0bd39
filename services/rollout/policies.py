"""The policy that acts here: its engine, made on first need, and its published versions.

Owns the engine's life: the local one, or a vLLM server where `policy_base_url` names one. Services
without torch, the model or the server run reference agents all the same: what is missing is told
when a run first asks for a policy. The database says which version is published; the engine is
brought to it before any episode samples.

Loading goes on where the caller has left, its deadline over: half of it would leave an engine
without an owner, or one that samples with weights that the database does not know.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from services.rollout.policy.chat import ChatFormat
from services.rollout.policy.generation import Engine
from services.rollout.policy.remote import RemotePolicyEngine, ServerConfig
from services.rollout.policy.server_weights import PublishedWeights
from services.rollout.spec import DEFAULT_POLICY
from services.rollout.transcript import Chat
from synthagent.errors import Corrupt, NotFound, PreconditionFailed
from synthagent.metrics import ServerMetrics
from synthagent.models import resolve_model
from synthagent.settings import Settings
from synthagent.store import Store, runs
from synthagent.store.runs import StoredPolicy

_log = structlog.get_logger()

_T = TypeVar("_T")


class Policies:
    """The engine and its versions."""

    def __init__(self, store: Store, settings: Settings, metrics: ServerMetrics) -> None:
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._engine: Engine | None = None
        self._chat: Chat | None = None
        self._loaded: StoredPolicy | None = None
        """The version that was loaded last, which is not stored yet where that failed."""
        self._turn = asyncio.Lock()  # one load or publication at a time
        self._running: set[asyncio.Task[object]] = set()

    async def published_version(self) -> int:
        """The version that samples for new turns; 0 is the initial policy."""
        latest = await self._store.read(lambda c: runs.latest_policy(c, DEFAULT_POLICY))
        return latest.version if latest else 0

    async def demonstration_chat(self) -> Chat | None:
        """The model's chat format for the turns of reference agents; None where not asked for.

        Raises PreconditionFailed where the model's tokenizer is missing.
        """
        if not self._settings.tokenize_reference_agents:
            return None
        async with self._turn:
            if self._chat is None:
                self._chat = await asyncio.to_thread(_load_chat, self._settings)
            return self._chat

    async def engine(self) -> Engine:
        """The engine with the latest published version, made on first need.

        Raises PreconditionFailed where torch or the model is missing or the server is not one for
        policies; ModelUnavailable where the server is away; NotFound or Corrupt where the published
        weights are gone or damaged.
        """
        return await self._to_its_end(self._current_engine())

    async def _current_engine(self) -> Engine:
        async with self._turn:
            engine = await self._started()
            latest = await self._store.read(lambda c: runs.latest_policy(c, DEFAULT_POLICY))
            if latest and latest.version > engine.version:
                await self._load(engine, latest)
            return engine

    async def publish(self, policy: StoredPolicy) -> int:
        """Checks, loads and stores a version; returns the version that samples now.

        Raises NotFound (policy, file), Corrupt (checksum, tensors) and PreconditionFailed (older
        than the current version, or the same with other weights), and as `engine`.
        """
        if policy.policy != DEFAULT_POLICY:
            raise unknown_policy(policy.policy)
        return await self._to_its_end(self._publish(policy))

    async def _publish(self, policy: StoredPolicy) -> int:
        async with self._turn:
            latest = await self._store.read(lambda c: runs.latest_policy(c, DEFAULT_POLICY))
            if latest and policy.version <= latest.version:
                return await self._published_before(policy, latest)
            engine = await self._started()
            await self._load(engine, policy)
            await self._store.write(lambda c: runs.create_policy(c, policy))
            return policy.version

    async def close(self) -> None:
        """Ends what runs, and stops the engine."""
        for task in self._running:
            task.cancel()
        async with self._turn:
            if self._engine is not None:
                await self._engine.stop()
                self._engine = self._loaded = None

    async def _to_its_end(self, work: Coroutine[object, object, _T]) -> _T:
        """What `work` gives; it goes on where the caller is cancelled."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _published_before(self, policy: StoredPolicy, latest: StoredPolicy) -> int:
        earlier = await self._store.read(
            lambda c: runs.policy_version(c, policy.policy, policy.version)
        )
        if earlier and earlier.weights_sha256 == policy.weights_sha256.lower():
            return latest.version
        raise PreconditionFailed(
            f"Version {policy.version} of policy {policy.policy!r} is not above the current "
            f"{latest.version}; publish a later one.",
            field="policy_version",
        )

    async def _started(self) -> Engine:
        if self._engine is None:
            url = self._settings.policy_base_url
            make = partial(self._remote, url) if url else self._local
            engine = await asyncio.to_thread(make)  # loading torch alone takes seconds
            await engine.start()
            self._engine = engine
        return self._engine

    def _local(self) -> Engine:
        try:
            from services.rollout.policy.engine import (  # noqa: PLC0415 - torch only on need
                EngineConfig,
                PolicyEngine,
            )
        except ImportError as error:
            raise _missing(error) from error
        settings = self._settings
        config = EngineConfig(
            model=resolve_model(settings.policy_model, settings.model_cache),
            device=settings.policy_device,
            threads=settings.policy_threads or 0,
            max_sequences=settings.policy_max_sequences,
            max_sequence_tokens=settings.policy_max_sequence_tokens,
            deterministic=settings.policy_deterministic,
        )
        if settings.policy_dtype != "auto":
            config = replace(config, dtype=settings.policy_dtype)
        return PolicyEngine(config)

    def _remote(self, url: str) -> Engine:
        settings = self._settings
        config = ServerConfig(
            base_url=url,
            served_model=settings.policy_served_model,
            model=resolve_model(settings.policy_model, settings.model_cache),
            max_sequences=settings.policy_max_sequences,
            max_sequence_tokens=settings.policy_max_sequence_tokens,
            cache=settings.model_cache,
        )
        return RemotePolicyEngine(config, self._published_weights)

    async def _published_weights(self) -> PublishedWeights | None:
        latest = await self._store.read(lambda c: runs.latest_policy(c, DEFAULT_POLICY))
        return PublishedWeights(latest.version, Path(latest.weights_path)) if latest else None

    async def _load(self, engine: Engine, policy: StoredPolicy) -> None:
        if policy == self._loaded:
            return
        path = Path(policy.weights_path)
        found = await asyncio.to_thread(_sha256, path)
        if found != policy.weights_sha256.lower():
            raise Corrupt(
                f"The weights {path} have SHA-256 {found}, not {policy.weights_sha256}; "
                "write them anew and publish again."
            )
        begun = time.perf_counter()
        way = await engine.load_weights(policy.version, path)
        self._loaded = policy
        seconds = time.perf_counter() - begun
        self._metrics.policy_load_seconds.labels(way.value).observe(seconds)
        self._metrics.policy_version.labels(policy.policy).set(policy.version)
        _log.info("policy.loaded", version=policy.version, way=way.value, seconds=seconds)


def _load_chat(settings: Settings) -> Chat:
    return ChatFormat.load(resolve_model(settings.policy_model, settings.model_cache))


def _missing(error: ImportError) -> PreconditionFailed:
    return PreconditionFailed(
        f"The policy needs the package {error.name!r}; install synthagent[policy]."
    )


def unknown_policy(name: str) -> NotFound:
    """The error for a policy that no engine here runs."""
    return NotFound(
        f"There is no policy {name!r}; this service samples with {DEFAULT_POLICY!r}.",
        field="policy",
    )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise NotFound(
            f"The weights {path} cannot be read ({error.strerror}); give a path that the rollout "
            "service can read.",
            field="weights_path",
        ) from error
