"""The parts of an episode with a span around each of their acts.

Wrappers around an `Agent` and `Counterparts`: they decide nothing, and an episode is the same
without them. What each span is called: `synthagent/tracing.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry import trace

from services.rollout.episode import Agent, Counterparts, Utterance
from synthagent import tracing
from synthagent.tokens import TokenSource
from synthagent.worlds.episode import AgentTurn, Event, ToolResult, UserReply, Verdict

_EVALUATION = "rubric"
_PROVIDER = "synthagent"  # scripts and policies; a role's model has a span of its own within
_NAME_LENGTH = 64


class TracedAgent:
    """An agent whose turns are `chat` spans with the tokens that it read and wrote."""

    def __init__(self, agent: Agent, name: str) -> None:
        self._agent = agent
        self._name = name

    async def speak(self, events: Sequence[Event]) -> Utterance | None:
        """The agent's next output."""
        attributes = {
            tracing.OPERATION: "chat",
            tracing.PROVIDER: _PROVIDER,
            tracing.MODEL: self._name,
        }
        with tracing.span(f"chat {self._name}", attributes) as span:
            utterance = await self._agent.speak(events)
            for segment in utterance.segments if utterance else ():
                wrote = segment.source is TokenSource.POLICY
                name = tracing.OUTPUT_TOKENS if wrote else tracing.INPUT_TOKENS
                span.set_attribute(name, len(segment.token_ids))
                if wrote:
                    span.set_attribute("synthagent.policy_version", segment.policy_version or 0)
            return utterance

    async def close(self) -> None:
        """Releases what the agent holds."""
        await self._agent.close()


class TracedCounterparts:
    """Tools, user and judge with a span each; the verdict is an evaluation event."""

    def __init__(self, counterparts: Counterparts) -> None:
        self._counterparts = counterparts

    async def call(self, events: Sequence[Event]) -> ToolResult:
        """Makes the call that the last event asks for."""
        last = events[-1].body
        # A name that the agent made up may be of any length.
        tool = last.tool[:_NAME_LENGTH] if isinstance(last, AgentTurn) else ""
        attributes = {tracing.OPERATION: "execute_tool", tracing.TOOL: tool}
        with tracing.span(f"execute_tool {tool}", attributes) as span:
            result = await self._counterparts.call(events)
            if not result.ok:
                span.set_attribute(tracing.ERROR, result.error_code)
            return result

    async def reply(self, events: Sequence[Event]) -> UserReply:
        """The user's answer to the last message."""
        with tracing.span("user_reply", {}) as span:
            reply = await self._counterparts.reply(events)
            span.set_attribute("synthagent.user_reply.kind", reply.reply.value)
            return reply

    async def judge(self, events: Sequence[Event]) -> Verdict:
        """The verdict, which is also an event on the episode's own span."""
        around = trace.get_current_span()
        with tracing.span("judge", {}):
            verdict = await self._counterparts.judge(events)
        reason = verdict.invalid_reason.value if verdict.invalid_reason else "valid"
        score = {} if verdict.reward is None else {tracing.SCORE: verdict.reward}
        around.add_event(
            tracing.EVALUATION,
            {tracing.EVALUATION_NAME: _EVALUATION, tracing.LABEL: reason, **score},
        )
        return verdict

    async def close(self) -> None:
        """Ends the tool session."""
        await self._counterparts.close()
