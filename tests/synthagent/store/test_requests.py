import asyncio

import pytest

from synthagent.api.v1 import user_pb2
from synthagent.api.v1.trajectory_pb2 import UserReply
from synthagent.errors import InvalidInput, NotFound, RequestIdReused
from synthagent.store import Store, once
from synthagent.store.requests import find, record


class Simulator:
    """Counts how often it is asked; answers when its company is complete."""

    def __init__(self, company: asyncio.Barrier | None = None) -> None:
        self.asked = 0
        self._company = company

    async def reply(self) -> user_pb2.ReplyResponse:
        self.asked += 1
        if self._company:
            await self._company.wait()
        await asyncio.sleep(0.01)
        return user_pb2.ReplyResponse(reply=UserReply(text=f"answer {self.asked}"))


async def ask(
    store: Store, simulator: Simulator, request_id: str, task_id: str = "t"
) -> user_pb2.ReplyResponse:
    return await once(
        store,
        "UserSimulator/Reply",
        request_id,
        user_pb2.ReplyRequest(request_id=request_id, task_id=task_id),
        response_type=user_pb2.ReplyResponse,
        compute=simulator.reply,
    )


async def test_a_repeat_gets_the_stored_answer(store: Store) -> None:
    simulator = Simulator()
    first = await ask(store, simulator, "a")
    assert await ask(store, simulator, "a") == first
    assert (await ask(store, simulator, "b")).reply.text == "answer 2"
    assert simulator.asked == 2


async def test_a_repeat_after_a_restart_gets_the_stored_answer(
    store: Store, database_url: str
) -> None:
    simulator = Simulator()
    first = await ask(store, simulator, "a")
    reopened = Store(database_url)
    assert await ask(reopened, simulator, "a") == first
    assert simulator.asked == 1
    await reopened.close()


async def test_repeats_at_the_same_time_wait_for_the_first(store: Store) -> None:
    simulator = Simulator()
    answers = await asyncio.gather(*(ask(store, simulator, "a") for _ in range(20)))
    assert simulator.asked == 1
    assert all(answer == answers[0] for answer in answers)


async def test_between_processes_the_first_answer_wins(store: Store, database_url: str) -> None:
    other = Store(database_url)
    both = asyncio.Barrier(2)  # neither answers before the other computes, too
    here, there = Simulator(both), Simulator(both)
    there.asked = 10  # so that its answer reads otherwise
    async with asyncio.timeout(30):  # where one does not compute, the other waits for it
        answers = await asyncio.gather(ask(store, here, "a"), ask(other, there, "a"))
    assert here.asked == 1
    assert there.asked == 11
    assert answers[0] == answers[1]
    assert await ask(store, here, "a") == answers[0]
    await other.close()


@pytest.mark.parametrize("at_once", [False, True])
async def test_other_content_is_refused(store: Store, *, at_once: bool) -> None:
    simulator = Simulator()
    first = asyncio.create_task(ask(store, simulator, "a"))
    await (asyncio.sleep(0) if at_once else first)
    with pytest.raises(RequestIdReused, match="choose a new one") as refusal:
        await ask(store, simulator, "a", task_id="another")
    assert refusal.value.field == "request_id"
    await first
    assert simulator.asked == 1


async def test_a_failure_is_not_kept(store: Store) -> None:
    simulator = Simulator()

    async def fail() -> user_pb2.ReplyResponse:
        raise NotFound("no such task")

    request = user_pb2.ReplyRequest(request_id="a", task_id="t")
    with pytest.raises(NotFound):
        await once(
            store,
            "UserSimulator/Reply",
            "a",
            request,
            response_type=user_pb2.ReplyResponse,
            compute=fail,
        )
    assert (await ask(store, simulator, "a")).reply.text == "answer 1"


async def test_a_cancelled_first_leaves_the_work_to_the_next(store: Store) -> None:
    simulator = Simulator()
    first = asyncio.create_task(ask(store, simulator, "a"))
    await asyncio.sleep(0.005)
    second = asyncio.create_task(ask(store, simulator, "a"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).reply.text.startswith("answer")
    assert first.cancelled()


@pytest.mark.parametrize("request_id", ["", "x" * 65])
async def test_a_request_id_has_1_to_64_characters(store: Store, request_id: str) -> None:
    with pytest.raises(InvalidInput, match="1 to 64") as refusal:
        await ask(store, Simulator(), request_id)
    assert refusal.value.field == "request_id"


async def test_the_same_id_of_another_method_is_another_request(store: Store) -> None:
    request = user_pb2.ReplyRequest(request_id="a")
    response = user_pb2.ReplyResponse(reply=UserReply(text="x"))
    await store.write(lambda c: record(c, "m", "a", request, response))
    await store.write(lambda c: record(c, "n", "a", request, None))
    assert await store.read(lambda c: find(c, "m", "a", request)) == response.SerializeToString()
    assert await store.read(lambda c: find(c, "n", "a", request)) == b""
    assert await store.read(lambda c: find(c, "o", "a", request)) is None
