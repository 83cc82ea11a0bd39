"""Variants of the example task: the same data with one thing changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from synthagent.worlds.certify import certify
from synthagent.worlds.spec import Gate, GateStatus, Task, World
from tests.example_task import example_task

Data = dict[str, Any]
Change = Callable[[Data], None]


def changed(change: Change) -> Task:
    """The example task after a change of its data."""
    data = example_task().model_dump(mode="json")
    change(data)
    return Task.model_validate(data)


def tool(data: Data, name: str) -> Data:
    """A tool of a task's data."""
    found: Data = next(tool for tool in data["world"]["tools"] if tool["name"] == name)
    return found


def criterion(data: Data, criterion_id: str) -> Data:
    """A criterion of a task's data."""
    found: Data = next(c for c in data["criteria"] if c["criterion_id"] == criterion_id)
    return found


def world(*statements: Data, schema: Data | None = None, rows: int = 3) -> World:
    """A world of one table and one tool `act` with a program of these statements."""
    return World.model_validate(
        {
            "tables": [
                {
                    "name": "item",
                    "columns": [
                        {"name": "id", "type": "integer", "primary_key": True},
                        {"name": "name", "type": "text", "nullable": True},
                        {"name": "price", "type": "real", "nullable": True},
                    ],
                    "rows": [[i, f"item {i}", i / 2] for i in range(rows)],
                }
            ],
            "tools": [
                {
                    "name": "act",
                    "description": "Acts.",
                    "input_schema": schema
                    or {
                        "type": "object",
                        "properties": {
                            "a": {"type": "string"},
                            "n": {"type": "integer", "default": 5},
                            "x": {},
                        },
                    },
                    "behaviour": {"kind": "sql", "statements": list(statements)},
                }
            ],
        }
    )


def returns(sql: str, shape: str = "rows") -> Data:
    """A RETURN statement."""
    if shape == "row":
        return {"kind": "return", "sql": sql, "shape": "row", "error_code": "none_found"}
    return {"kind": "return", "sql": sql, "shape": "rows", "key": "rows"}


def executes(sql: str) -> Data:
    """An EXECUTE statement."""
    return {"kind": "execute", "sql": sql}


def requires(sql: str, message: str = "") -> Data:
    """A REQUIRE statement."""
    return {"kind": "require", "sql": sql, "error_code": "refused", "error_message": message}


def rejection(change: Change) -> tuple[Gate, str]:
    """The gate and reason of a changed example; every gate before it passed."""
    certificate = certify(changed(change))
    assert not certificate.passed
    *before, last = certificate.gates
    assert [result.gate for result in certificate.gates] == list(Gate)[: len(certificate.gates)]
    assert all(result.status is GateStatus.PASSED for result in before)
    assert last.status is GateStatus.FAILED
    return last.gate, last.detail
