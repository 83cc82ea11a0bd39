"""`synthagent trajectories`: list attempts, and show one as a conversation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict

from synthagent.api.v1 import trajectory_pb2
from synthagent.cli.connection import Address, DataDir, run
from synthagent.cli.exits import EPILOG, ExitCode
from synthagent.cli.output import AsJson, is_plain, screen, write_json, write_table
from synthagent.cli.trajectory_rows import HEADS, json_row, table_row
from synthagent.client import SynthAgentClient
from synthagent.conversation import conversation
from synthagent.convert import event_from_proto, task_to_proto, verdict_from_proto

app = typer.Typer(help="List attempts at tasks, and show one.", no_args_is_help=True)


@app.command("list", epilog=EPILOG)
def list_(
    run_id: Annotated[
        str | None, typer.Argument(help="Run. None means all runs, the newest first.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most trajectories to list.")] = 1000,
    address: Address = None,
    data_dir: DataDir = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Lists ended trajectories."""

    async def work(client: SynthAgentClient) -> ExitCode:
        found: list[trajectory_pb2.Trajectory] = []
        async for trajectory in _all(client, run_id):
            found.append(trajectory)
            if len(found) == limit:
                break
        if as_json:
            write_json({"trajectories": [json_row(each) for each in found]})
        else:
            write_table(f"{len(found)} trajectories", HEADS, [table_row(each) for each in found])
        return ExitCode.DONE

    run(address, data_dir, work, as_json=as_json)


async def _all(
    client: SynthAgentClient, run_id: str | None
) -> AsyncIterator[trajectory_pb2.Trajectory]:
    run_ids = [run_id] if run_id else [each.run_id async for each in client.list_runs()]
    for each in run_ids:
        async for trajectory in client.list_trajectories(each):
            yield trajectory


@app.command("show", epilog=EPILOG)
def show(
    trajectory_id: Annotated[str, typer.Argument(help="Identifier of the trajectory.")],
    address: Address = None,
    data_dir: DataDir = None,
    *,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="With --json: the tokens and log-probabilities, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Shows the conversation: tool calls, revealed facts, and the verdict per criterion.

    With --json: {"task", "trajectory"}, both in the contract's form.
    """

    async def work(client: SynthAgentClient) -> ExitCode:
        trajectory = await client.get_trajectory(trajectory_id)
        task = await client.get_task(trajectory.task_id)
        if as_json:
            if not tokens:
                trajectory.ClearField("segments")
            write_json(
                {
                    "task": MessageToDict(task_to_proto(task), preserving_proto_field_name=True),
                    "trajectory": MessageToDict(trajectory, preserving_proto_field_name=True),
                }
            )
            return ExitCode.DONE
        events = [event_from_proto(event) for event in trajectory.events]
        has = trajectory.HasField("verdict")
        verdict = verdict_from_proto(trajectory.verdict) if has else None
        screen().print(conversation(task, events, verdict, plain=is_plain()))
        return ExitCode.DONE

    run(address, data_dir, work, as_json=as_json)
