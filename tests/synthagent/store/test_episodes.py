from functools import partial

import pytest

from synthagent.store import Store, batches, episodes, leases, runs
from synthagent.store.episodes import (
    EPISODE_TRANSITIONS,
    Append,
    Ending,
    EpisodeState,
    LeaseLost,
)
from synthagent.store.runs import RunState
from synthagent.tokens import TokenSegment, TokenSource
from synthagent.worlds.episode import (
    AgentAction,
    AgentTurn,
    EpisodeEnd,
    EpisodeOutcome,
    Event,
    ReplyKind,
    ToolResult,
    UserReply,
    Verdict,
)

FAR = 10**9
EVENTS = [
    Event(sequence=0, body=AgentTurn(text="Who?", action=AgentAction.MESSAGE, content="Who?")),
    Event(sequence=1, body=UserReply(text="Zoë.", reply=ReplyKind.REVEALED, revealed=("who",))),
    Event(sequence=2, body=AgentTurn(text="<x", action=AgentAction.CALL, tool="", arguments="<x")),
    Event(sequence=3, body=ToolResult(ok=False, result="{}", error_code="e", state_hash="0" * 32)),
    Event(sequence=4, body=EpisodeEnd(outcome=EpisodeOutcome.TURN_LIMIT)),
]
SEGMENTS = [
    TokenSegment(TokenSource.PROMPT, (1, 2**32 - 1)),
    TokenSegment(TokenSource.POLICY, (3,), (-0.5,), 2**40),
    TokenSegment(TokenSource.OBSERVATION, ()),
]


def _ending(name: str, owner: str = "me", total: int = 99) -> Ending:
    return Ending(
        trajectory_id=name,
        run_id="r",
        owner=owner,
        outcome=EpisodeOutcome.ANSWERED,
        verdict=Verdict(reward=0.25, reward_preset="paper"),
        policy_tokens=1,
        policy_version=None,
        episodes_total=total,
    )


async def test_what_was_written_is_read(admitted: Store) -> None:
    await admitted.write(
        lambda c: episodes.append(c, [Append("r.0.0", EVENTS[:2], SEGMENTS[:2], recorded_at=7)])
    )
    rest = Append("r.0.0", EVENTS[2:], SEGMENTS[2:], first_segment=2, recorded_at=8)
    await admitted.write(lambda c: episodes.append(c, [rest]))
    found = await admitted.read(lambda c: episodes.load(c, "r.0.0"))
    assert found is not None
    assert list(found.events) == EVENTS
    assert found.recorded_at == (7, 7, 8, 8, 8)
    assert list(found.segments) == SEGMENTS
    assert found.episode.state is EpisodeState.PENDING
    assert await admitted.read(lambda c: episodes.load(c, "r.9.9")) is None


async def test_an_event_is_written_once(admitted: Store) -> None:
    item = Append("r.0.0", EVENTS[:1])
    await admitted.write(lambda c: episodes.append(c, [item]))
    with pytest.raises(LeaseLost):
        await admitted.write(lambda c: episodes.append(c, [item]))


async def test_endings_are_numbered_and_the_last_ends_the_run(admitted: Store) -> None:
    await admitted.write(lambda c: leases.claim(c, "me", FAR, 9))
    names = ["r.1.0", "r.0.0", "r.1.1", "r.0.1"]
    await admitted.write(lambda c: episodes.end(c, [_ending(n, total=4) for n in names[:2]]))
    assert not await admitted.read(lambda c: runs.in_state(c, RunState.SUCCEEDED))
    assert await admitted.read(lambda c: batches.waiting(c, "r", 0)) == 2
    for name in names[2:]:
        await admitted.write(partial(episodes.end, endings=[_ending(name, total=4)]))
    assert await admitted.read(lambda c: runs.in_state(c, RunState.SUCCEEDED))
    ended = await admitted.read(lambda c: episodes.completed(c, "r", 0, 9))
    assert [e.trajectory_id for e in ended] == names
    assert [e.completion for e in ended] == [1, 2, 3, 4]
    assert ended[0].verdict == Verdict(reward=0.25, reward_preset="paper")
    page = await admitted.read(lambda c: episodes.completed(c, "r", 1, 2))
    assert [e.trajectory_id for e in page] == names[1:3]


async def test_only_its_holder_ends_an_episode_and_only_once(admitted: Store) -> None:
    await admitted.write(lambda c: leases.claim(c, "me", FAR, 1))
    for endings in (
        [_ending("r.0.0", owner="you")],
        [_ending("r.0.1")],
        [_ending("r.0.0"), _ending("r.1.1")],
    ):
        with pytest.raises(LeaseLost):
            await admitted.write(partial(episodes.end, endings=endings))
    await admitted.write(lambda c: episodes.end(c, [_ending("r.0.0")]))
    with pytest.raises(LeaseLost):
        await admitted.write(lambda c: episodes.end(c, [_ending("r.0.0")]))


async def test_cancelled_episodes_are_never_taken_nor_ended(admitted: Store) -> None:
    await admitted.write(lambda c: leases.claim(c, "me", FAR, 1))
    await admitted.write(lambda c: episodes.cancel(c, "r"))
    assert await admitted.write(lambda c: leases.claim(c, "me", FAR, 9)) == []
    assert await admitted.read(lambda c: episodes.unfinished(c, "r")) == 0
    with pytest.raises(LeaseLost):
        await admitted.write(lambda c: episodes.end(c, [_ending("r.0.0")]))


def test_ended_and_cancelled_are_final() -> None:
    assert {state for state, targets in EPISODE_TRANSITIONS.items() if not targets} == {
        EpisodeState.ENDED,
        EpisodeState.CANCELLED,
    }
