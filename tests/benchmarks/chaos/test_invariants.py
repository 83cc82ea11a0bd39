"""Every invariant holds on a sound database, and sees the violation that is planted for it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, insert, select, update

from benchmarks.chaos.evidence import JUDGE, REPLY, Evidence
from benchmarks.chaos.invariants import INVARIANTS, PROBE, Expected, Struck
from services.rollout.agents import ReferenceAgent
from services.rollout.counterparts import request_id_of
from services.rollout.order import group_id, trajectory_id
from services.rollout.spec import RunSpec, Selection, Training, digest
from synthagent.api.v1 import judge_pb2, user_pb2
from synthagent.convert import user_reply_to_proto, verdict_to_proto
from synthagent.store import batches, episodes, leases, runs, tasks, upgrade
from synthagent.store.database import now, open_engine
from synthagent.store.episodes import Append, Ending
from synthagent.store.runs import RunState, StoredGroup, StoredRun
from synthagent.store.tables import (
    BatchRow,
    EpisodeRow,
    EventRow,
    GroupRow,
    RequestRow,
    RunRow,
    SynthesisItemRow,
    TaskRow,
)
from synthagent.worlds.certify import certify
from synthagent.worlds.episode import (
    AgentAction,
    AgentTurn,
    EpisodeEnd,
    EpisodeOutcome,
    Event,
    InvalidReason,
    ReplyKind,
    ToolResult,
    UserReply,
    Verdict,
)
from tests.example_task import example_task

EPISODE, EVENT, RUN, TASK = (
    row.metadata.tables[row.__tablename__] for row in (EpisodeRow, EventRow, RunRow, TaskRow)
)
BATCH, GROUP, REQUEST, ITEM = (
    row.metadata.tables[row.__tablename__]
    for row in (BatchRow, GroupRow, RequestRow, SynthesisItemRow)
)

FIRST = trajectory_id("rough", 0, 0)
REPLIED = UserReply(text="It is seven.", reply=ReplyKind.REVEALED, revealed=("number",))
OTHER = UserReply(text="It is eight.", reply=ReplyKind.REVEALED, revealed=("number",))
VERDICT = Verdict(reward=0.5, reward_preset="paper")
BODIES = (
    AgentTurn(text="Which?", action=AgentAction.MESSAGE, content="Which?"),
    REPLIED,
    AgentTurn(text="call", action=AgentAction.CALL, tool="show", arguments="{}"),
    ToolResult(ok=True, result="{}", state_hash="a" * 32),
    AgentTurn(text="Done.", action=AgentAction.ANSWER, content="Done."),
    EpisodeEnd(outcome=EpisodeOutcome.ANSWERED),
)
LAST = len(BODIES) - 1


def record(connection: Connection, run_id: str, task_id: str) -> None:
    """A run of one step: a group of two episodes, run to their ends and named as a batch."""
    spec = RunSpec(
        reference=ReferenceAgent.GOLD,
        tasks=Selection(task_ids=(task_id,)),
        group_size=2,
        training=Training(steps=1, groups_per_step=1),
    ).canonical
    runs.create(connection, StoredRun(run_id, spec, digest(spec), (task_id,), RunState.RUNNING, 5))
    group = StoredGroup(group_id(run_id, 0), run_id, 0, 0, task_id)
    ids = [trajectory_id(run_id, 0, index) for index in range(2)]
    rows = [
        episodes.pending_row(
            trajectory_id=each,
            run_id=run_id,
            group_id=group.group_id,
            index=index,
            task_id=task_id,
            split="train",
            agent="gold",
            admitted_at=now() - 10,
        )
        for index, each in enumerate(ids)
    ]
    runs.admit(connection, [group], rows)
    leases.claim(connection, "me", 60, 2)
    log = [Event(sequence=number, body=body) for number, body in enumerate(BODIES)]
    episodes.append(connection, [Append(each, log) for each in ids])
    episodes.end(
        connection,
        [Ending(each, run_id, "me", EpisodeOutcome.ANSWERED, VERDICT, 0, None, 2) for each in ids],
    )
    for each in ids:
        answer(connection, REPLY, request_id_of(each, 0), reply_bytes(REPLIED))
        verdict = judge_pb2.JudgeResponse(verdict=verdict_to_proto(VERDICT))
        answer(connection, JUDGE, request_id_of(each, LAST), verdict.SerializeToString())
    batches.create_batch(connection, run_id, 0, f"{run_id}.step-0", ids)


def answer(connection: Connection, method: str, request_id: str, response: bytes) -> None:
    row = {"method": method, "request_id": request_id, "request_digest": "d"}
    connection.execute(insert(REQUEST).values(**row, response=response, created_at=now()))


def reply_bytes(reply: UserReply) -> bytes:
    return user_pb2.ReplyResponse(reply=user_reply_to_proto(reply)).SerializeToString()


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    url = f"sqlite:///{tmp_path / 'chaos.db'}"
    upgrade(url)
    engine = open_engine(url)
    task = example_task()
    with engine.connect() as opened, opened.begin():
        tasks.put(opened, task.model_copy(update={"certificate": certify(task)}))
        for run_id in ("calm", "rough"):
            record(opened, run_id, task.task_id)
        yield opened
    engine.dispose()


@pytest.fixture
def expected(connection: Connection) -> Expected:
    ids = [trajectory_id("rough", 0, index) for index in range(2)]
    return Expected(
        twins={"rough": "calm"},
        named={("rough", 0): ids},
        tasks_digest=Evidence.read(connection).tasks_digest,
    )


def violated(connection: Connection, expected: Expected) -> set[str]:
    """Names of the invariants that do not hold."""
    evidence = Evidence.read(connection)
    return {invariant.__name__ for invariant in INVARIANTS if invariant(evidence, expected)}


def of_first(connection: Connection, **values: object) -> None:
    connection.execute(update(EPISODE).where(EPISODE.c.trajectory_id == FIRST).values(**values))


def event(connection: Connection, sequence: int, **values: object) -> None:
    mine = (EVENT.c.trajectory_id == FIRST, EVENT.c.sequence == sequence)
    connection.execute(update(EVENT).where(*mine).values(**values))


def lose_an_episode(connection: Connection) -> None:
    of_first(connection, state="running", completion=None)


def leave_the_run_open(connection: Connection) -> None:
    connection.execute(update(RUN).where(RUN.c.run_id == "rough").values(state="running"))


def add_an_episode(connection: Connection) -> None:
    row = connection.execute(select(EPISODE).where(EPISODE.c.trajectory_id == FIRST)).one()
    more = {"trajectory_id": "rough.0.2", "group_index": 2, "completion": 3}
    connection.execute(insert(EPISODE).values(**{**row._mapping, **more}))


def skip_a_number(connection: Connection) -> None:
    of_first(connection, completion=9)


def end_twice(connection: Connection) -> None:
    event(connection, 1, kind="end", body=BODIES[LAST].model_dump_json())


def drop_an_event(connection: Connection) -> None:
    mine = (EVENT.c.trajectory_id == FIRST, EVENT.c.sequence == 3)
    connection.execute(delete(EVENT).where(*mine))


def drop_the_end(connection: Connection) -> None:
    mine = (EVENT.c.trajectory_id == FIRST, EVENT.c.sequence == LAST)
    connection.execute(delete(EVENT).where(*mine))


def drop_the_verdict(connection: Connection) -> None:
    of_first(connection, verdict=None)


def pay_otherwise(connection: Connection) -> None:
    of_first(connection, reward=1.0)


def change_a_state_hash(connection: Connection) -> None:
    event(connection, 3, body=ToolResult(ok=True, result="{}", state_hash="b").model_dump_json())


def invalidate(connection: Connection) -> None:
    reason = InvalidReason.TOOL_FAULT
    verdict = Verdict(reward=None, invalid_reason=reason, reward_preset="paper")
    of_first(
        connection, reward=None, invalid_reason=reason.value, verdict=verdict.model_dump_json()
    )


def invalidate_and_say_so(connection: Connection) -> None:
    invalidate(connection)
    end = EpisodeEnd(outcome=EpisodeOutcome.FAULT, invalid_reason=InvalidReason.TOOL_FAULT)
    event(connection, LAST, body=end.model_dump_json())


def rename_a_batch(connection: Connection) -> None:
    changed = update(BATCH).where(BATCH.c.run_id == "rough").values(trajectory_ids='["rough.0.1"]')
    connection.execute(changed)


def answer_otherwise(connection: Connection) -> None:
    mine = REQUEST.c.request_id == request_id_of(FIRST, 0)
    connection.execute(update(REQUEST).where(mine).values(response=reply_bytes(OTHER)))


def answer_what_nobody_asked(connection: Connection) -> None:
    answer(connection, REPLY, "f" * 64, reply_bytes(REPLIED))


def admit_a_task_twice(connection: Connection) -> None:
    for attempt in range(2):
        row = {"request_id": "r", "attempt": attempt, "seed": "1", "task_id": "t", "reason": ""}
        connection.execute(insert(ITEM).values(**row))


def keep_a_lease(connection: Connection) -> None:
    mine = EPISODE.c.trajectory_id == trajectory_id("calm", 0, 0)
    connection.execute(update(EPISODE).where(mine).values(state="running"))


def lose_the_episodes_of_a_group(connection: Connection) -> None:
    row = connection.execute(select(GROUP).where(GROUP.c.run_id == "rough")).one()
    more = {"group_id": "rough.1", "ordinal": 1}
    connection.execute(insert(GROUP).values(**{**row._mapping, **more}))


def change_a_task(connection: Connection) -> None:
    connection.execute(update(TASK).values(body="{}"))


PLANTED: list[tuple[Callable[[Connection], None], set[str]]] = [
    (lose_an_episode, {"lost", "no_orphan_leases"}),
    (leave_the_run_open, {"lost"}),
    (add_an_episode, {"duplicated"}),
    (skip_a_number, {"duplicated"}),
    (end_twice, {"duplicated", "complete_event_logs"}),
    (drop_an_event, {"complete_event_logs", "same_as_undisturbed"}),
    (drop_the_end, {"complete_event_logs", "same_as_undisturbed"}),
    (drop_the_verdict, {"one_verdict", "same_as_undisturbed"}),
    (pay_otherwise, {"wrong_reward", "one_verdict"}),
    (change_a_state_hash, {"same_as_undisturbed"}),
    (invalidate, {"invalid_only_by_faults", "wrong_reward"}),
    (invalidate_and_say_so, {"invalid_only_by_faults", "wrong_reward"}),
    (rename_a_batch, {"batches_unchanged"}),
    (answer_otherwise, {"executed_once"}),
    (answer_what_nobody_asked, {"executed_once"}),
    (admit_a_task_twice, {"executed_once"}),
    (keep_a_lease, {"no_orphan_leases"}),
    (lose_the_episodes_of_a_group, {"no_orphan_leases"}),
    (change_a_task, {"tasks_unchanged"}),
]


def test_a_sound_database_violates_nothing(connection: Connection, expected: Expected) -> None:
    assert violated(connection, expected) == set()


def test_every_invariant_has_a_violation_planted_for_it() -> None:
    planted = {name for _, names in PLANTED for name in names}
    assert planted == {invariant.__name__ for invariant in INVARIANTS}


@pytest.mark.parametrize(
    ("plant", "seen"), PLANTED, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_planted_violation_is_seen(
    connection: Connection,
    expected: Expected,
    plant: Callable[[Connection], None],
    seen: set[str],
) -> None:
    plant(connection)
    assert violated(connection, expected) >= seen


def test_a_recorded_fault_explains_an_invalid_episode_that_says_why(
    connection: Connection, expected: Expected
) -> None:
    invalidate_and_say_so(connection)
    struck = Struck("kill", now() - 60_000_000, now())
    assert "invalid_only_by_faults" not in violated(connection, replace(expected, faults=[struck]))
    before = Struck("kill", 1, 2)
    assert "invalid_only_by_faults" in violated(connection, replace(expected, faults=[before]))


def test_a_run_that_is_gone_is_lost(connection: Connection, expected: Expected) -> None:
    assert "lost" in violated(connection, replace(expected, twins={"gone": "calm"}))


def test_probes_are_no_episode_s_requests(connection: Connection, expected: Expected) -> None:
    answer(connection, REPLY, f"{PROBE}1", reply_bytes(REPLIED))
    assert violated(connection, expected) == set()
