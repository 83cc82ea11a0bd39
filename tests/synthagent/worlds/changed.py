"""Variants of the example task: the same data with one thing changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from synthagent.worlds.spec import Task, World
from tests.example_task import example_task

Data = dict[str, Any]


def changed(change: Callable[[Data], None]) -> Task:
    """The example task after a change of its data."""
    data = example_task().model_dump(mode="json")
    change(data)
    return Task.model_validate(data)


def tool(data: Data, name: str) -> Data:
    """A tool of a task's data."""
    return next(tool for tool in data["world"]["tools"] if tool["name"] == name)


def criterion(data: Data, criterion_id: str) -> Data:
    """A criterion of a task's data."""
    return next(c for c in data["criteria"] if c["criterion_id"] == criterion_id)


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
