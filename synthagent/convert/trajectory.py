"""Events, verdicts, tokens and sampling settings, both ways."""

from __future__ import annotations

from collections.abc import Iterable

from synthagent.api.v1 import trajectory_pb2 as pb
from synthagent.convert.parts import EnumTable, build, chosen, timestamp
from synthagent.errors import InvalidInput
from synthagent.tokens import Sampling, TokenSegment, TokenSource
from synthagent.worlds import episode

OUTCOME = EnumTable(episode.EpisodeOutcome, pb.EpisodeOutcome, "EPISODE_OUTCOME")
INVALID_REASON = EnumTable(episode.InvalidReason, pb.InvalidReason, "INVALID_REASON")
_ACTION = EnumTable(episode.AgentAction, pb.AgentAction, "AGENT_ACTION")
_REPLY = EnumTable(episode.ReplyKind, pb.ReplyKind, "REPLY_KIND")
_SOURCE = EnumTable(TokenSource, pb.TokenSource, "TOKEN_SOURCE")


def agent_turn_to_proto(turn: episode.AgentTurn) -> pb.AgentTurn:
    """The message of an agent's turn."""
    return pb.AgentTurn(
        text=turn.text,
        action=_ACTION.to_number(turn.action),
        tool=turn.tool,
        arguments_json=turn.arguments,
        content=turn.content,
    )


def agent_turn_from_proto(message: pb.AgentTurn, path: str) -> episode.AgentTurn:
    """The agent's turn of a message. Its arguments may be any text. Raises InvalidInput."""
    return build(
        path,
        episode.AgentTurn,
        text=message.text,
        action=_ACTION.from_number(message.action, f"{path}.action"),
        tool=message.tool,
        arguments=message.arguments_json,
        content=message.content,
    )


def tool_result_to_proto(result: episode.ToolResult) -> pb.ToolResult:
    """The message of a tool result."""
    return pb.ToolResult(
        ok=result.ok,
        result_json=result.result,
        error_code=result.error_code,
        state_hash=result.state_hash,
    )


def tool_result_from_proto(message: pb.ToolResult, path: str) -> episode.ToolResult:
    """The tool result of a message; its JSON text is kept as it is."""
    return build(
        path,
        episode.ToolResult,
        ok=message.ok,
        result=message.result_json,
        error_code=message.error_code,
        state_hash=message.state_hash,
    )


def user_reply_to_proto(reply: episode.UserReply) -> pb.UserReply:
    """The message of a user's reply."""
    return pb.UserReply(
        text=reply.text,
        kind=_REPLY.to_number(reply.reply),
        revealed_fact_ids=reply.revealed,
    )


def user_reply_from_proto(message: pb.UserReply, path: str) -> episode.UserReply:
    """The user's reply of a message. Raises InvalidInput."""
    return build(
        path,
        episode.UserReply,
        text=message.text,
        reply=_REPLY.from_number(message.kind, f"{path}.kind"),
        revealed=tuple(message.revealed_fact_ids),
    )


def event_to_proto(event: episode.Event, recorded_at: int | None = None) -> pb.Event:
    """The message of an event; `recorded_at` in microseconds since 1970 UTC."""
    body = event.body
    message = pb.Event(sequence=event.sequence)
    if recorded_at is not None:
        message.recorded_at.CopyFrom(timestamp(recorded_at))
    match body:
        case episode.AgentTurn():
            message.agent.CopyFrom(agent_turn_to_proto(body))
        case episode.ToolResult():
            message.tool.CopyFrom(tool_result_to_proto(body))
        case episode.UserReply():
            message.user.CopyFrom(user_reply_to_proto(body))
        case episode.EpisodeEnd():
            message.end.outcome = OUTCOME.to_number(body.outcome)
            message.end.invalid_reason = INVALID_REASON.to_number(body.invalid_reason)
            message.end.detail = body.detail
    return message


def event_from_proto(message: pb.Event, path: str = "event") -> episode.Event:
    """The event of a message, without its time. Raises InvalidInput."""
    return episode.Event(sequence=message.sequence, body=_body_from_proto(message, path))


def _body_from_proto(message: pb.Event, path: str) -> episode.EventBody:
    name = chosen(message, "body", path)
    place = f"{path}.{name}"
    match name:
        case "agent":
            return agent_turn_from_proto(message.agent, place)
        case "tool":
            return tool_result_from_proto(message.tool, place)
        case "user":
            return user_reply_from_proto(message.user, place)
        case _:
            end = message.end
            return build(
                place,
                episode.EpisodeEnd,
                outcome=OUTCOME.from_number(end.outcome, f"{place}.outcome"),
                invalid_reason=INVALID_REASON.from_optional(
                    end.invalid_reason, f"{place}.invalid_reason"
                ),
                detail=end.detail,
            )


