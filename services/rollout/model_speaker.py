"""A chat model that acts in an episode, such as the teacher that attempts its own tasks.

It reads what a policy reads, as chat messages, and its texts are taken for calls, answers and
messages by the same protocol. Every turn is keyed by the episode and its event, so an episode that
resumes, or is played again by another replica, gets the turn that it had. Control tokens of chat
templates in any text are spelled out, as they are for a policy, so that no text ends a turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.rollout.episode import EpisodeFault, Utterance
from services.rollout.prompt import system_text, user_text
from services.rollout.spec import ModelAgentSpec
from synthagent.errors import ModelUnavailable, SynthAgentError, as_detail
from synthagent.llm import LanguageModel, Message
from synthagent.llm.quotation import spelled_out
from synthagent.worlds.episode import AgentTurn, Event, InvalidReason, ToolResult, UserReply
from synthagent.worlds.protocol import ANSWER_CLOSE, CALL_CLOSE, parse
from synthagent.worlds.spec import Task

_ATTEMPTS = 2
_PAUSE_SECONDS = 1.0
_SEEDS = 2**31


class ModelSpeaker:
    """A chat model in one episode."""

    def __init__(
        self,
        model: LanguageModel,
        task: Task,
        spec: ModelAgentSpec,
        *,
        key: str,
        noise_seed: int,
    ) -> None:
        """`key` names the episode; `noise_seed` tells the episodes of a group apart."""
        self._model = model
        self._spec = spec
        self._key = key
        self._noise_seed = noise_seed
        self._opening = (
            Message("system", spelled_out(system_text(task))),
            Message("user", spelled_out(user_text(task))),
        )

    async def speak(self, events: Sequence[Event]) -> Utterance | None:
        """The next turn. Raises EpisodeFault where the model gives none."""
        sequence = len(events)
        for number in range(1, _ATTEMPTS + 1):
            try:
                answer = await self._model.text(
                    [*self._opening, *_conversation(events)],
                    key=f"{self._key}/{sequence}",
                    purpose="attempt",
                    temperature=self._spec.temperature,
                    max_tokens=self._spec.max_turn_tokens or None,
                    seed=(self._noise_seed + sequence) % _SEEDS,
                    stop=(CALL_CLOSE, ANSWER_CLOSE),
                )
            except ModelUnavailable as error:
                if number == _ATTEMPTS:
                    raise EpisodeFault(InvalidReason.POLICY_FAULT, as_detail(error)) from error
                await asyncio.sleep(_PAUSE_SECONDS)
            except SynthAgentError as error:
                raise EpisodeFault(InvalidReason.POLICY_FAULT, as_detail(error)) from error
            else:
                return Utterance(parse(answer.value))
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Nothing is held."""


def _conversation(events: Sequence[Event]) -> list[Message]:
    messages: list[Message] = []
    for event in events:
        body = event.body
        if isinstance(body, AgentTurn):
            messages.append(Message("assistant", spelled_out(body.text)))
        elif isinstance(body, ToolResult):
            observed = f"<tool_response>{spelled_out(body.result)}</tool_response>"
            messages.append(Message("user", observed))
        elif isinstance(body, UserReply):
            messages.append(Message("user", spelled_out(body.text)))
    return messages
