"""Reads a file of tasks and imports them in batches, each under an identifier of its content.

The same file gives the same batches and the same request identifiers, so a repeat is answered from
what was stored. The file is read as it goes and never held.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from synthagent.api.v1 import task_pb2
from synthagent.cli.exits import ExitCode
from synthagent.cli.files import opened
from synthagent.cli.output import reading, remark, say, write_json, write_table
from synthagent.client import SynthAgentClient
from synthagent.convert import GATE, message_of, task_from_proto
from synthagent.errors import InvalidInput
from synthagent.interchange import Imported, Rejection, Unreadable, read_documents, read_released
from synthagent.worlds.content import task_digest
from synthagent.worlds.spec import Split, Task

MAX_BATCH = 250  # of the contract's 1,000, so that progress is seen
MAX_BATCH_BYTES = 4 * 2**20


class Format(StrEnum):
    """Forms of a file of tasks."""

    SYNTHAGENT = "synthagent"
    NATIVE = "native"


@dataclass(frozen=True, slots=True)
class _Given:
    """A task that was read: its number in the file, identifier in the source, and place."""

    number: int
    item_id: str
    place: str
    task: Task


@dataclass(slots=True)
class Outcome:
    """What became of a file: tasks stored, and what was rejected, by number in the file."""

    imported: int = 0
    rejected: list[tuple[int, Rejection]] = field(default_factory=list)

    def rows(self) -> list[Rejection]:
        """The rejections in order of the file."""
        return [each for _, each in sorted(self.rejected, key=lambda found: found[0])]


async def import_file(
    client: SynthAgentClient,
    path: Path,
    file_format: Format,
    split: Split,
    domain: str,
    *,
    as_json: bool,
) -> ExitCode:
    """Imports a file and reports."""
    outcome = Outcome()
    with opened(path) as (stream, size), reading() as bar:
        line = bar.add_task("importing tasks", total=size, count="")
        released = file_format is Format.SYNTHAGENT
        found = read_released(stream, split, domain) if released else read_native(stream)
        for batch in _batches(found, outcome):
            await _send(client, batch, outcome)
            done = None if size is None else stream.tell()
            bar.update(line, completed=done, count=str(outcome.imported))
        bar.update(line, completed=size, count=str(outcome.imported))
    _report(path, outcome, as_json=as_json)
    return ExitCode.PARTLY if outcome.rejected else ExitCode.DONE


def read_native(stream: BinaryIO) -> Iterator[Imported | Rejection]:
    """The tasks of a file in the contract's JSON form (JSONL or array)."""
    for document in read_documents(stream):
        if isinstance(document, Unreadable):
            yield Rejection("", document.place, document.reason)
            continue
        value = document.value
        if not isinstance(value, dict):
            yield Rejection("", document.place, "it is no object")
            continue
        given = str(value.get("task_id", value.get("taskId", "")))
        item_id = given.encode("utf-8", "replace").decode()
        try:
            task = task_from_proto(message_of(value, task_pb2.Task))
        except InvalidInput as error:
            place = f"{document.place}: {error.field}" if error.field else document.place
            yield Rejection(item_id, place, error.message)
        else:
            yield Imported(task, document.place, ())


def _batches(found: Iterator[Imported | Rejection], outcome: Outcome) -> Iterator[list[_Given]]:
    """Batches of what was read; what was not goes to the outcome, and notes to the terminal."""
    batch: list[_Given] = []
    size = 0
    for number, each in enumerate(found):
        if isinstance(each, Rejection):
            outcome.rejected.append((number, each))
            continue
        for note in each.notes:
            remark(f"Note: {note.item_id}: {note.place}: {note.reason}")
        task = each.task
        length = len(task.model_dump_json())
        if batch and (len(batch) == MAX_BATCH or size + length > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        item_id = task.origin.item_id if task.origin else task.task_id
        batch.append(_Given(number, item_id, each.place, task))
        size += length
    if batch:
        yield batch


async def _send(client: SynthAgentClient, batch: Sequence[_Given], outcome: Outcome) -> None:
    digests = "\n".join(task_digest(given.task) for given in batch)
    request_id = f"import-{hashlib.sha256(digests.encode()).hexdigest()[:48]}"
    response = await client.import_tasks(request_id, [given.task for given in batch])
    outcome.imported += len(response.task_ids)
    for refused in response.rejected:
        given = batch[refused.index]
        gate = GATE.from_optional(refused.gate, "gate")
        reason = f"gate {gate.value}: {refused.reason}" if gate else refused.reason
        outcome.rejected.append((given.number, Rejection(given.item_id, given.place, reason)))


def _report(path: Path, outcome: Outcome, *, as_json: bool) -> None:
    rows = outcome.rows()
    if as_json:
        write_json(
            {
                "imported": outcome.imported,
                "rejected": [{"id": r.item_id, "place": r.place, "reason": r.reason} for r in rows],
            }
        )
        return
    say(f"{outcome.imported} tasks imported from {path}, {len(rows)} rejected.")
    if rows:
        table = [(row.item_id, row.place, row.reason) for row in rows]
        write_table("Rejected", ["id", "place", "reason"], table)
