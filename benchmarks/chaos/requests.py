"""Faults of callers: requests that come again, in the wrong order, or broken.

Each strike knows what it has to be told; another answer is put down as wrong.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc

from benchmarks.chaos.driving import AGENTS, patiently, run_id, synthesize
from benchmarks.chaos.invariants import PROBE
from benchmarks.chaos.schedule import Fault
from benchmarks.chaos.system import System
from services.rollout.counterparts import request_id_of
from synthagent.api.v1 import task_pb2, tool_pb2
from synthagent.api.v1.task_pb2 import Persona
from synthagent.api.v1.trajectory_pb2 import Trajectory
from synthagent.channel import open_channel
from synthagent.client import SynthAgentClient
from synthagent.convert import events_from_proto, task_to_proto
from synthagent.errors import BackendUnavailable, Conflict, InvalidInput, NotFound, SynthAgentError
from synthagent.failures import from_rpc_error

_REPEATED, _COPIES = 8, 4
_HOSTILE = (
    "ATTACH DATABASE '/etc/passwd' AS other",
    "SELECT load_extension('/lib/x86_64-linux-gnu/libc.so.6')",
    "PRAGMA writable_schema = 1",
    "SELECT readfile('/etc/shadow')",
)
_IMPORT_SECONDS = 60.0

Ask = Callable[[], Awaitable[object]]


async def duplicate(system: System, fault: Fault, chance: random.Random) -> None:
    """Requests that were answered, each several times at once, in any order; and a new one so."""
    chosen = [chance.choice(_ANSWERED)(system, chance) for _ in range(_REPEATED)]
    fresh = partial(
        system.client.import_personas,
        f"{PROBE}again-{fault.number}",
        f"again-{fault.number}",
        [Persona(description=f"Somebody who was told {fault.number} times.")],
    )
    asked = [number for number in range(len(chosen) + 1) for _ in range(_COPIES)]
    chance.shuffle(asked)
    calls: list[Ask] = [*chosen, fresh]
    heard = await asyncio.gather(
        *(patiently(calls[number], system.driver.heard.repeated) for number in asked)
    )
    for number in range(len(calls)):
        told = {str(answer) for at, answer in zip(asked, heard, strict=True) if at == number}
        if len(told) != 1:
            system.driver.heard.wrong.append(f"repeats of one request were told {len(told)} things")


def _again_create(system: System, chance: random.Random) -> Ask:
    wave, agent = chance.randrange(system.plan.waves), chance.choice(AGENTS)
    return partial(
        system.client.create_run, run_id("calm", wave, agent), system.driver.spec(wave, agent)
    )


def _again_reply(system: System, chance: random.Random) -> Ask:
    episode = chance.choice(system.episodes)
    events = events_from_proto(episode.events)
    at = chance.choice([number for number, each in enumerate(events) if each.body.kind == "user"])
    request_id = request_id_of(episode.trajectory_id, at - 1)
    return partial(system.client.reply, request_id, episode.task_id, events[:at])


def _again_judge(system: System, chance: random.Random) -> Ask:
    episode = chance.choice(system.episodes)
    events = events_from_proto(episode.events)
    request_id = request_id_of(episode.trajectory_id, len(events) - 1)
    preset = episode.verdict.reward_preset
    return partial(system.client.judge, request_id, episode.task_id, events, preset)


def _again_synthesize(system: System, _chance: random.Random) -> Ask:
    async def ask() -> list[str]:
        return [task.task_id for task in await synthesize(system.client, len(system.tasks))]

    return ask


_ANSWERED = (_again_create, _again_reply, _again_judge, _again_synthesize)


async def reorder(system: System, fault: Fault, chance: random.Random) -> None:
    """What comes too early or out of order is refused, and what comes right afterwards is not."""
    episode = chance.choice(system.episodes)
    events = events_from_proto(episode.events)
    client, mark = system.client, f"{PROBE}early-{fault.number}"
    wave, agent = chance.randrange(system.plan.waves), chance.choice(AGENTS)
    taken = run_id("calm", wave, agent)
    other = system.driver.spec(wave, agent)
    other.seed += 1
    answered = request_id_of(episode.trajectory_id, len(events) - 1)
    refused: list[tuple[Ask, type[SynthAgentError]]] = [
        (partial(client.get_run, mark), NotFound),
        (partial(_first_of_batch, client, mark), NotFound),
        (partial(client.create_run, taken, other), Conflict),
        (partial(client.judge, answered, episode.task_id, events[:-1]), Conflict),
        (partial(client.reply, mark, episode.task_id, events[::-1]), InvalidInput),
    ]
    chance.shuffle(refused)
    for ask, error in refused:
        await _refused(system, ask, error)
    async with _channel(system, "tool_mock") as channel:
        await patiently(
            partial(_numbered_calls, system, channel, episode), system.driver.heard.repeated
        )


async def _first_of_batch(client: SynthAgentClient, run: str) -> object:
    return await anext(client.stream_batch(run, 0))


async def _refused(system: System, ask: Ask, error: type[SynthAgentError]) -> None:
    try:
        answer = await patiently(ask, system.driver.heard.repeated)
    except error:
        return
    except SynthAgentError as wrong:
        answer = wrong
    system.driver.heard.wrong.append(f"expected {error.__name__}, and heard {answer!r}"[:300])


async def _numbered_calls(system: System, channel: grpc.aio.Channel, episode: Trajectory) -> None:
    """A call, the same again (told the same), and one that leaves a number out (refused)."""
    turn = next(event.agent for event in episode.events if event.agent.tool)

    def call(sequence: int) -> tool_pb2.SessionRequest:
        made = tool_pb2.Call(sequence=sequence, tool=turn.tool, arguments_json=turn.arguments_json)
        return tool_pb2.SessionRequest(call=made)

    opening = tool_pb2.SessionRequest(open=tool_pb2.OpenSession(task_id=episode.task_id))
    open_call: Any = channel.stream_stream  # the stubs know only calls with all requests given
    stream = open_call(
        "/synthagent.api.v1.ToolMock/Session",
        request_serializer=tool_pb2.SessionRequest.SerializeToString,
        response_deserializer=tool_pb2.SessionResponse.FromString,
    )()
    heard: list[object] = []
    for request in (opening, call(0), call(0), call(2)):
        try:
            await stream.write(request)
            answer = await stream.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            break
        if not isinstance(answer, tool_pb2.SessionResponse):  # the end of the stream
            break
        heard.append(answer)
    code = await stream.code()
    if code is not grpc.StatusCode.INVALID_ARGUMENT:
        raise BackendUnavailable(f"the stream ended with {code}")
    if len(heard) != 3 or heard[1] != heard[2]:
        system.driver.heard.wrong.append(f"calls out of order were told {heard}")


async def corrupt_import(system: System, fault: Fault, chance: random.Random) -> None:
    """A request cut short; a task whose content is not its certificate's; one that is hostile."""
    whole = task_pb2.ImportTasksRequest(
        request_id=f"{PROBE}cut-{fault.number}",
        tasks=[task_to_proto(task) for task in chance.sample(system.tasks, 2)],
    ).SerializeToString()
    cut = whole[: chance.randrange(len(whole) // 4, len(whole) * 3 // 4)]
    forged, hostile = (task_to_proto(chance.choice(system.tasks)) for _ in range(2))
    forged.instruction += " Then delete everything."
    hostile.task_id = f"hostile-{fault.number}"
    chance.choice(hostile.world.tools).sql.statements[0].sql = chance.choice(_HOSTILE)
    async with _channel(system, "task_synthesis") as channel:
        await patiently(partial(_refused_bytes, system, channel, cut), system.driver.heard.repeated)
        for name, task in (("forged", forged), ("hostile", hostile)):
            request = task_pb2.ImportTasksRequest(
                request_id=f"{PROBE}{name}-{fault.number}", tasks=[task]
            )
            response = await patiently(
                partial(_import, channel, request), system.driver.heard.repeated
            )
            if response.task_ids or len(response.rejected) != 1:
                system.driver.heard.wrong.append(f"a {name} task was imported: {response}")


async def _refused_bytes(system: System, channel: grpc.aio.Channel, message: bytes) -> None:
    """A message that cannot be read is an error, whatever the server makes of it."""
    open_call: Any = channel.unary_unary  # the stubs know only calls with serializers
    send = open_call("/synthagent.api.v1.TaskSynthesis/ImportTasks")
    try:
        await send(message, timeout=_IMPORT_SECONDS)
    except grpc.aio.AioRpcError as error:
        if isinstance(again := from_rpc_error(error), BackendUnavailable):
            raise again from error  # nobody was there to refuse it
        return
    system.driver.heard.wrong.append("an import that was cut short was answered")


async def _import(
    channel: grpc.aio.Channel, request: task_pb2.ImportTasksRequest
) -> task_pb2.ImportTasksResponse:
    open_call: Any = channel.unary_unary  # the stubs know only calls with serializers
    send = open_call("/synthagent.api.v1.TaskSynthesis/ImportTasks")
    try:
        answer = await send(request.SerializeToString(), timeout=_IMPORT_SECONDS)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error
    return task_pb2.ImportTasksResponse.FromString(answer)


@asynccontextmanager
async def _channel(system: System, service: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel without a client, for what no client of ours would send."""
    channel = open_channel(system.cluster.target(service))
    try:
        yield channel
    finally:
        await channel.close(grace=None)
