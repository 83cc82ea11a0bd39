"""`synthagent tasks`: make, import, list, show and export tasks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

import typer
from google.protobuf.json_format import MessageToDict

from synthagent.cli.connection import Address, DataDir, run
from synthagent.cli.exits import EPILOG, ExitCode
from synthagent.cli.files import InputFile, replaced
from synthagent.cli.output import AsJson, is_plain, screen, write_json, write_table
from synthagent.cli.synthesis import synthesize
from synthagent.cli.task_import import Format, import_file
from synthagent.cli.task_view import task_view
from synthagent.client import SynthAgentClient
from synthagent.convert import task_to_proto
from synthagent.interchange import DOMAIN, to_item
from synthagent.worlds.spec import Split, Task

app = typer.Typer(help="Make, import, list, show and export tasks.", no_args_is_help=True)
app.command("synthesize", epilog=EPILOG)(synthesize)

SplitFilter = Annotated[Split | None, typer.Option("--split", help="Only this split.")]
DomainFilter = Annotated[str, typer.Option("--domain", help="Only this domain.")]
DifficultyFilter = Annotated[str, typer.Option("--difficulty", help="Only this difficulty.")]


class Layout(StrEnum):
    """How items stand in an exported file."""

    ARRAY = "array"
    LINES = "lines"


@app.command("import", epilog=EPILOG)
def import_(
    file: InputFile,
    *,
    file_format: Annotated[
        Format,
        typer.Option("--format", help="synthagent: the authors' released form; native: ours."),
    ],
    split: Annotated[
        Split,
        typer.Option(help="What released items may be used for. Native tasks say it themselves."),
    ] = Split.HELD_OUT,
    domain: Annotated[
        str,
        typer.Option(
            help=f"Domain of released items; a domain belongs to one split. Default: {DOMAIN}, "
            "with -train for the split train."
        ),
    ] = "",
    address: Address = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Certifies and stores the tasks of a file (JSON array or JSONL).

    What cannot be read, or does not pass a gate, is reported by id and place and left out. With
    --json: {"imported": N, "rejected": [{"id", "place", "reason"}]}. A repeat changes nothing.
    """
    own = domain or (DOMAIN if split is Split.HELD_OUT else f"{DOMAIN}-{split.value}")

    async def work(client: SynthAgentClient) -> ExitCode:
        return await import_file(client, file, file_format, split, own, as_json=as_json)

    run(address, data_dir, work, as_json=as_json)


@app.command("list", epilog=EPILOG)
def list_(
    *,
    split: SplitFilter = None,
    domain: DomainFilter = "",
    difficulty: DifficultyFilter = "",
    limit: Annotated[int, typer.Option(min=1, help="Most tasks to list.")] = 1000,
    address: Address = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Lists stored tasks in order of admission."""

    async def work(client: SynthAgentClient) -> ExitCode:
        found = []
        async for summary in client.list_tasks(split=split, domain=domain, difficulty=difficulty):
            found.append(MessageToDict(summary, True, True))  # noqa: FBT003 - positional in protobuf
            if len(found) == limit:
                break
        if as_json:
            write_json({"tasks": found})
        else:
            heads = (
                "task_id",
                "split",
                "domain",
                "difficulty",
                "teacher",
                "tool_count",
                "instruction",
            )
            rows = [[_shown(row[head]) for head in heads] for row in found]
            write_table(f"{len(found)} tasks", [head.replace("_", " ") for head in heads], rows)
        return ExitCode.DONE

    run(address, data_dir, work, as_json=as_json)


def _shown(value: object) -> object:
    text = str(value)
    return text.removeprefix("SPLIT_").lower() if text.startswith("SPLIT_") else value


@app.command("show", epilog=EPILOG)
def show(
    task_id: Annotated[str, typer.Argument(help="Identifier of the task.")],
    address: Address = None,
    data_dir: DataDir = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Shows a task: what the agent and the user know, tools, rubric, certificate."""

    async def work(client: SynthAgentClient) -> ExitCode:
        task = await client.get_task(task_id)
        if as_json:
            write_json(_native(task))
        else:
            screen().print(task_view(task, plain=is_plain()))
        return ExitCode.DONE

    run(address, data_dir, work, as_json=as_json)


@app.command("export", epilog=EPILOG)
def export(
    *,
    task_ids: Annotated[
        list[str] | None, typer.Argument(help="Tasks to export. None means all that are listed.")
    ] = None,
    file_format: Annotated[
        Format,
        typer.Option("--format", help="synthagent: the authors' released form; native: ours."),
    ] = Format.NATIVE,
    out: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="File to write; .jsonl gives an object a line, .json an array. Without one, to "
            "standard output.",
        ),
    ] = None,
    split: SplitFilter = None,
    domain: DomainFilter = "",
    difficulty: DifficultyFilter = "",
    address: Address = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Writes tasks to a file, in order of admission.

    An imported item that was not changed since is given back as it was. The released form has no
    place for programs, tables and gold plans of our own tasks; the native form has. Without --out
    the tasks themselves are the one JSON document on standard output.
    """
    lines = out.suffix == ".jsonl" if out else file_format is Format.NATIVE and not as_json
    layout = Layout.LINES if lines else Layout.ARRAY

    async def work(client: SynthAgentClient) -> ExitCode:
        async def wanted() -> AsyncIterator[str]:
            for task_id in task_ids or ():
                yield task_id
            if not task_ids:
                listed = client.list_tasks(split=split, domain=domain, difficulty=difficulty)
                async for summary in listed:
                    yield summary.task_id

        with replaced(out) as stream:
            count = await _write(client, wanted(), file_format, layout, stream)
        if as_json and out:
            write_json({"exported": count, "file": str(out)})
        elif out:
            screen(stderr=True).print(f"{count} tasks written.")
        return ExitCode.DONE

    run(address, data_dir, work, as_json=as_json)


async def _write(
    client: SynthAgentClient,
    task_ids: AsyncIterator[str],
    file_format: Format,
    layout: Layout,
    stream: TextIO,
) -> int:
    """Writes one task after the other, so that a large export is never held in memory."""
    count = 0
    array = layout is Layout.ARRAY
    stream.write("[" if array else "")
    async for task_id in task_ids:
        task = await client.get_task(task_id)
        item = to_item(task) if file_format is Format.SYNTHAGENT else _native(task)
        text = json.dumps(item, ensure_ascii=False)
        stream.write((",\n" if count else "\n") + text if array else text + "\n")
        count += 1
    stream.write("\n]\n" if array else "")
    return count


def _native(task: Task) -> dict[str, object]:
    found: dict[str, object] = MessageToDict(task_to_proto(task), preserving_proto_field_name=True)
    return found
