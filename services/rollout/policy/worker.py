"""The thread that owns the model: continuous batching, one forward pass a step.

Commands come in through a queue, results go out through callbacks on the worker's thread. A step
takes every sequence that waits for a token, plus a bounded number of prompt and observation tokens,
so that long prompts delay running turns by a bounded time. Sequences join and leave at any step.

Weights change between turns: from the command on no turn begins, running turns end under the old
weights, then everything cached is forgotten and computed again under the new ones when next needed.
So a turn has one policy version, and its log-probabilities are those of one policy for the whole
context. Weights that do not verify leave the old ones in place.

The thread survives a failed step: the turns in it fail, their sequences go back to where the turn
began.
"""

from __future__ import annotations

import logging
import math
import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from services.rollout.policy.cache import CacheLayout, Prefix, Prefixes, Slots
from services.rollout.policy.chat import ChatFormat
from services.rollout.policy.generation import Generation, PolicyFault
from services.rollout.policy.sampling import Choice, sample, uniform
from services.rollout.policy.transformer import Chunk, DecodeRow, Transformer, rotary_tables
from services.rollout.policy.weights import Architecture, StateFile, build_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineConfig:
    """How the engine runs.

    `model` is a model folder. `dtype` ("float32" or "bfloat16") is that of matrix products, and on
    CUDA of the cache. bfloat16 takes a quarter less time on a CPU, and its log-probabilities differ
    from float32 by 0.02 nats a token on average (float32: 0.00001).

    `device` is "cpu", "cuda" or "auto" (CUDA where there is one); `threads` are those of the CPU,
    0 for all cores. At most `max_sequences` are open, each of at most `max_sequence_tokens` tokens,
    prompt included. `chunk_tokens` bounds the prompt and observation tokens of one step.

    `deterministic` computes each sequence alone and what follows its prompt token by token. Then
    ids and log-probabilities of a turn are, to the last bit, a function of the weights, the tokens
    before it and the noise seed: not of its company, and not of whether the sequence was opened
    anew in between. This holds for one machine, dtype and number of threads.
    """

    model: Path
    dtype: str = "float32"
    device: str = "auto"
    threads: int = 0
    max_sequences: int = 32
    max_sequence_tokens: int = 2048
    chunk_tokens: int = 256
    deterministic: bool = False


@dataclass(eq=False)
class OpenSequence:
    """`own` are the tokens after the prompt; the first `cached` of them have been computed."""

    prefix: Prefix
    slot: int
    noise_seed: int
    own: list[int] = field(default_factory=list)
    cached: int = 0
    turn: Turn | None = None

    @property
    def length(self) -> int:
        """Tokens, prompt included."""
        return self.prefix.length + len(self.own)

    @property
    def pending(self) -> int:
        """Tokens after the prompt that have not been computed."""
        return len(self.own) - self.cached


@dataclass(eq=False)
class Turn:
    """A request for one turn and what has been sampled for it. `done` is called once at most."""

    append: list[int]
    temperature: float
    top_p: float
    max_tokens: int
    done: Callable[[Generation | BaseException], None]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    version: int = 0
    begun: bool = False


@dataclass(frozen=True)
class _Work:
    """What one step computes: rows and chunks with their sequences (None: the prompt itself)."""

    rows: list[DecodeRow]
    decoding: list[OpenSequence]
    chunks: list[Chunk]
    owners: list[OpenSequence | None]


