"""`synthagent personas`: sets of people for a model teacher to draw from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from synthagent.cli.connection import Address, DataDir, run
from synthagent.cli.exits import EPILOG, ExitCode
from synthagent.cli.files import InputFile, opened
from synthagent.cli.output import AsJson, reading, remark, say, write_json, write_table
from synthagent.client import SynthAgentClient
from synthagent.convert import persona_to_proto
from synthagent.interchange import Rejection, read_personas
from synthagent.worlds.spec import Persona

MAX_BATCH = 1000

app = typer.Typer(help="Sets of people for a model teacher to draw from.", no_args_is_help=True)


@app.command("import", epilog=EPILOG)
def import_(
    file: InputFile,
    persona_set: Annotated[str, typer.Option("--set", help="Name of the set to add to.")],
    address: Address = None,
    data_dir: DataDir = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Adds personas of a JSONL file to a set.

    A line is a JSON string, or an object with the persona under "persona", "description" or "text",
    and optionally a "name" and a "role". Bad lines are reported and left out. A repeat adds
    nothing.
    """

    async def work(client: SynthAgentClient) -> ExitCode:
        return await _import(client, file, persona_set, as_json=as_json)

    run(address, data_dir, work, as_json=as_json)


async def _import(
    client: SynthAgentClient, file: Path, persona_set: str, *, as_json: bool
) -> ExitCode:
    counts = {"imported": 0, "duplicates": 0, "total": 0}
    rejected: list[Rejection] = []
    batch: list[Persona] = []

    async def send() -> None:
        if batch:
            request_id = _request_id(persona_set, batch)
            messages = [persona_to_proto(persona) for persona in batch]
            answer = await client.import_personas(request_id, persona_set, messages)
            counts["imported"] += answer.stored
            counts["duplicates"] += answer.duplicates
            counts["total"] = answer.total
            batch.clear()

    with opened(file) as (stream, size), reading() as bar:
        line = bar.add_task("reading personas", total=size, count="")
        for found in read_personas(stream):
            if isinstance(found, Rejection):
                rejected.append(found)
                continue
            batch.append(found.persona)
            for note in found.notes:
                remark(f"Note: {note.place}: {note.reason}")
            if len(batch) == MAX_BATCH:
                await send()
                bar.update(line, completed=stream.tell(), count=str(counts["imported"]))
        await send()
        bar.update(line, completed=size, count=str(counts["imported"]))
    _report(persona_set, counts, rejected, as_json=as_json)
    return ExitCode.PARTLY if rejected else ExitCode.DONE


def _report(
    persona_set: str, counts: dict[str, int], rejected: Sequence[Rejection], *, as_json: bool
) -> None:
    if as_json:
        rows = [
            {"id": each.item_id, "place": each.place, "reason": each.reason} for each in rejected
        ]
        write_json({**counts, "rejected": rows})
        return
    say(
        f"{counts['imported']} new personas in the set {persona_set!r}, {counts['duplicates']} "
        f"that it held already, {counts['total']} in all; {len(rejected)} lines rejected."
    )
    if rejected:
        write_table("Rejected", ["place", "reason"], [(r.place, r.reason) for r in rejected])


def _request_id(persona_set: str, batch: Sequence[Persona]) -> str:
    """The same for the same personas, so that a repeat adds nothing."""
    content = "\n".join([persona_set, *(persona.model_dump_json() for persona in batch)])
    return f"personas-{hashlib.sha256(content.encode()).hexdigest()[:48]}"


@app.command("list", epilog=EPILOG)
def list_(
    persona_set: Annotated[
        str, typer.Option("--set", help='Name of the set; "generated" names our own.')
    ] = "generated",
    limit: Annotated[int, typer.Option(min=1, help="Most personas to list.")] = 20,
    address: Address = None,
    data_dir: DataDir = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Lists personas of a set."""

    async def work(client: SynthAgentClient) -> ExitCode:
        found: list[Persona] = []
        async for persona in client.list_personas(persona_set):
            found.append(persona)
            if len(found) == limit:
                break
        if as_json:
            write_json({"personas": [persona.model_dump() for persona in found]})
        else:
            rows = [(persona.name, persona.role, persona.description) for persona in found]
            write_table(f"Personas of {persona_set!r}", ["name", "role", "description"], rows)
        return ExitCode.DONE

    run(address, data_dir, work, as_json=as_json)
