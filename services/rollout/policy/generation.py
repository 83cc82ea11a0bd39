"""What every policy engine gives, wherever its model runs. Imports no model library.

`engine.py` runs the model in this process, `remote.py` asks a vLLM server; the rest of the rollout
service knows only `Engine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.rollout.policy.chat import ChatFormat
from synthagent.model_server.ways import Way


class PolicyFault(RuntimeError):
    """The engine failed, not the policy: what it was doing carries no reward."""


@dataclass(frozen=True)
class Generation:
    """One turn. Log-probabilities: temperature 1, no truncation, nats; one per token."""

    token_ids: list[int]
    logprobs: list[float]
    policy_version: int
    finish_reason: str


class Limits(Protocol):
    """Bounds of an engine."""

    @property
    def max_sequence_tokens(self) -> int:
        """Most tokens of a sequence, prompt included."""


class Engine(Protocol):
    """A language model that acts in many episodes at once; `engine.py` defines each method."""

    @property
    def chat(self) -> ChatFormat:
        """The model's chat format."""

    @property
    def config(self) -> Limits:
        """What bounds the engine."""

    @property
    def version(self) -> int:
        """Version of the weights that sample now; 0 for those of the model folder."""

    async def start(self) -> None:
        """Makes the engine ready."""

    async def stop(self) -> None:
        """Ends it; running turns raise PolicyFault."""

    async def open_sequence(self, key: str, token_ids: Sequence[int], *, noise_seed: int) -> None:
        """Opens a sequence with its prompt."""

    async def generate(
        self,
        key: str,
        append: Sequence[int],
        *,
        temperature: float,
        top_p: float,
        max_tokens: int,
    ) -> Generation:
        """Appends observation tokens, then samples a turn."""

    async def close_sequence(self, key: str) -> None:
        """Closes a sequence. Idempotent."""

    async def load_weights(self, version: int, path: Path) -> Way:
        """Puts other weights in place; returns how they came there."""
