"""The checker's process, and what is asked of it.

Owns one child process for as long as the context lasts. A request that the package cannot answer,
and a process that dies, raise `BfclFault`: neither says anything about the model.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import JsonValue

from synthagent.errors import PreconditionFailed

VENV_VARIABLE = "BFCL_PYTHON"
DEFAULT_PYTHON = Path(".venv-bfcl/bin/python")
_CHECKER = Path(__file__).with_name("checker.py")
_MAX_LINE = 64 * 1024 * 1024  # all items of a category come as one line


class BfclFault(RuntimeError):
    """The package or its process failed; carries no score."""


@dataclass(frozen=True)
class Function:
    """A function that an item offers. `parameters` is its schema in the package's dialect."""

    name: str
    description: str
    parameters: Mapping[str, JsonValue]


@dataclass(frozen=True)
class Item:
    """One item: what the user says, turn by turn, and what may be called."""

    item_id: str
    category: str
    turns: tuple[str, ...]
    functions: tuple[Function, ...]

    @property
    def multi_turn(self) -> bool:
        """Whether its functions run, and their results are read."""
        return self.category.startswith("multi_turn")


@dataclass(frozen=True)
class Items:
    """The items of some categories, in the package's order, and its rules."""

    version: str
    max_steps: int
    by_category: Mapping[str, tuple[Item, ...]]


class Checker:
    """Requests to the process; one at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()

    async def items(self, categories: Sequence[str]) -> Items:
        """All items of the categories. Raises BfclFault, also for an unknown category."""
        answer = await self._ask({"do": "items", "categories": list(categories)})
        found = {
            category: tuple(_item(category, row) for row in rows)
            for category, rows in answer["items"].items()
        }
        return Items(answer["version"], answer["max_steps"], found)

    async def execute(
        self, episode: str, item_id: str, calls: Sequence[Mapping[str, str]]
    ) -> list[str]:
        """What the calls return, in the state that `episode` has come to. Raises BfclFault."""
        request = {"do": "execute", "episode": episode, "item": item_id, "calls": list(calls)}
        return list((await self._ask(request))["results"])

    async def score(
        self, category: str, results: Sequence[Mapping[str, Any]], folder: Path
    ) -> dict[str, str]:
        """The type of error of each answer that is wrong. Raises BfclFault.

        `folder` is an absolute path; the package leaves its score file there.
        Asked once of a process: the package keeps the tools' states of a multi-turn answer.
        """
        request = {
            "do": "score",
            "category": category,
            "results": list(results),
            "folder": str(folder),
        }
        return dict((await self._ask(request))["wrong"])

    async def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        reader, writer = self._process.stdout, self._process.stdin
        if reader is None or writer is None:
            raise TypeError("the checker's process has no pipes")
        async with self._turn:
            try:
                writer.write(orjson.dumps(request) + b"\n")
                await writer.drain()
                line = await reader.readline()
            except (ConnectionError, ValueError) as error:
                raise BfclFault(f"the checker's process is gone: {error}") from error
        if not line:
            raise BfclFault("the checker's process ended; its last words stand in its log")
        answer: dict[str, Any] = orjson.loads(line)
        if "error" in answer:
            raise BfclFault(f"bfcl-eval refused {request['do']!r}: {answer['error']}")
        return answer


@asynccontextmanager
async def checker(log: Path, python: Path | None = None) -> AsyncIterator[Checker]:
    """A checker whose standard error goes to `log`.

    Raises PreconditionFailed where the environment has not been made.
    """
    chosen = python or Path(os.environ.get(VENV_VARIABLE) or DEFAULT_PYTHON)
    if not chosen.exists():
        raise PreconditionFailed(
            f"{chosen} is not there; run `make bfcl`, or set {VENV_VARIABLE} to the Python of an "
            "environment that has bfcl-eval."
        )
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors, tempfile.TemporaryDirectory(prefix="bfcl-") as home:
        process = await asyncio.create_subprocess_exec(
            *(str(chosen.absolute()), str(_CHECKER)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            limit=_MAX_LINE,
            env={**os.environ, "BFCL_PROJECT_ROOT": home, "PYTHONIOENCODING": "utf-8"},
        )
        try:
            yield Checker(process)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), timeout=5)
            except TimeoutError:
                process.kill()
                await process.wait()


def _item(category: str, row: Mapping[str, Any]) -> Item:
    return Item(
        item_id=row["id"],
        category=category,
        turns=tuple("\n".join(said["content"] for said in turn) for turn in row["question"]),
        functions=tuple(
            Function(each["name"], each["description"], each["parameters"])
            for each in row["function"]
        ),
    )
