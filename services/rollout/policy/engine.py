"""The policy engine: sequences of token ids in, sampled turns with log-probabilities out.

    engine = PolicyEngine(EngineConfig(model=resolve_model()))
    await engine.start()
    await engine.open_sequence("e1", engine.chat.prompt_ids(system, user), noise_seed=7)
    turn = await engine.generate("e1", (), temperature=1.0, top_p=1.0, max_tokens=64)
    ended = engine.chat.ends_turn(turn.token_ids)
    seen = engine.chat.observation_ids("tool", "{}", turn_ended=ended)
    turn = await engine.generate("e1", seen, temperature=1.0, top_p=1.0, max_tokens=64)
    await engine.close_sequence("e1")

Lifecycle: start once, stop once. A sequence keeps its keys and values from turn to turn; only what
is appended is read. To resume an episode after a crash, open it with the same prompt and noise seed
and pass everything since as the first `append`: positions, and so the noise, are the same.

Invariants: what a sequence samples depends on its tokens, its noise seed and the weights, not on
its company in the batch (see sampling.py for the rounding that remains). A turn has one policy
version. Memory is bounded by max_sequences x max_sequence_tokens; `open_sequence` waits for a free
place. All methods belong to the event loop that called `start`; the model runs in its own thread.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence
from pathlib import Path

from services.rollout.policy.chat import ChatFormat
from services.rollout.policy.generation import Generation, PolicyFault
from services.rollout.policy.worker import EngineConfig, Turn, Worker
from synthagent.errors import InvalidInput, LimitExceeded, PreconditionFailed
from synthagent.model_server.adapter import is_adapter
from synthagent.model_server.ways import Way

__all__ = ["EngineConfig", "Generation", "PolicyEngine", "PolicyFault"]


class PolicyEngine:
    """A language model that acts in many episodes at once."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.chat = ChatFormat.load(config.model)
        self._worker = Worker(config, self.chat)
        self._places = asyncio.Semaphore(config.max_sequences)
        self._free = list(range(config.max_sequences))
        self._lengths: dict[str, int] = {}
        self._slots: dict[str, int] = {}
        self._generating: set[str] = set()

    @property
    def version(self) -> int:
        """Version of the weights that sample now; 0 for those of the model folder."""
        return self._worker.version

    async def start(self) -> None:
        """Loads the model. Raises InvalidInput or Corrupt where the folder does not fit."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        self._worker.start(_resolver(loop, ready))
        await ready

    async def stop(self) -> None:
        """Ends after the current step; running turns raise PolicyFault."""
        await asyncio.to_thread(self._worker.stop)

    async def open_sequence(self, key: str, token_ids: Sequence[int], *, noise_seed: int) -> None:
        """Opens a sequence with its prompt; waits while max_sequences are open.

        Returns at once otherwise: the prompt is computed with the first turn, once for all
        sequences that have the same. Raises InvalidInput (key in use, no tokens, unknown token id),
        LimitExceeded (longer than max_sequence_tokens).
        """
        self._check_ids(token_ids)
        if not token_ids:
            raise InvalidInput(f"sequence {key} needs at least one token")
        if len(token_ids) >= self.config.max_sequence_tokens:
            raise LimitExceeded(
                f"a prompt of {len(token_ids)} tokens leaves no room in a sequence of "
                f"{self.config.max_sequence_tokens}; shorten it or raise max_sequence_tokens"
            )
        if key in self._lengths:
            raise InvalidInput(f"sequence {key} is open already")
        self._lengths[key] = len(token_ids)
        try:
            await self._places.acquire()
        except asyncio.CancelledError:
            del self._lengths[key]
            raise
        slot = self._slots[key] = heapq.heappop(self._free)
        self._worker.open(key, tuple(token_ids), slot, noise_seed)

    async def generate(
        self,
        key: str,
        append: Sequence[int],
        *,
        temperature: float,
        top_p: float,
        max_tokens: int,
    ) -> Generation:
        """Appends observation tokens, then samples a turn.

        The turn ends with "stop" after an end-of-turn token (part of the turn), a closed tool call
        or a closed answer, and with "length" at max_tokens or where the sequence is full.
        `temperature` 0 is greedy; `top_p` in (0, 1]. Raises InvalidInput (values, unknown token
        id, sequence not open), PreconditionFailed (the sequence is in a turn), LimitExceeded
        (`append` leaves no room), PolicyFault (the engine failed). After an error or a
        cancellation the sequence is as it was before the call.
        """
        self._check_ids(append)
        if key not in self._slots:
            raise InvalidInput(f"sequence {key} is not open")
        if key in self._generating:
            raise PreconditionFailed(f"sequence {key} is in the middle of a turn")
        if not (0 <= temperature <= 2 and 0 < top_p <= 1 and max_tokens >= 1):
            raise InvalidInput(
                "sampling needs temperature in [0, 2], top_p in (0, 1] and max_tokens of at "
                f"least 1, not {temperature}, {top_p} and {max_tokens}"
            )
        if self._lengths[key] + len(append) >= self.config.max_sequence_tokens:
            raise LimitExceeded(
                f"sequence {key} is full: {self._lengths[key]} tokens and {len(append)} more "
                f"leave no room in {self.config.max_sequence_tokens}"
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Generation] = loop.create_future()
        turn = Turn(list(append), temperature, top_p, max_tokens, _settler(loop, future))
        self._generating.add(key)
        self._worker.generate(key, turn)
        try:
            generation = await future
        except asyncio.CancelledError:
            self._worker.cancel(key, turn)
            raise
        finally:
            self._generating.discard(key)
        self._lengths[key] += len(append) + len(generation.token_ids)
        return generation

    async def close_sequence(self, key: str) -> None:
        """Closes a sequence and frees its place. A running turn raises PolicyFault. Idempotent."""
        slot = self._slots.pop(key, None)
        if slot is None:
            return
        loop = asyncio.get_running_loop()
        closed: asyncio.Future[None] = loop.create_future()
        resolve = _resolver(loop, closed)
        self._worker.close(key, lambda: resolve(None))
        try:
            await asyncio.shield(closed)
        finally:
            # The worker takes commands in order, so whoever gets the slot next comes after.
            heapq.heappush(self._free, slot)
            del self._lengths[key]
            self._places.release()

    async def load_weights(self, version: int, path: Path) -> Way:
        """Puts other weights in place: a safetensors file with the model's full state dict.

        Running turns end under the old weights; open sequences go on under the new ones. Returns
        when these are in place. Raises InvalidInput (version not above the current one), NotFound
        (no file), Corrupt (unreadable, or names, shapes or values that do not fit),
        PreconditionFailed (an adapter); then the old weights stay.
        """
        if is_adapter(path):
            raise PreconditionFailed(
                "The local policy engine takes whole models, not adapters; set lora.publish = "
                '"merged" in the trainer\'s configuration, or use a vLLM server.'
            )
        if version <= self.version:
            raise InvalidInput(
                f"version {version} is not above the current one, {self.version}", field="version"
            )
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[None] = loop.create_future()
        self._worker.load(version, path, _resolver(loop, loaded))
        await loaded
        return Way.LOCAL

    def _check_ids(self, token_ids: Sequence[int]) -> None:
        vocabulary = self.chat.vocabulary
        for token_id in token_ids:
            if not 0 <= token_id < vocabulary:
                raise InvalidInput(f"token id {token_id} is not below {vocabulary}")


def _resolver(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]
) -> Callable[[BaseException | None], None]:
    """A callback for the worker's thread that settles a future of the loop."""

    def settle(error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    return lambda error: _post(loop, lambda: settle(error))


def _settler(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Generation]
) -> Callable[[Generation | BaseException], None]:
    """As `_resolver`, for a turn."""

    def settle(outcome: Generation | BaseException) -> None:
        if future.done():
            return
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    return lambda outcome: _post(loop, lambda: settle(outcome))


def _post(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():  # at shutdown nobody is left to hear it
        loop.call_soon_threadsafe(callback)
