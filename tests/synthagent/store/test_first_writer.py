"""Two writers of one key, on PostgreSQL.

Only there the second can begin while the first has not committed: SQLite lets one write at a time.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, Engine, text

from services.task_synthesis import journal
from services.task_synthesis.journal import Attempt
from synthagent.api.v1 import user_pb2
from synthagent.api.v1.trajectory_pb2 import UserReply
from synthagent.errors import BackendUnavailable, Conflict, RequestIdReused
from synthagent.postgresql_server import PostgresqlServer
from synthagent.store import Store, ledger, personas, requests, responses, tasks
from synthagent.store.database import open_engine
from synthagent.store.ledger import LedgerEntry, Source
from synthagent.store.responses import StoredResponse
from synthagent.worlds.certify import certify
from synthagent.worlds.spec import Persona, Task
from tests.databases import create
from tests.example_task import example_task

T = TypeVar("T")


@pytest.fixture(scope="module")
def engine(postgresql: PostgresqlServer) -> Iterator[Engine]:
    """A fresh database with our schema."""
    opened = open_engine(postgresql.url(create(postgresql, template="with_schema")))
    yield opened
    opened.dispose()


@pytest.fixture(scope="module")
def certified() -> Task:
    task = example_task()
    return task.model_copy(update={"certificate": certify(task)})


def race(
    engine: Engine, first: Callable[[Connection], T], second: Callable[[Connection], T]
) -> tuple[T, T]:
    """What both return where the second begins before the first has committed."""
    outcome: list[T | Exception] = []

    def follow() -> None:
        try:
            with engine.begin() as connection:
                outcome.append(second(connection))
        except Exception as error:  # noqa: BLE001 - raised again below, in the test's own thread
            outcome.append(error)

    with engine.begin() as connection:
        led = first(connection)
        follower = threading.Thread(target=follow)
        follower.start()
        _until_one_waits(engine)
        assert outcome == []
    follower.join(timeout=10)
    (followed,) = outcome
    if isinstance(followed, Exception):
        raise followed
    return led, followed


def _until_one_waits(engine: Engine) -> None:
    """Until a transaction waits for another's lock."""
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    end = time.monotonic() + 10
    with engine.connect() as connection:
        while not connection.execute(waiting).scalar_one():
            assert time.monotonic() < end, "the second writer does not wait for the first"
            time.sleep(0.01)


def add(connection: Connection, names: str, persona_set: str) -> int:
    given = [Persona(name=name, role="baker", description="x", voice="plain") for name in names]
    return personas.put(connection, persona_set, given)


async def cross(engine: Engine, persona_set: str, *writes: str) -> list[Any]:
    """What becomes of a store's writes, made as a group, where another holds "a" and wants "b".

    The group holds "b" and wants "a" only once the other waits for it: so the store closes the
    ring, finds that out and gives way, and the other goes on, however slow the machine is.
    """
    busy, queued, holding, awaited = (threading.Event() for _ in range(4))

    def occupy(_: Connection) -> bool:
        busy.set()
        return queued.wait(timeout=30)

    def write(connection: Connection, names: str) -> int:
        added = 0
        for name in names:
            if name == "a":
                holding.set()
                assert awaited.wait(timeout=30)
            added += add(connection, name, persona_set)
        return added

    store = Store(engine.url.render_as_string(hide_password=False))
    occupied = asyncio.create_task(store.write(occupy))
    assert await asyncio.to_thread(busy.wait, 30)
    group = [asyncio.create_task(store.write(partial(write, names=names))) for names in writes]
    await asyncio.sleep(0)  # each has begun: they wait for the writer together
    with engine.begin() as other:
        # It never looks for a ring itself, and never tires of waiting.
        other.execute(text("SET LOCAL deadlock_timeout = '10min'; SET LOCAL lock_timeout = 0"))
        add(other, "a", persona_set)
        queued.set()
        assert await occupied
        assert await asyncio.to_thread(holding.wait, 30)
        wanting = asyncio.create_task(asyncio.to_thread(add, other, "b", persona_set))
        await asyncio.to_thread(_until_one_waits, engine)
        awaited.set()
        assert await wanting == 1
    outcomes = await asyncio.gather(*group, return_exceptions=True)
    await store.close()
    return outcomes


async def test_of_writes_that_wait_for_each_other_those_of_a_group_are_made_one_by_one(
    engine: Engine,
) -> None:
    assert await cross(engine, "group", "b", "a") == [0, 0]
    (ended,) = await cross(engine, "single", "ba")
    assert isinstance(ended, BackendUnavailable)
    assert "busy" in ended.message


