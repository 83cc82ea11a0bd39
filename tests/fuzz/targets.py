"""What is fuzzed: each target takes bytes and returns; whatever it raises is a finding.

Targets enter where strangers' data enters: tasks and released files that are imported, SQL and
schemas of worlds, what an agent writes, and files of callers. Errors that the code promises for bad
data are expected; everything else is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from typing import Any

import orjson
from google.protobuf.json_format import MessageToDict
from pydantic import ValidationError

from services.user_simulator.reply import UserSimulator
from synthagent.api.v1 import task_pb2
from synthagent.convert import message_of, task_from_proto, task_to_proto
from synthagent.errors import InvalidInput
from synthagent.interchange import read_personas, read_released
from synthagent.worlds import protocol
from synthagent.worlds.arguments import ArgumentError, parse
from synthagent.worlds.certify import certify
from synthagent.worlds.engine import WorldError, compile_world
from synthagent.worlds.episode import (
    AgentAction,
    AgentTurn,
    Event,
    InvalidReason,
    ToolResult,
    UserReply,
)
from synthagent.worlds.rubric import judge
from synthagent.worlds.session import Session
from synthagent.worlds.spec import GateStatus, Split, Task, World
from tests.example_task import example_task
from tests.fuzz.draws import Draws
from tests.synthagent.interchange.released import item

_BOOKING = {"court_id": "C-11", "member_id": "M-502", "day": "friday"}
_MOST_CALLS = 4
_MACHINERY = (InvalidReason.TOOL_FAULT, InvalidReason.REPLAY_MISMATCH)


@cache
def _example() -> Task:
    return example_task()


@cache
def _example_json() -> Any:
    return MessageToDict(task_to_proto(_example()))


@cache
def _released_json() -> Any:
    return item()


def _stranger(draws: Draws) -> Task | None:
    """The example task as a file holds it, changed anywhere; None where the import refuses it."""
    value = draws.edited(_example_json())
    if not isinstance(value, dict):
        return None
    try:
        return task_from_proto(message_of(value, task_pb2.Task))
    except InvalidInput:
        return None


def imported_task(data: bytes) -> None:
    """A task of a stranger: its world is compiled and its tools are called."""
    draws = Draws(data)
    task = _stranger(draws)
    if task is None:
        return
    try:
        image = compile_world(task.world)
    except WorldError:
        return
    with image.open() as session:
        for tool in task.world.tools[:_MOST_CALLS]:
            _call(session, tool.name, _json(draws.edited(_BOOKING)))


def world_sql(data: bytes) -> None:
    """A tool whose program is SQL of a stranger."""
    draws = Draws(data)
    world = _example().world.model_dump(mode="json")
    tool = draws.choice(world["tools"])
    statements = tool["behaviour"]["statements"]
    for _ in range(1 + draws.below(2)):
        draws.choice(statements)["sql"] = draws.sql()
    try:
        image = compile_world(World.model_validate(world))
    except (ValidationError, WorldError):
        return
    with image.open() as session:
        for _ in range(_MOST_CALLS):
            _call(session, tool["name"], _json(_BOOKING))


def schema(data: bytes) -> None:
    """A tool whose schema of arguments is a stranger's, and arguments for it."""
    draws = Draws(data)
    world = _example().world.model_dump(mode="json")
    tool = draws.choice(world["tools"])
    tool["input_schema"] = draws.edited(tool["input_schema"])
    try:
        image = compile_world(World.model_validate(world))
    except (ValidationError, WorldError):
        return
    with image.open() as session:
        _call(session, tool["name"], _json(draws.value()))
        _call(session, tool["name"], _json(draws.edited(_BOOKING)))


def certificate(data: bytes) -> None:
    """A task of a stranger goes through the gates, and through them again to the same end."""
    task = _stranger(Draws(data))
    if task is None:
        return
    result = certify(task)
    if result.gates[-1].status is GateStatus.PASSED:
        assert certify(task) == result


def released_file(data: bytes) -> None:
    """A file in the authors' form: an item changed anywhere, or bytes as they are."""
    draws = Draws(data)
    if draws.below(4) == 0:
        stream = data[1:]
    else:
        stream = json.dumps(
            [draws.edited(_released_json()) for _ in range(1 + draws.below(2))]
        ).encode()
    for _ in read_released(BytesIO(stream), Split.TRAIN):
        pass


def personas_file(data: bytes) -> None:
    """A file of personas."""
    draws = Draws(data)
    lines = [_json(draws.edited({"persona": "p", "name": "n"})) for _ in range(1 + draws.below(3))]
    stream = data[1:] if draws.below(4) == 0 else "\n".join(lines).encode()
    for _ in read_personas(BytesIO(stream)):
        pass


def agent_output(data: bytes) -> None:
    """What an agent writes: read, acted on by the world, answered by the user, and judged."""
    draws = Draws(data)
    task = _example()
    image = compile_world(task.world)
    events: list[Event] = []
    with image.open() as session:
        for _ in range(1 + draws.below(5)):
            turn = protocol.parse(_spoken(draws))
            events.append(Event(sequence=len(events), body=turn))
            if turn.action is AgentAction.ANSWER:
                break
            events.append(Event(sequence=len(events), body=_reaction(session, task, turn, events)))
    verdict = judge(task, image, events, "paper")
    assert verdict.invalid_reason not in _MACHINERY, verdict.detail
    assert verdict.reward is None or 0.0 <= verdict.reward <= 1.0


def _reaction(
    session: Session, task: Task, turn: AgentTurn, events: list[Event]
) -> ToolResult | UserReply:
    if turn.action is AgentAction.CALL:
        return _call(session, turn.tool, turn.arguments)
    return UserSimulator().reply(task, events)


def _spoken(draws: Draws) -> str:
    call = {"name": "book_court", "arguments": _BOOKING}
    match draws.below(5):
        case 0:
            return draws.text()
        case 1:
            return f"<tool_call>{_json(draws.edited(call))}</tool_call>"
        case 2:
            return f"<tool_call>{draws.text()}"
        case 3:
            return f"<answer>{draws.text()}</answer>{draws.text()}"
        case _:
            return f"<think>{draws.text()}</think>Which member, and which day? {draws.text()}"


def arguments(data: bytes) -> None:
    """Arguments of a call as an agent wrote them."""
    try:
        parse(data.decode("utf-8", "replace"))
    except ArgumentError:
        return


def _call(session: Session, tool: str, text: str) -> ToolResult:
    before = session.state_hash
    result = session.call(tool, text)
    assert result.ok or result.state_hash == before, "a failed call changed the world"
    orjson.loads(result.result)
    return result


def _json(value: Any) -> str:
    return json.dumps(value)


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        imported_task,
        world_sql,
        schema,
        certificate,
        released_file,
        personas_file,
        agent_output,
        arguments,
    )
}
