import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthagent.api.v1 import trajectory_pb2
from synthagent.convert import (
    event_from_proto,
    event_to_proto,
    events_from_proto,
    sampling_from_proto,
    sampling_to_proto,
    segment_from_proto,
    segment_to_proto,
    verdict_from_proto,
    verdict_to_proto,
)
from synthagent.errors import InvalidInput
from synthagent.tokens import Sampling, TokenSegment, TokenSource
from synthagent.worlds.episode import Event, ToolResult, Verdict
from tests.synthagent.convert import strategies
from tests.synthagent.convert.refusals import attempt, messages, names_a_field


@given(strategies.events, st.none() | st.integers(0, 4_000_000_000_000_000))
def test_an_event_survives_the_wire(event: Event, recorded_at: int | None) -> None:
    data = event_to_proto(event, recorded_at).SerializeToString()
    message = trajectory_pb2.Event.FromString(data)
    assert event_from_proto(message) == event
    if recorded_at is None:
        assert not message.HasField("recorded_at")
    else:
        assert message.recorded_at.ToMicroseconds() == recorded_at


@given(strategies.verdicts)
def test_a_verdict_survives_the_wire(verdict: Verdict) -> None:
    data = verdict_to_proto(verdict).SerializeToString()
    assert verdict_from_proto(trajectory_pb2.Verdict.FromString(data)) == verdict


@given(messages(trajectory_pb2.Event))
def test_any_message_gives_an_event_or_a_named_field(message: trajectory_pb2.Event) -> None:
    outcome = attempt(lambda: event_from_proto(message))
    if isinstance(outcome, InvalidInput):
        assert names_a_field(outcome, "event")
    else:
        assert event_from_proto(event_to_proto(outcome)) == outcome


@given(messages(trajectory_pb2.Verdict))
def test_any_message_gives_a_verdict_or_a_named_field(message: trajectory_pb2.Verdict) -> None:
    outcome = attempt(lambda: verdict_from_proto(message))
    if isinstance(outcome, InvalidInput):
        assert names_a_field(outcome, "verdict")
    else:
        assert (outcome.reward is None) == (outcome.invalid_reason is not None)


def event(data: bytes) -> trajectory_pb2.Event:
    """An event with numbers that no enum has, which only the wire can carry."""
    return trajectory_pb2.Event.FromString(data)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (trajectory_pb2.Event(), "events[1]"),
        (trajectory_pb2.Event(agent=trajectory_pb2.AgentTurn()), "events[1].agent.action"),
        (event(b"\x2a\x02\x10\x09"), "events[1].user.kind"),
        (trajectory_pb2.Event(end=trajectory_pb2.EpisodeEnd()), "events[1].end.outcome"),
        (
            event(b"\x32\x04\x08\x04\x10\x63"),
            "events[1].end.invalid_reason",
        ),
    ],
)
def test_an_event_log_names_the_event_at_fault(message: trajectory_pb2.Event, field: str) -> None:
    good = event_to_proto(Event(sequence=0, body=ToolResult(ok=True, result="{}", state_hash="")))
    with pytest.raises(InvalidInput) as refusal:
        events_from_proto([good, message])
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (trajectory_pb2.Verdict(), "verdict"),
        (trajectory_pb2.Verdict(reward=1.5), "verdict.reward"),
        (trajectory_pb2.Verdict(reward=math.nan), "verdict.reward"),
        (trajectory_pb2.Verdict(invalid=trajectory_pb2.Invalid()), "verdict.invalid.reason"),
    ],
)
def test_a_verdict_without_a_valid_outcome_is_refused(
    message: trajectory_pb2.Verdict, field: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        verdict_from_proto(message)
    assert refusal.value.field == field


def test_a_reward_of_zero_is_a_reward() -> None:
    verdict = verdict_from_proto(verdict_to_proto(Verdict(reward=0.0, reward_preset="paper")))
    assert verdict.reward == 0.0
    assert verdict.invalid_reason is None


SOURCE_POLICY = trajectory_pb2.TOKEN_SOURCE_POLICY
SOURCE_OBSERVATION = trajectory_pb2.TOKEN_SOURCE_OBSERVATION
single = st.floats(-50, 0, width=32)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), single)), st.integers(0, 2**64 - 1))
def test_policy_tokens_survive_the_wire(tokens: list[tuple[int, float]], version: int) -> None:
    segment = TokenSegment(
        TokenSource.POLICY,
        tuple(token for token, _ in tokens),
        tuple(logprob for _, logprob in tokens),
        version,
    )
    data = segment_to_proto(segment).SerializeToString()
    assert segment_from_proto(trajectory_pb2.TokenSegment.FromString(data)) == segment


def test_log_probabilities_travel_as_32_bit_floats() -> None:
    segment = TokenSegment(TokenSource.POLICY, (1,), (-0.1,))
    (logprob,) = segment_from_proto(segment_to_proto(segment)).logprobs
    assert logprob == struct.unpack("f", struct.pack("f", -0.1))[0]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (trajectory_pb2.TokenSegment(token_ids=[1]), "segment.source"),
        (
            trajectory_pb2.TokenSegment(source=SOURCE_POLICY, token_ids=[1, 2], logprobs=[-1]),
            "segment.logprobs",
        ),
        (
            trajectory_pb2.TokenSegment(source=SOURCE_OBSERVATION, token_ids=[1], logprobs=[-1]),
            "segment.logprobs",
        ),
    ],
)
def test_tokens_and_log_probabilities_must_fit(
    message: trajectory_pb2.TokenSegment, field: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        segment_from_proto(message)
    assert refusal.value.field == field


def test_sampling_survives_and_has_its_default() -> None:
    sampling = Sampling(temperature=0.0, top_p=0.9, max_turn_tokens=40)
    assert sampling_from_proto(sampling_to_proto(sampling)) == sampling
    message = trajectory_pb2.SamplingSettings(temperature=1, max_turn_tokens=1)
    assert sampling_from_proto(message).top_p == 1.0


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (trajectory_pb2.SamplingSettings(temperature=3, max_turn_tokens=1), "sampling.temperature"),
        (trajectory_pb2.SamplingSettings(top_p=2, max_turn_tokens=1), "sampling.top_p"),
        (trajectory_pb2.SamplingSettings(temperature=1), "sampling.max_turn_tokens"),
    ],
)
def test_sampling_out_of_range_is_refused(
    message: trajectory_pb2.SamplingSettings, field: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        sampling_from_proto(message)
    assert refusal.value.field == field