def answer(text: str) -> user_pb2.ReplyResponse:
    return user_pb2.ReplyResponse(reply=UserReply(text=text))


def test_the_first_answer_to_a_request_stands(engine: Engine) -> None:
    asked = user_pb2.ReplyRequest(request_id="a", task_id="t")
    outcomes = race(
        engine,
        lambda c: requests.record(c, "m", "a", asked, answer("first")),
        lambda c: requests.record(c, "m", "a", asked, answer("second")),
    )
    assert outcomes == (None, answer("first").SerializeToString())


def test_a_request_id_that_was_used_meanwhile_is_refused(engine: Engine) -> None:
    one, other = (user_pb2.ReplyRequest(request_id="b", task_id=name) for name in "tu")
    with pytest.raises(RequestIdReused):
        race(
            engine,
            lambda c: requests.record(c, "m", "b", one, answer("first")),
            lambda c: requests.record(c, "m", "b", other, answer("second")),
        )


def test_the_first_answer_of_a_model_stands(engine: Engine) -> None:
    first, second = (StoredResponse(said, 1, 10, 5, 0.25, 1.5) for said in ("yes", "no"))
    outcomes = race(
        engine,
        lambda c: responses.put(c, "judge", "k", first),
        lambda c: responses.put(c, "judge", "k", second),
    )
    assert outcomes == (first, first)


def test_a_ledger_that_is_copied_twice_at_once_counts_its_entries_for_one(engine: Engine) -> None:
    entry = LedgerEntry(
        task_id="draft",
        tool="look_up",
        arguments="{}",
        state_version="0",
        next_state_version="0",
        ok=True,
        result='"first"',
        error_code="",
        source=Source.GENERATED,
    )
    other = replace(entry, result='"second"')
    winners = race(engine, lambda c: ledger.record(c, entry), lambda c: ledger.record(c, other))
    assert winners == (entry, entry)
    copied = race(
        engine,
        lambda c: ledger.copy(c, "draft", "final"),
        lambda c: ledger.copy(c, "draft", "final"),
    )
    assert copied == (1, 0)


def test_the_same_task_is_stored_once_and_keeps_its_admission(
    engine: Engine, certified: Task
) -> None:
    same = certified.model_copy(update={"task_id": "same"})
    outcomes = race(engine, lambda c: tasks.put(c, same), lambda c: tasks.put(c, same, draft=True))
    assert outcomes == (True, False)
    with engine.connect() as connection:
        listed = [summary.task_id for summary in tasks.list_page(connection).tasks]
    assert "same" in listed


def test_another_task_of_the_same_identifier_is_a_conflict(engine: Engine, certified: Task) -> None:
    one = certified.model_copy(update={"task_id": "one"})
    other = one.model_copy(update={"instruction": "Something else."})
    with pytest.raises(Conflict, match="taken by another task"):
        race(engine, lambda c: tasks.put(c, one), lambda c: tasks.put(c, other))
    with engine.connect() as connection:
        assert tasks.get(connection, "one") == one


def test_a_set_counts_each_new_persona_for_one_writer(engine: Engine) -> None:
    many = [
        Persona(name=f"N{number}", role="baker", description=f"Bakes {number}.", voice="plain")
        for number in range(1200)
    ]
    outcomes = race(
        engine,
        lambda c: personas.put(c, "bakers", many[:1000]),
        lambda c: personas.put(c, "bakers", many[500:]),
    )
    assert outcomes == (1000, 200)
    with engine.connect() as connection:
        assert personas.count(connection, "bakers") == 1200


def test_the_first_settlement_of_an_attempt_stands(engine: Engine, certified: Task) -> None:
    given = certified.model_copy(update={"task_id": "given"})
    admitted = Attempt(0, seed=7, task_id="given")
    refused = Attempt(0, seed=7, gate="novelty", reason="It nearly equals another.")
    outcomes = race(
        engine,
        lambda c: journal.settle(c, "s", admitted, given),
        lambda c: journal.settle(c, "s", refused, None),
    )
    assert outcomes == (admitted, admitted)


def test_a_task_of_a_settlement_that_came_second_is_not_stored(
    engine: Engine, certified: Task
) -> None:
    late = certified.model_copy(update={"task_id": "late"})
    refused = Attempt(0, seed=7, gate="novelty", reason="It nearly equals another.")
    outcomes = race(
        engine,
        lambda c: journal.settle(c, "z", refused, None),
        lambda c: journal.settle(c, "z", Attempt(0, seed=7, task_id="late"), late),
    )
    assert outcomes == (refused, refused)
    with engine.connect() as connection:
        assert "late" not in {each.task_id for each in tasks.list_page(connection).tasks}