class Worker:
    """Runs the model in its own thread. Every method that does not begin with `_` only posts."""

    def __init__(self, config: EngineConfig, chat: ChatFormat) -> None:
        self._config = config
        self._chat = chat
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="policy-engine", daemon=True)
        self._sequences: dict[str, OpenSequence] = {}
        self._waiting_weights: list[Callable[[], None]] = []
        self._stopping = False
        self.version = 0

    def start(self, ready: Callable[[BaseException | None], None]) -> None:
        """Starts the thread; `ready` hears when the model is loaded, or why not."""
        self._ready = ready
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after its current step and waits for it. Running turns fail."""
        self._commands.put(None)
        self._thread.join()

    def open(self, key: str, token_ids: tuple[int, ...], slot: int, noise_seed: int) -> None:
        """Opens a sequence; its prompt is computed with its first turn, if it has not been."""

        def apply() -> None:
            prefix = self._prefixes.acquire(token_ids)
            self._sequences[key] = OpenSequence(prefix, slot, noise_seed)

        self._commands.put(apply)

    def generate(self, key: str, turn: Turn) -> None:
        """Asks for a turn of an open sequence that has none."""

        def apply() -> None:
            sequence = self._sequences[key]
            sequence.turn = turn
            if not self._waiting_weights:  # a turn asked for before the weights is older than they
                self._begin(sequence, turn)

        self._commands.put(apply)

    def cancel(self, key: str, turn: Turn) -> None:
        """Withdraws a turn; the sequence goes back to where the turn began."""

        def apply() -> None:
            sequence = self._sequences.get(key)
            if sequence is not None and sequence.turn is turn:
                _rewind(sequence, turn)

        self._commands.put(apply)

    def close(self, key: str, closed: Callable[[], None]) -> None:
        """Closes a sequence; `closed` hears when its slot is free."""

        def apply() -> None:
            sequence = self._sequences.pop(key)
            if sequence.turn is not None:
                sequence.turn.done(PolicyFault(f"sequence {key} was closed during its turn"))
            self._prefixes.release(sequence.prefix)
            closed()

        self._commands.put(apply)

    def load(
        self, version: int, path: Path, loaded: Callable[[BaseException | None], None]
    ) -> None:
        """Asks for other weights; `loaded` hears when they are in place, or why not."""
        self._commands.put(
            lambda: self._waiting_weights.append(lambda: self._load(version, path, loaded))
        )

    # The worker's thread.

    def _run(self) -> None:
        with torch.inference_mode():
            try:
                self._set_up()
            except Exception as error:  # noqa: BLE001 - goes to whoever asked for the start
                self._ready(error)
                return
            self._ready(None)
            while self._drain():
                self._step()
        for sequence in self._sequences.values():
            if sequence.turn is not None:
                sequence.turn.done(PolicyFault("the policy engine was stopped"))

    def _set_up(self) -> None:
        config = self._config
        if config.threads:
            torch.set_num_threads(config.threads)
        device = config.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(device)
        self._dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]
        self._architecture = Architecture.read(config.model)
        self._rotary = rotary_tables(config.model, config.max_sequence_tokens, self._device)
        self._build(config.model / "model.safetensors")
        # On CPUs, attention in bfloat16 is no faster and only less exact.
        cache_dtype = torch.float32 if self._device.type == "cpu" else self._dtype
        layout = CacheLayout.of(self._architecture, cache_dtype, self._device)
        self._prefixes = Prefixes(layout)
        self._slots = Slots(layout, config.max_sequences)

    def _build(self, path: Path) -> None:
        state = StateFile(path, self._architecture)
        weights = build_weights(state, self._architecture, self._dtype, self._device)
        self._model = Transformer(self._architecture, weights, self._rotary)

    def _drain(self) -> bool:
        """Applies waiting commands; sleeps while there is nothing to do. False means stop."""
        while True:
            try:
                command = self._commands.get(block=not self._busy())
            except queue.Empty:
                return True
            if command is None:
                return False
            command()

    def _busy(self) -> bool:
        return bool(self._waiting_weights) or any(s.turn for s in self._sequences.values())

    def _load(
        self, version: int, path: Path, loaded: Callable[[BaseException | None], None]
    ) -> None:
        try:
            self._build(path)
        except Exception as error:  # noqa: BLE001 - goes to whoever asked for the weights
            loaded(error)
            return
        self.version = version
        self._prefixes.invalidate()
        self._slots.invalidate()
        for sequence in self._sequences.values():
            sequence.cached = 0
        loaded(None)

    def _step(self) -> None:
        running = [s for s in self._sequences.values() if s.turn is not None and s.turn.begun]
        if self._waiting_weights and not running:
            self._waiting_weights.pop(0)()
            if not self._waiting_weights:
                for sequence in self._sequences.values():
                    if sequence.turn is not None:
                        self._begin(sequence, sequence.turn)
            return
        try:
            self._advance(running)
        except Exception as error:
            # Whatever went wrong in a pass, memory included, must reach the episodes in it as a
            # fault and leave the engine able to serve the next ones.
            logger.exception("a step of the policy engine failed")
            for sequence in running:
                if sequence.turn is not None:
                    _fail(sequence, sequence.turn, f"the policy engine failed: {error}")

    def _begin(self, sequence: OpenSequence, turn: Turn) -> None:
        turn.begun, turn.version = True, self.version
        sequence.own += turn.append

    def _advance(self, running: list[OpenSequence]) -> None:
        """One forward pass, then one token for each sequence whose context is complete."""
        if self._config.deterministic:
            running = running[:1]
        work = self._schedule(running)
        # Sequences that have nothing but their prompt share its final state.
        sampled = [s for s in running if not s.own and s.prefix.complete]
        states = [s.prefix.last_hidden for s in sampled if s.prefix.last_hidden is not None]
        if work.rows or work.chunks:
            self._slots.reserve(max(len(s.own) for s in running))
            hidden = self._model.forward(work.rows, work.chunks, self._slots)
            for place, sequence in enumerate(work.decoding):
                sequence.cached += 1
                if not sequence.pending:
                    sampled.append(sequence)
                    states.append(hidden[place])
            end = len(work.rows)
            for chunk, owner in zip(work.chunks, work.owners, strict=True):
                end += len(chunk.token_ids)
                if owner is None:
                    chunk.prefix.advance(len(chunk.token_ids), hidden[end - 1])
                    continue
                owner.cached += len(chunk.token_ids)
                if not owner.pending:
                    sampled.append(owner)
                    states.append(hidden[end - 1])
        if sampled:
            self._sample(sampled, torch.stack(states))

    def _schedule(self, running: list[OpenSequence]) -> _Work:
        ready = [s for s in running if s.prefix.complete and s.pending]
        most = sys.maxsize if self._config.deterministic else 1
        decoding = sorted((s for s in ready if s.pending <= most), key=lambda s: s.slot)
        rows = [DecodeRow(s.own[s.cached], s.prefix, s.slot, s.cached) for s in decoding]
        work = _Work(rows, decoding, [], [])
        budget = self._config.chunk_tokens
        for sequence in ready:
            if sequence.pending > most and budget > 0:
                ids = sequence.own[sequence.cached : sequence.cached + budget]
                work.chunks.append(Chunk(ids, sequence.prefix, sequence.slot, sequence.cached))
                work.owners.append(sequence)
                budget -= len(ids)
        for prefix in dict.fromkeys(s.prefix for s in running if not s.prefix.complete):
            if budget > 0:
                prompt = prefix.token_ids[prefix.filled : prefix.filled + budget]
                work.chunks.append(Chunk(prompt, prefix, None, prefix.filled))
                work.owners.append(None)
                budget -= len(prompt)
        return work

    def _sample(self, sequences: list[OpenSequence], hidden: torch.Tensor) -> None:
        turns = [(s, s.turn) for s in sequences if s.turn is not None]
        choices = [
            Choice(turn.temperature, turn.top_p, uniform(sequence.noise_seed, sequence.length))
            for sequence, turn in turns
        ]
        tokens, logprobs = sample(self._model.logits(hidden), choices)
        for (sequence, turn), token, logprob in zip(turns, tokens, logprobs, strict=True):
            if math.isfinite(logprob):
                self._accept(sequence, turn, token, logprob)
            else:
                _fail(sequence, turn, "the policy's logits are not finite")

    def _accept(self, sequence: OpenSequence, turn: Turn, token: int, logprob: float) -> None:
        sequence.own.append(token)
        turn.token_ids.append(token)
        turn.logprobs.append(logprob)
        stopped = self._chat.stops(turn.token_ids)
        full = sequence.length >= self._config.max_sequence_tokens
        if stopped or full or len(turn.token_ids) >= turn.max_tokens:
            sequence.turn = None
            reason = "stop" if stopped else "length"
            turn.done(Generation(turn.token_ids, turn.logprobs, turn.version, reason))


def _fail(sequence: OpenSequence, turn: Turn, reason: str) -> None:
    _rewind(sequence, turn)
    turn.done(PolicyFault(reason))


def _rewind(sequence: OpenSequence, turn: Turn) -> None:
    """Takes a turn back. What is cached of it is written over later.

    The last token that stays counts as not computed: the next turn samples from its final state.
    """
    if turn.begun:
        del sequence.own[len(sequence.own) - len(turn.append) - len(turn.token_ids) :]
        sequence.cached = min(sequence.cached, max(len(sequence.own) - 1, 0))
    sequence.turn = None
