"""The policy engine on a vLLM server: `engine.py`'s interface, with the model in another process.

Tokens go out and come in; a sequence is its token ids, kept here, and the server's prefix cache
spares it from reading them again. No torch is needed.

Lifecycle: start once, stop once. The server may come and go in between: a turn waits for it for
`patience_seconds`, then fails as ModelUnavailable.

Invariants: a turn is sampled by one policy version, and by the weights that were published under
it; a turn of any others never gets out (see server_weights.py). The noise of a turn is a function
of the noise seed and its position; the same turn asked again gives the same tokens, up to the
server's rounding.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import stamina

from services.rollout.policy.chat import STOP_STRINGS, ChatFormat
from services.rollout.policy.generation import Generation, PolicyFault
from services.rollout.policy.server_weights import PublishedWeights, ServedPolicy
from services.rollout.policy.vllm import SampledTurn, TurnRequest, VllmServer
from synthagent.errors import (
    InvalidInput,
    LimitExceeded,
    ModelUnavailable,
    PreconditionFailed,
)
from synthagent.model_server.ways import Way


@dataclass(frozen=True)
class ServerConfig:
    """Which server acts, and for which model.

    `model` is the folder of the model's tokenizer and initial weights; it, the model cache and the
    published files must be visible to the server under the same paths. At most `max_sequences` are
    open, each of at most `max_sequence_tokens` tokens, prompt included. A turn may take
    `turn_seconds`; `patience_seconds` is how long it waits for a server that is away.
    """

    base_url: str
    served_model: str
    model: Path
    max_sequences: int = 32
    max_sequence_tokens: int = 2048
    turn_seconds: float = 300.0
    patience_seconds: float = 120.0
    cache: Path | None = None


@dataclass(eq=False)
class _Sequence:
    noise_seed: int
    token_ids: list[int]
    turn: asyncio.Task[Generation] | None = None
    cut: str = ""
    """Why its turn was ended from outside."""


class RemotePolicyEngine:
    """A language model on a vLLM server that acts in many episodes at once."""

    def __init__(
        self,
        config: ServerConfig,
        published: Callable[[], Awaitable[PublishedWeights | None]],
    ) -> None:
        """`published` tells the latest published weights; None: those of the model folder."""
        self.config = config
        self.chat = ChatFormat.load(config.model)
        self._server = VllmServer(
            config.base_url, config.served_model, turn_seconds=config.turn_seconds
        )
        self._policy = ServedPolicy(self._server, config.model, config.cache, published)
        self._places = asyncio.Semaphore(config.max_sequences)
        self._sequences: dict[str, _Sequence] = {}
        self._waiting: set[str] = set()
        self._started = False

    @property
    def version(self) -> int:
        """Version of the weights that sample now; 0 for those of the model folder."""
        return self._policy.version

    async def start(self) -> None:
        """Brings the server to the published weights.

        Raises ModelUnavailable where it cannot be reached, PreconditionFailed where it serves
        another model, shorter sequences, or otherwise than a policy needs.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._server.close)
            await self._check_server()
            await self._policy.ready()
            stack.pop_all()
        self._started = True

    async def _check_server(self) -> None:
        serving = await self._server.serving()
        config = self.config
        if serving.max_model_len < config.max_sequence_tokens:
            raise PreconditionFailed(
                f"The model server takes {serving.max_model_len} tokens, and a policy's sequence "
                f"has up to {config.max_sequence_tokens}; start it with a --max-model-len of that, "
                "or lower SYNTHAGENT_POLICY_MAX_SEQUENCE_TOKENS."
            )
        if serving.logprobs_mode != "raw_logprobs":
            raise PreconditionFailed(
                f"The model server gives {serving.logprobs_mode}; a policy needs log-probabilities "
                "at temperature 1 without truncation: start it with --logprobs-mode raw_logprobs."
            )
        if serving.device == "cpu" and not await asyncio.to_thread(_is_untied, serving.root):
            raise PreconditionFailed(
                f"The model server runs {serving.root} on a CPU, where vLLM does not reload an "
                "output head that is tied to the embedding, and that folder's config.json cannot "
                "be read here or does not untie them; start it with `make model-server`, which "
                "does."
            )

    async def stop(self) -> None:
        """Ends running turns, which raise PolicyFault, and the connections."""
        for sequence in self._sequences.values():
            _cut(sequence, "the policy engine was stopped")
        await asyncio.sleep(0)
        await self._server.close()

    async def open_sequence(self, key: str, token_ids: Sequence[int], *, noise_seed: int) -> None:
        """Opens a sequence with its prompt; waits while max_sequences are open.

        Raises InvalidInput (key in use, no tokens, unknown token id), LimitExceeded (longer than
        max_sequence_tokens).
        """
        self._check_ids(token_ids)
        if not token_ids:
            raise InvalidInput(f"sequence {key} needs at least one token")
        if len(token_ids) >= self.config.max_sequence_tokens:
            raise LimitExceeded(
                f"a prompt of {len(token_ids)} tokens leaves no room in a sequence of "
                f"{self.config.max_sequence_tokens}; shorten it or raise max_sequence_tokens"
            )
        if key in self._sequences or key in self._waiting:
            raise InvalidInput(f"sequence {key} is open already")
        self._waiting.add(key)
        try:
            await self._places.acquire()
        finally:
            self._waiting.discard(key)
        self._sequences[key] = _Sequence(noise_seed, list(token_ids))

    async def generate(
        self,
        key: str,
        append: Sequence[int],
        *,
        temperature: float,
        top_p: float,
        max_tokens: int,
    ) -> Generation:
        """Appends observation tokens, then samples a turn; as `PolicyEngine.generate`.

        Raises also ModelUnavailable, where the server stays away, and PreconditionFailed, where it
        came back as one that no policy can use.
        """
        self._check_ids(append)
        sequence = self._sequences.get(key)
        if sequence is None:
            raise InvalidInput(f"sequence {key} is not open")
        if sequence.turn is not None:
            raise PreconditionFailed(f"sequence {key} is in the middle of a turn")
        if not (0 <= temperature <= 2 and 0 < top_p <= 1 and max_tokens >= 1):
            raise InvalidInput(
                "sampling needs temperature in [0, 2], top_p in (0, 1] and max_tokens of at "
                f"least 1, not {temperature}, {top_p} and {max_tokens}"
            )
        read = [*sequence.token_ids, *append]
        room = self.config.max_sequence_tokens - len(read)
        if room < 1:
            raise LimitExceeded(
                f"sequence {key} is full: {len(sequence.token_ids)} tokens and {len(append)} more "
                f"leave no room in {self.config.max_sequence_tokens}"
            )
        request = TurnRequest(
            token_ids=read,
            temperature=temperature,
            top_p=top_p,
            max_tokens=min(max_tokens, room),
            seed=_seed(sequence.noise_seed, len(read)),
            stop_token_ids=sorted(self.chat.stop_token_ids),
            stop_strings=list(STOP_STRINGS),
        )
        sequence.turn = asyncio.create_task(self._turn(request), name=f"turn of {key}")
        try:
            generation = await sequence.turn
        except asyncio.CancelledError:
            if sequence.cut:
                raise PolicyFault(sequence.cut) from None
            raise
        finally:
            sequence.turn = None
        sequence.token_ids = read + generation.token_ids
        return generation

    async def close_sequence(self, key: str) -> None:
        """Closes a sequence and frees its place. A running turn raises PolicyFault. Idempotent."""
        sequence = self._sequences.pop(key, None)
        if sequence is None:
            return
        _cut(sequence, f"sequence {key} was closed during its turn")
        self._places.release()

    async def load_weights(self, version: int, path: Path) -> Way:
        """Puts other weights in place: a safetensors file of a whole model, or of an adapter.

        Turns that run end under the old weights; open sequences go on under the new ones. Returns
        when these are in place. Raises InvalidInput (version not above the current one), NotFound
        (no file), Corrupt (unreadable, or names, shapes or values that do not fit),
        ModelUnavailable, PreconditionFailed (the server cannot take them in that way); then the old
        weights go on.
        """
        if version <= self.version:
            raise InvalidInput(
                f"version {version} is not above the current one, {self.version}", field="version"
            )
        return await self._policy.load(version, path)

    # One turn.

    async def _turn(self, request: TurnRequest) -> Generation:
        async for attempt in stamina.retry_context(
            on=ModelUnavailable,
            attempts=None,
            timeout=self.config.patience_seconds,
            wait_initial=0.2,
            wait_max=5.0,
        ):
            with attempt:
                return await self._attempt(request)
        raise AssertionError("unreachable")

    async def _attempt(self, request: TurnRequest) -> Generation:
        if not self._started:
            raise PolicyFault("the policy engine has not been started")
        weights = await self._policy.ready()
        asked = replace(request, salt=weights.label, adapter=weights.adapter)
        try:
            sampled = await self._server.sample(asked)
        except ModelUnavailable:
            self._policy.doubt()  # who comes back may be another
            raise
        if sampled.aborted or not sampled.labels <= weights.labels:
            self._policy.doubt()
            found = ", ".join(sorted(sampled.labels))
            raise ModelUnavailable(
                f"The model server sampled a turn with weights {found!r} instead of "
                f"{weights.label!r}; the turn is dropped."
            )
        return self._cut_at_stop(sampled, weights.version)

    def _cut_at_stop(self, sampled: SampledTurn, version: int) -> Generation:
        """The turn up to where the local engine would have ended it."""
        ids = sampled.token_ids
        if not ids:
            raise PolicyFault("the model server sampled no token")
        self._check_ids(ids)
        for end in range(1, len(ids) + 1):
            if self.chat.stops(ids[:end]):
                return Generation(ids[:end], sampled.logprobs[:end], version, "stop")
        return Generation(ids, sampled.logprobs, version, "length")

    def _check_ids(self, token_ids: Sequence[int]) -> None:
        vocabulary = self.chat.vocabulary
        for token_id in token_ids:
            if not 0 <= token_id < vocabulary:
                raise InvalidInput(f"token id {token_id} is not below {vocabulary}")


def _cut(sequence: _Sequence, reason: str) -> None:
    if sequence.turn is not None:
        sequence.cut = reason
        sequence.turn.cancel()


def _seed(noise_seed: int, position: int) -> int:
    """Seed of the turn that begins at a position of its sequence: 63 bits, the same anywhere."""
    noise = noise_seed.to_bytes(16, "little", signed=True) + struct.pack("<Q", position)
    return int.from_bytes(hashlib.blake2b(noise, digest_size=8).digest(), "little") >> 1


def _is_untied(folder: Path) -> bool:
    """Whether a model folder's output head is its own."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return not config.get("tie_word_embeddings", False)