def events_from_proto(
    messages: Iterable[pb.Event], path: str = "events"
) -> tuple[episode.Event, ...]:
    """An event log. Whether it is complete and in order is the judge's to say."""
    return tuple(
        event_from_proto(message, f"{path}[{number}]") for number, message in enumerate(messages)
    )


def criterion_result_to_proto(result: episode.CriterionResult) -> pb.CriterionResult:
    """The message of a criterion's result."""
    return pb.CriterionResult(
        criterion_id=result.criterion_id,
        satisfied=result.satisfied,
        evidence=result.evidence,
        explanation=result.explanation,
        votes=None if result.votes is None else pb.Votes(**result.votes.model_dump()),
    )


def criterion_result_from_proto(message: pb.CriterionResult, path: str) -> episode.CriterionResult:
    """The criterion's result of a message. Raises InvalidInput."""
    votes = message.votes
    return build(
        path,
        episode.CriterionResult,
        criterion_id=message.criterion_id,
        satisfied=message.satisfied,
        evidence=tuple(message.evidence),
        explanation=message.explanation,
        votes=episode.Votes(yes=votes.yes, no=votes.no, abstain=votes.abstain)
        if message.HasField("votes")
        else None,
    )


def verdict_to_proto(verdict: episode.Verdict) -> pb.Verdict:
    """The message of a verdict."""
    message = pb.Verdict(
        reward_preset=verdict.reward_preset,
        policy_fraction=verdict.policy_fraction,
        sub_goal_fraction=verdict.sub_goal_fraction,
        interaction_fraction=verdict.interaction_fraction,
        results=[criterion_result_to_proto(result) for result in verdict.results],
    )
    if verdict.reward is not None:
        message.reward = verdict.reward
    else:
        message.invalid.reason = INVALID_REASON.to_number(verdict.invalid_reason)
        message.invalid.detail = verdict.detail
    return message


def verdict_from_proto(message: pb.Verdict, path: str = "verdict") -> episode.Verdict:
    """The verdict of a message. Raises InvalidInput."""
    valid = chosen(message, "outcome", path) == "reward"
    return build(
        path,
        episode.Verdict,
        reward=message.reward if valid else None,
        invalid_reason=None
        if valid
        else INVALID_REASON.from_number(message.invalid.reason, f"{path}.invalid.reason"),
        detail=message.invalid.detail,
        reward_preset=message.reward_preset,
        policy_fraction=message.policy_fraction,
        sub_goal_fraction=message.sub_goal_fraction,
        interaction_fraction=message.interaction_fraction,
        results=tuple(
            criterion_result_from_proto(result, f"{path}.results[{number}]")
            for number, result in enumerate(message.results)
        ),
    )


def sampling_to_proto(sampling: Sampling) -> pb.SamplingSettings:
    """The message of sampling settings."""
    return pb.SamplingSettings(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_turn_tokens=sampling.max_turn_tokens,
    )


def sampling_from_proto(message: pb.SamplingSettings, path: str = "sampling") -> Sampling:
    """The sampling settings of a message. Raises InvalidInput."""
    return build(
        path,
        Sampling,
        temperature=message.temperature,
        top_p=message.top_p or 1.0,
        max_turn_tokens=message.max_turn_tokens,
    )


def segment_to_proto(segment: TokenSegment) -> pb.TokenSegment:
    """The message of a run of tokens; log-probabilities become 32-bit floats."""
    return pb.TokenSegment(
        source=_SOURCE.to_number(segment.source),
        token_ids=segment.token_ids,
        logprobs=segment.logprobs,
        policy_version=segment.policy_version,
    )


def segment_from_proto(message: pb.TokenSegment, path: str = "segment") -> TokenSegment:
    """The run of tokens of a message. Raises InvalidInput."""
    source = _SOURCE.from_number(message.source, f"{path}.source")
    expected = len(message.token_ids) if source is TokenSource.POLICY else 0
    # A demonstration's tokens were not sampled and have no log-probabilities.
    if message.logprobs and len(message.logprobs) != expected:
        raise InvalidInput(
            f"{path}.logprobs has {len(message.logprobs)} values for {expected} policy tokens.",
            field=f"{path}.logprobs",
        )
    return TokenSegment(
        source=source,
        token_ids=tuple(message.token_ids),
        logprobs=tuple(message.logprobs),
        policy_version=message.policy_version,
    )
