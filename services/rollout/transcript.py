"""The tokens of one episode: the prompt, then the agent's turns and what it reads between them.

Owns the segments in order. They are written together with the turn that follows what was read, so a
resumed episode finds its tokens as they were and never encodes a turn again. What is read but not
yet followed by a turn is a pure function of the last event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from services.rollout.prompt import system_text, user_text
from synthagent.tokens import TokenSegment, TokenSource
from synthagent.worlds.episode import Event, ToolResult, UserReply
from synthagent.worlds.spec import Task


class Chat(Protocol):
    """The chat format of a model; `services.rollout.policy.chat.ChatFormat` is one."""

    def prompt_ids(self, system: str, user: str) -> list[int]:
        """Ids up to where the agent begins to speak."""

    def observation_ids(self, role: str, content: str, *, turn_ended: bool) -> list[int]:
        """Ids between two turns of the agent; `role` is "user" or "tool"."""

    def render_turn(self, text: str) -> list[int]:
        """Ids of a turn of the agent, with the token that ends it."""

    def ends_turn(self, token_ids: Sequence[int]) -> bool:
        """Whether a turn holds the token that ends it."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids, without control tokens."""


class Transcript:
    """Segments of one episode."""

    def __init__(self, chat: Chat, task: Task, segments: Sequence[TokenSegment] = ()) -> None:
        self.chat = chat
        self._task = task
        self._segments = list(segments)

    @property
    def segments(self) -> tuple[TokenSegment, ...]:
        """All segments so far."""
        return tuple(self._segments)

    @property
    def length(self) -> int:
        """Tokens so far, the prompt's included."""
        return sum(len(segment.token_ids) for segment in self._segments)

    def unread(self, events: Sequence[Event]) -> TokenSegment:
        """What the agent reads before its next turn: the prompt, or the last event."""
        if not self._segments:
            ids = self.chat.prompt_ids(system_text(self._task), user_text(self._task))
            return TokenSegment(TokenSource.PROMPT, tuple(ids))
        last = events[-1].body
        if isinstance(last, ToolResult):
            role, content = "tool", last.result
        elif isinstance(last, UserReply):
            role, content = "user", last.text
        else:
            raise TypeError(f"event {events[-1].sequence} is nothing that an agent reads")
        ended = self.chat.ends_turn(self._segments[-1].token_ids)
        ids = self.chat.observation_ids(role, content, turn_ended=ended)
        return TokenSegment(TokenSource.OBSERVATION, tuple(ids))

    def add(self, *segments: TokenSegment) -> tuple[TokenSegment, ...]:
        """Appends segments and returns them."""
        self._segments.extend(segments)
        return segments
