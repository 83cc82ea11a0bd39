"""The tokens of an episode: where each run of them came from, and how the policy's were sampled.

Ids and log-probabilities go unchanged from generation to loss; text is never tokenised again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field

from synthagent.worlds.values import Value


class TokenSource(StrEnum):
    """Who a run of tokens came from. Only the policy's carry loss."""

    PROMPT = "prompt"
    POLICY = "policy"
    OBSERVATION = "observation"


@dataclass(frozen=True, slots=True)
class TokenSegment:
    """A run of consecutive tokens from one source.

    `logprobs` (nats, at temperature 1, untruncated) has one value a token where the policy sampled
    them and is empty otherwise. Not a validated value: there are millions of tokens.
    """

    source: TokenSource
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    policy_version: int = 0


class Sampling(Value):
    """How tokens are sampled: temperature 0 is greedy, `top_p` 1 the whole distribution."""

    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    max_turn_tokens: int = Field(ge=1, le=32_768)
