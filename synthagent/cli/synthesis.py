"""`synthagent tasks synthesize`: certified tasks from a teacher, with yield and cost."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict

from synthagent.api.v1 import task_pb2
from synthagent.cli.connection import Address, DataDir, run
from synthagent.cli.exits import ExitCode
from synthagent.cli.output import AsJson, counting, remark, say, write_json, write_table
from synthagent.client import SynthAgentClient
from synthagent.errors import LimitExceeded
from synthagent.worlds.spec import Split, Task

_MODEL = "Model teacher"


class TeacherName(StrEnum):
    """Who makes the tasks."""

    PROGRAM = "program"
    MODEL = "model"


class ToolKindName(StrEnum):
    """Kinds of tools that a model teacher writes."""

    SIMULATED = "simulated"
    SQL = "sql"


def _route(text: str) -> task_pb2.RouteWeight:
    """A weight written as dimension=value:weight; the value may hold colons."""
    dimension, given, rest = text.partition("=")
    value, colon, weight = rest.rpartition(":")
    try:
        if not (given and colon and dimension.strip() and value.strip()):
            raise ValueError
        return task_pb2.RouteWeight(
            dimension=dimension.strip(), value=value.strip(), weight=float(weight)
        )
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no route; write dimension=value:weight, as in domain=travel:2"
        ) from None


def synthesize(
    *,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Tasks to admit.")] = 10,
    split: Annotated[Split, typer.Option(help="What they may be used for.")] = Split.TRAIN,
    difficulty: Annotated[str, typer.Option(help="Named level. Default: standard.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same tasks.")] = 0,
    domain: Annotated[
        list[str] | None, typer.Option(help="Domain to draw from; may be given again.")
    ] = None,
    teacher: Annotated[
        TeacherName, typer.Option(help="program needs no model; model needs SYNTHAGENT_TEACHER__*.")
    ] = TeacherName.PROGRAM,
    tool_kind: Annotated[
        ToolKindName | None,
        typer.Option(
            help="Tools that a model answers (default), or programs over tables.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    attempts: Annotated[
        int | None,
        typer.Option(
            min=1, max=16, help="Attempts at each task. Default: 4.", rich_help_panel=_MODEL
        ),
    ] = None,
    min_solutions: Annotated[
        int | None,
        typer.Option(
            min=1, max=16, help="Attempts that must succeed. Default: 2.", rich_help_panel=_MODEL
        ),
    ] = None,
    persona_set: Annotated[
        str | None,
        typer.Option(help="Personas to draw from. Default: generated.", rich_help_panel=_MODEL),
    ] = None,
    route: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIM=VALUE:WEIGHT",
            help="Wanted share of a route: domain, persona, tool_family, length or difficulty; may "
            "be given again.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    repairs: Annotated[
        int | None,
        typer.Option(
            min=0, max=8, help="Times a bad product goes back. Default: 2.", rich_help_panel=_MODEL
        ),
    ] = None,
    items_per_task: Annotated[
        int | None,
        typer.Option(
            min=1, max=100, help="Most items to try a task. Default: 10.", rich_help_panel=_MODEL
        ),
    ] = None,
    request_id: Annotated[
        str, typer.Option(help="Name of the request. Default: of its content; a repeat goes on.")
    ] = "",
    address: Address = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Makes certified tasks, and prints yield and cost.

    The same arguments name the same request: a repeat after an interruption goes on where it was
    cut, and one after the end prints what was made.
    """
    settings: dict[str, Any] = {
        "attempts": attempts,
        "min_solutions": min_solutions,
        "persona_set": persona_set,
        "repairs": repairs,
        "items_per_task": items_per_task,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    if teacher is TeacherName.PROGRAM and (given or tool_kind or route):
        raise typer.BadParameter("options of the model teacher need --teacher model")
    model = None
    if teacher is TeacherName.MODEL:
        model = task_pb2.ModelTeacher(
            tool_kind=task_pb2.ToolKind.Value(f"TOOL_KIND_{(tool_kind or 'simulated').upper()}"),
            routes=[_route(text) for text in route or ()],
            **given,
        )
    request = task_pb2.SynthesizeTasksRequest(
        count=count,
        split=task_pb2.Split.Value(f"SPLIT_{split.name}"),
        difficulty=difficulty,
        seed=seed,
        domains=domain or (),
        model=model,
    )
    name = request_id or _request_id(request)

    async def work(client: SynthAgentClient) -> ExitCode:
        return await _synthesize(client, name, request, split, as_json=as_json)

    run(address, data_dir, work, as_json=as_json)


def _request_id(request: task_pb2.SynthesizeTasksRequest) -> str:
    content = request.SerializeToString(deterministic=True)
    return f"synthesize-{hashlib.sha256(content).hexdigest()[:48]}"


async def _synthesize(
    client: SynthAgentClient,
    request_id: str,
    request: task_pb2.SynthesizeTasksRequest,
    split: Split,
    *,
    as_json: bool,
) -> ExitCode:
    task_ids: list[str] = []
    code = ExitCode.DONE
    with counting() as bar:
        line = bar.add_task("certified tasks", total=request.count)
        stream = client.synthesize_tasks(
            request_id,
            request.count,
            split,
            difficulty=request.difficulty,
            seed=request.seed,
            domains=request.domains,
            model=request.model if request.HasField("model") else None,
        )
        try:
            async for item in stream:
                if isinstance(item, Task):
                    task_ids.append(item.task_id)
                    bar.update(line, completed=len(task_ids))
                else:
                    bar.update(line, description=f"certified tasks ({item.attempted} tried)")
        except LimitExceeded as error:
            remark(f"Stopped: {error.message}")
            code = ExitCode.PARTLY
    await _report(client, request_id, task_ids, as_json=as_json)
    return code


async def _report(
    client: SynthAgentClient, request_id: str, task_ids: list[str], *, as_json: bool
) -> None:
    found = await client.get_synthesis(request_id)
    figures = MessageToDict(found, True, True)  # noqa: FBT003 - positional in protobuf
    progress = figures.pop("progress")
    usage = {name: _number(value) for name, value in progress.pop("usage", {}).items()}
    if as_json:
        whole = {"request_id": request_id, **progress, "usage": usage, **figures}
        write_json({**whole, "task_ids": task_ids})
        return
    say(f"{progress['admitted']} of {progress['requested']} tasks admitted, request {request_id}.")
    rows: list[tuple[str, object]] = [
        ("items tried", progress["attempted"]),
        ("yield", round(figures["yield"], 4)),
    ]
    rows += [(f"rejected by {gate}", n) for gate, n in sorted(progress["rejected_by_gate"].items())]
    if usage.get("calls"):
        rows += [
            ("model calls", usage["calls"]),
            ("tokens read", usage["prompt_tokens"]),
            ("tokens written", usage["completion_tokens"]),
            ("cost", round(usage["cost"], 4)),
            ("tokens per admitted task", round(figures["tokens_per_admitted"], 1)),
            ("cost per admitted task", round(figures["cost_per_admitted"], 4)),
            ("model seconds per admitted task", round(figures["seconds_per_admitted"], 2)),
            ("distance from the wanted routes", round(progress["route_distance"], 4)),
        ]
    write_table("Synthesis", ["what", "figure"], [(name, str(value)) for name, value in rows])
    if figures["routes"]:
        heads = ("dimension", "value", "target", "admitted", "attempted")
        table = [[share[head] for head in heads] for share in figures["routes"]]
        write_table("Routes", heads, table)


def _number(value: object) -> float:
    """A figure; protobuf writes 64-bit integers as JSON strings."""
    number = float(str(value))
    return int(number) if number.is_integer() else number
