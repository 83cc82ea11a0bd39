"""Who speaks in an episode: a reference agent by its script, or a policy by its engine.

Both give turns by the same protocol. A policy's tokens and log-probabilities are carried from the
engine as they are; its sequence lives in the engine from the first turn to the end of the episode,
and is opened again from the stored tokens when the episode resumes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from services.rollout.agents import ScriptedAgent
from services.rollout.episode import EpisodeFault, Utterance
from services.rollout.spec import PolicyAgentSpec
from services.rollout.transcript import Transcript
from synthagent.errors import SynthAgentError
from synthagent.metrics import ServerMetrics
from synthagent.tokens import TokenSegment, TokenSource
from synthagent.worlds.episode import Event, InvalidReason
from synthagent.worlds.protocol import parse

if TYPE_CHECKING:
    from services.rollout.policy.generation import Engine, Generation

_ATTEMPTS = 2
_PAUSE_SECONDS = 0.2


class ReferenceSpeaker:
    """A reference agent; with a transcript, its turns are also written as demonstrations."""

    def __init__(self, script: ScriptedAgent, transcript: Transcript | None = None) -> None:
        self._script = script
        self._transcript = transcript

    async def speak(self, events: Sequence[Event]) -> Utterance | None:
        """The next turn of the script."""
        turn = parse(self._script.next_text(events))
        if self._transcript is None:
            return Utterance(turn)
        read = self._transcript.unread(events)
        said = TokenSegment(TokenSource.POLICY, tuple(self._transcript.chat.render_turn(turn.text)))
        return Utterance(turn, self._transcript.add(read, said))

    async def close(self) -> None:
        """Nothing is held."""


class PolicySpeaker:
    """A policy model in one sequence of the engine."""

    def __init__(
        self,
        engine: Engine,
        transcript: Transcript,
        spec: PolicyAgentSpec,
        *,
        key: str,
        noise_seed: int,
        metrics: ServerMetrics,
    ) -> None:
        self._metrics = metrics
        self._engine = engine
        self._transcript = transcript
        self._spec = spec
        self._key = key
        self._noise_seed = noise_seed
        self._open = False

    async def speak(self, events: Sequence[Event]) -> Utterance | None:
        """Samples the next turn; None where the episode's tokens are used up."""
        read = self._transcript.unread(events)
        left = self._spec.max_episode_tokens - self._transcript.length - len(read.token_ids)
        if left < 1:
            return None
        generation = await self._generate(read, min(left, self._spec.sampling.max_turn_tokens))
        self._metrics.policy_tokens.labels("read").inc(len(read.token_ids))
        self._metrics.policy_tokens.labels("sampled").inc(len(generation.token_ids))
        said = TokenSegment(
            TokenSource.POLICY,
            tuple(generation.token_ids),
            tuple(generation.logprobs),
            generation.policy_version,
        )
        turn = parse(self._transcript.chat.decode(said.token_ids))
        return Utterance(turn, self._transcript.add(read, said))

    async def close(self) -> None:
        """Frees the sequence's cache."""
        if self._open:
            self._open = False
            self._metrics.policy_sequences.dec()
            await self._engine.close_sequence(self._key)

    async def _generate(self, read: TokenSegment, max_tokens: int) -> Generation:
        sampling = self._spec.sampling
        for number in range(1, _ATTEMPTS + 1):
            try:
                append = read.token_ids
                if not self._open:
                    # Prompts are shared by the sequences of a group, so what came since is apart.
                    prompt, *since = *self._transcript.segments, read
                    await self._engine.open_sequence(
                        self._key, prompt.token_ids, noise_seed=self._noise_seed
                    )
                    self._open = True
                    self._metrics.policy_sequences.inc()
                    append = tuple(chain.from_iterable(s.token_ids for s in since))
                return await self._engine.generate(
                    self._key,
                    append,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    max_tokens=max_tokens,
                )
            except (SynthAgentError, RuntimeError) as error:  # torch's errors are RuntimeErrors
                await self.close()
                if number == _ATTEMPTS:
                    raise EpisodeFault(
                        InvalidReason.POLICY_FAULT, f"The policy engine failed: {error}"
                    ) from error
                await asyncio.sleep(_PAUSE_SECONDS)
        raise AssertionError("unreachable")
