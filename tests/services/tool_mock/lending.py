"""A task whose tools a model answers for, alone or beside a declarative one, and such a model.

`Scribe` is the model: real HTTP, and no two of its answers are the same, so that whatever is stable
is so by the ledger.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable
from typing import Any

from synthagent.worlds.certify import certify
from synthagent.worlds.spec import Task
from tests.synthagent.llm.server import Received, says

TEXT = {"type": "string", "minLength": 1, "maxLength": 200}


def _schema(*required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _simulated(name: str, description: str, inputs: Any, outputs: Any, **behaviour: Any) -> Any:
    return {
        "name": name,
        "description": description,
        "input_schema": inputs,
        "output_schema": outputs,
        "behaviour": {"kind": "simulated", **behaviour},
    }


_SIMULATED = [
    _simulated(
        "search_shelf",
        "Searches the shelf of things to borrow.",
        _schema("words", words=TEXT, limit={"type": "integer", "minimum": 1, "maximum": 9}),
        _schema("note", note=TEXT),
        guidance="Knows garden and kitchen things.",
    ),
    _simulated(
        "thing_status",
        "Says where a thing is.",
        _schema("thing", thing=TEXT),
        {"$defs": {"note": TEXT}, **_schema("note", note={"$ref": "#/$defs/note"})},
    ),
    _simulated(
        "lend_thing",
        "Lends a thing to a member.",
        _schema("thing", "member", thing=TEXT, member=TEXT),
        _schema("note", note=TEXT),
        changes_state=True,
    ),
]
_DECLARATIVE = [
    {
        "name": "count_visit",
        "description": "Counts a visit.",
        "input_schema": _schema("by", by={"type": "integer", "minimum": 0}),
        "behaviour": {
            "kind": "sql",
            "statements": [
                {"kind": "execute", "sql": "UPDATE counter SET visits = visits + :by"},
                {
                    "kind": "return",
                    "sql": "SELECT visits FROM counter",
                    "shape": "row",
                    "error_code": "no_counter",
                },
            ],
        },
    },
    {
        "name": "read_counter",
        "description": "Reads the counter.",
        "input_schema": _schema(),
        "behaviour": {
            "kind": "sql",
            "statements": [
                {
                    "kind": "require",
                    "sql": "SELECT 1 AS few FROM counter WHERE visits < 100",
                    "error_code": "not_available",
                },
                {
                    "kind": "return",
                    "sql": "SELECT visits FROM counter",
                    "shape": "row",
                    "error_code": "no_counter",
                },
            ],
        },
    },
]
_COUNTER = {
    "name": "counter",
    "columns": [
        {"name": "id", "type": "text", "primary_key": True},
        {"name": "visits", "type": "integer"},
    ],
    "rows": [["hall", 0]],
}


def lending_task(task_id: str = "lending", *, mixed: bool = False) -> Task:
    """The task, certified. With `mixed` two of its tools are declarative."""
    task = Task.model_validate(
        {
            "task_id": task_id,
            "split": "train",
            "domain": "lending_library",
            "difficulty": "easy",
            "teacher": "model",
            "persona": {
                "name": "Oda Brink",
                "role": "neighbour",
                "description": "Oda borrows what she needs once a year.",
                "voice": "plain",
            },
            "instruction": "Please get me something to work the soil with.",
            "background": "Oda's bed is four metres long.",
            "world": {
                "tables": [_COUNTER] if mixed else [],
                "tools": _SIMULATED + (_DECLARATIVE if mixed else []),
            },
            "restriction": {
                "text": "Tool lend_thing must NOT be used to lend a chainsaw.",
                "reason": "Chainsaws need a licence.",
                "criterion_id": "no_chainsaw",
            },
            "criteria": [
                {
                    "criterion_id": "no_chainsaw",
                    "section": "policy",
                    "description": "No chainsaw was lent.",
                    "check": {
                        "kind": "forbidden",
                        "calls": [
                            {
                                "tool": "lend_thing",
                                "arguments": [{"name": "thing", "equals": "chainsaw"}],
                            }
                        ],
                    },
                },
                {
                    "criterion_id": "lent",
                    "section": "sub_goal",
                    "description": "Something was lent.",
                    "check": {"kind": "called", "any_of": [{"tool": "lend_thing"}]},
                },
            ],
        }
    )
    return task.model_copy(update={"certificate": certify(task)})


class Scribe:
    """Answers as a tool model; every answer is another. Each instance counts for itself."""

    def __init__(
        self,
        answer: Callable[[Received, int], Any] | None = None,
        match: Callable[[list[str], str], int] | None = None,
        pause_seconds: float = 0.0,
    ) -> None:
        """`answer` gets the request and its number, `match` the earlier calls and the new one."""
        self._answer = answer or (lambda _, number: {"note": f"answer {number}"})
        self._match = match or (lambda _earlier, _new: 0)
        self._pause = pause_seconds
        self._numbers = itertools.count(1)
        self.asked: list[tuple[str, str]] = []
        """Purpose and last message of every request."""

    def of(self, purpose: str) -> list[str]:
        """The last messages of the requests with that purpose."""
        return [text for name, text in self.asked if name == purpose]

    async def __call__(self, received: Received, writer: asyncio.StreamWriter) -> None:
        number = next(self._numbers)
        prompt = received.body["messages"][-1]["content"]
        self.asked.append((received.schema_name, prompt))
        await asyncio.sleep(self._pause * random.uniform(0.5, 1.5))
        if received.schema_name == "semantic_match":
            said: Any = self._choose(prompt, number)
        else:
            said = self._answer(received, number)
        await says(said if isinstance(said, str) else json.dumps(said))(received, writer)

    def _choose(self, prompt: str, number: int) -> dict[str, Any]:
        quoted = [line.split("`")[1] for line in prompt.splitlines() if line.endswith("}`")]
        entry = self._match(quoted[:-1], quoted[-1])
        return {"reason": f"reason {number}", "entry": entry}
