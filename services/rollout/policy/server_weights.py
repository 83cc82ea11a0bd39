"""Which weights a vLLM server must sample with, and that it does: one policy version a turn.

The server labels its weights with version and digest, and says with every turn which label sampled
its tokens. An adapter's label is part of its name on the server: a turn that asks for it is sampled
by it or refused. So a server that was restarted, and has the weights that it was started with, is
found out before a turn of it counts, and gets the published weights. Which those are is asked of
`published`, so that several rollout services can share one server.

`ready` and `load` exclude each other; between them `doubt` makes the next turn ask first.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from services.rollout.policy.published import check_adapter, check_weights
from services.rollout.policy.transfer import Transfer, read_transfer
from services.rollout.policy.vllm import INITIAL_LABEL, VllmServer
from synthagent.errors import ModelUnavailable, PreconditionFailed
from synthagent.model_server.folder import lay_out
from synthagent.model_server.ways import Way, way_of

logger = logging.getLogger(__name__)

_ADAPTER = "adapter-"
"""Begins the names of the adapters that are ours."""


@dataclass(frozen=True)
class PublishedWeights:
    """A published version and its safetensors file: a whole model's, or an adapter's."""

    version: int
    path: Path


@dataclass(frozen=True)
class ServerWeights:
    """Weights that the server can be told to load.

    `label` is version and digest; `folder` a model's or an adapter's; `labels` are the server's for
    the model that samples: of these weights, or of what the adapter is added to.
    """

    version: int
    label: str
    folder: Path
    labels: frozenset[str]
    adapter: str = ""
    """Name of the adapter on the server; empty: they are a whole model's."""


class ServedPolicy:
    """The weights of one server, as one rollout service sees to them."""

    def __init__(
        self,
        server: VllmServer,
        model: Path,
        cache: Path | None,
        published: Callable[[], Awaitable[PublishedWeights | None]],
    ) -> None:
        """`model` is the folder of the initial weights; `published` tells the latest published."""
        self._server = server
        self._model = model
        self._cache = cache
        self._published = published
        self._switching = asyncio.Lock()
        self._weights: ServerWeights | None = None
        self._confirmed = False

    @property
    def version(self) -> int:
        """Version of the weights that sample now; 0 for those of the model folder."""
        return self._weights.version if self._weights else 0

    def doubt(self) -> None:
        """Has the next turn ask first what the server samples with."""
        self._confirmed = False

    async def ready(self) -> ServerWeights:
        """Makes sure that the server samples with the published weights; returns these."""
        if self._confirmed and self._weights is not None:
            return self._weights
        async with self._switching:
            if self._confirmed and self._weights is not None:
                return self._weights
            wanted = await self._wanted()
            label = await self._server.label()
            if self._weights is not None and _version(label) > wanted.version:
                raise ModelUnavailable(
                    f"The model server samples with weights {label!r}, which are not published yet."
                )
            await self._bring(wanted, label)
            await self._settle(wanted)
            return wanted

    async def load(self, version: int, path: Path) -> Way:
        """Brings the server to other weights, checked whole before; then these sample."""
        weights, transfer = await asyncio.to_thread(self._prepare, PublishedWeights(version, path))
        if transfer is not None:
            await self._check_workers(transfer)
        async with self._switching:
            self._confirmed = False  # no turn begins until this is decided
            await self._bring(weights, await self._server.label(), transfer)
            await self._settle(weights)
        return way_of(path)

    async def _bring(
        self, weights: ServerWeights, label: str, transfer: Transfer | None = None
    ) -> None:
        """From `label` to these weights, as far as another service has not done it before."""
        if label not in weights.labels:
            begun = time.perf_counter()
            if weights.adapter:
                base = self._base()
                await self._server.replace_weights(base.folder, base.label)
            else:
                await self._server.replace_weights(weights.folder, weights.label, transfer)
            logger.info(
                "the model server had weights %r and has %r after %.2f s",
                label,
                weights.label,
                time.perf_counter() - begun,
            )
        elif await self._server.paused():  # whoever held turns back is gone
            await self._server.resume()
        if weights.adapter:
            await self._bring_adapter(weights)

    async def _bring_adapter(self, weights: ServerWeights) -> None:
        """Has the server know the adapter, and forget older ones of ours."""
        known = await self._server.adapters()
        if weights.adapter not in known:
            await self._server.load_adapter(weights.adapter, weights.folder)
        for name in known:
            if (
                name.startswith(_ADAPTER)
                and _version(name.removeprefix(_ADAPTER)) < weights.version
            ):
                await self._server.unload_adapter(name)

    async def _check_workers(self, transfer: Transfer) -> None:
        workers = await self._server.workers()
        if transfer.world_size != workers + 1:
            raise PreconditionFailed(
                f"The trainer sends weights to {transfer.world_size - 1} GPUs and the model server "
                f"has {workers}; set rollout.transfer_ranks in the trainer's configuration to that."
            )

    async def _settle(self, weights: ServerWeights) -> None:
        """The server samples with these weights; forgets the folder laid out for earlier ones."""
        earlier, self._weights, self._confirmed = self._weights, weights, True
        made = earlier and earlier.version and not earlier.adapter
        if earlier and made and earlier.folder != weights.folder:
            await asyncio.to_thread(shutil.rmtree, earlier.folder, ignore_errors=True)

    async def _wanted(self) -> ServerWeights:
        """The weights that must sample: the published ones, or newer ones that were loaded here."""
        published = await self._published()
        version = published.version if published else 0
        if self._weights is not None and self._weights.version >= version:
            return self._weights
        if published is None:
            return await asyncio.to_thread(self._base)
        weights, _ = await asyncio.to_thread(self._prepare, published)
        return weights

    def _base(self) -> ServerWeights:
        """The weights of the model folder, which a server has that was just started."""
        folder = lay_out(self._model, cache=self._cache)
        label = f"0-{folder.name}"
        return ServerWeights(0, label, folder, frozenset({label, INITIAL_LABEL}))

    def _prepare(self, published: PublishedWeights) -> tuple[ServerWeights, Transfer | None]:
        """Checks published weights, and says how the trainer sends them, where it does."""
        path, version, way = published.path, published.version, way_of(published.path)
        if way is Way.ADAPTER:
            check_adapter(path, self._model)
        else:
            check_weights(path, self._model)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        label = f"{version}-{digest[:16]}"
        if way is Way.ADAPTER:
            labels = self._base().labels
            return ServerWeights(version, label, path.parent, labels, _ADAPTER + label), None
        transfer = read_transfer(path, digest) if way is Way.TRANSFER else None
        folder = lay_out(self._model, path, self._cache)
        return ServerWeights(version, label, folder, frozenset({label})), transfer


def _version(label: str) -> int:
    """Policy version of a label; -1 for one that is none of ours."""
    version = label.partition("-")[0]
    return int(version) if version.isdecimal() else -1
