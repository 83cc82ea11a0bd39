"""The world whose tool calls are timed: a stockroom where reads and writes go on for ever.

Four tables with 62 rows, five tools. `requests` cycles through two reads and two writes (take, give
back), each validated, executed and hashed; the state returns to where it was, so that a call costs
the same at the beginning and at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from synthagent.worlds.spec import Task

_BINS = [f"bin-{number}" for number in range(1, 7)]
_KINDS = ["valve", "gasket", "bearing", "filter", "sensor"]


def _tool(name: str, description: str, properties: dict[str, Any], program: list[Any]) -> Any:
    return {
        "name": name,
        "description": description,
        "input_schema": {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        },
        "behaviour": {"kind": "sql", "statements": program},
    }


def _move(name: str, description: str, sign: str, condition: str) -> Any:
    return _tool(
        name,
        description,
        {
            "part_id": {"type": "string", "minLength": 1, "maxLength": 16},
            "units": {"type": "integer", "minimum": 1, "maximum": 50},
        },
        [
            {
                "kind": "require",
                "sql": f"SELECT units AS held FROM part "  # noqa: S608 - constants
                f"WHERE id = :part_id AND {condition}",
                "error_code": "not_enough",
                "error_message": "Part {part_id} cannot move {units} units.",
            },
            {
                "kind": "execute",
                "sql": f"UPDATE part SET units = units {sign} :units WHERE id = :part_id",  # noqa: S608 - constants
            },
            {
                "kind": "return",
                "sql": "SELECT id AS part_id, units FROM part WHERE id = :part_id",
                "shape": "row",
                "error_code": "part_not_found",
                "error_message": "There is no part {part_id}.",
            },
        ],
    )


def _call(tool: str, **arguments: object) -> dict[str, Any]:
    return {
        "tool": tool,
        "arguments": [{"name": key, "equals": value} for key, value in arguments.items()],
    }


def stockroom() -> Task:
    """The task. It passes every gate."""
    parts = [
        [f"P-{100 + n}", f"{_KINDS[n % 5]} {n}", _KINDS[n % 5], _BINS[n % 6], 40 + n]
        for n in range(40)
    ]
    text, integer = {"type": "text"}, {"type": "integer"}
    return Task.model_validate(
        {
            "task_id": "benchmark-stockroom",
            "split": "train",
            "domain": "benchmark_stockroom",
            "difficulty": "standard",
            "teacher": "import",
            "persona": {
                "name": "Ada Brandt",
                "role": "storekeeper",
                "description": "Ada runs the stockroom and counts twice.",
                "voice": "plain",
            },
            "instruction": "Please take parts out of the stockroom for me.",
            "world": {
                "tables": [
                    {
                        "name": "part",
                        "columns": [
                            {"name": "id", "primary_key": True, **text},
                            {"name": "label", **text},
                            {"name": "kind", **text},
                            {"name": "bin", **text},
                            {"name": "units", **integer},
                        ],
                        "rows": parts,
                    },
                    {
                        "name": "bin",
                        "columns": [{"name": "id", "primary_key": True, **text}],
                        "rows": [[name] for name in _BINS],
                    },
                    {
                        "name": "keeper",
                        "columns": [
                            {"name": "id", "primary_key": True, **text},
                            {"name": "name", **text},
                        ],
                        "rows": [[f"K-{n}", f"keeper {n}"] for n in range(8)],
                    },
                    {
                        "name": "log",
                        "columns": [
                            {"name": "id", "primary_key": True, **text},
                            {"name": "entry", **text},
                        ],
                        "rows": [[f"L-{n}", "counted"] for n in range(8)],
                    },
                ],
                "tools": [
                    _tool(
                        "list_bin",
                        "Lists the parts of one bin.",
                        {"bin": {"type": "string", "enum": _BINS}},
                        [
                            {
                                "kind": "return",
                                "sql": "SELECT id AS part_id, kind FROM part "
                                "WHERE bin = :bin ORDER BY id",
                                "shape": "rows",
                                "key": "parts",
                            }
                        ],
                    ),
                    _tool(
                        "show_part",
                        "Shows one part.",
                        {"part_id": {"type": "string", "minLength": 1, "maxLength": 16}},
                        [
                            {
                                "kind": "return",
                                "sql": "SELECT label, units FROM part WHERE id = :part_id",
                                "shape": "row",
                                "error_code": "part_not_found",
                                "error_message": "There is no part {part_id}.",
                            }
                        ],
                    ),
                    _move("take_part", "Takes units of a part.", "-", "units >= :units"),
                    _move("return_part", "Gives units of a part back.", "+", "units >= 0"),
                    _tool(
                        "clear_part",
                        "Writes a part off without a count.",
                        {"part_id": {"type": "string", "minLength": 1, "maxLength": 16}},
                        [
                            {
                                "kind": "execute",
                                "sql": "UPDATE part SET units = 0 WHERE id = :part_id",
                            },
                            {
                                "kind": "return",
                                "sql": "SELECT id AS part_id, units FROM part WHERE id = :part_id",
                                "shape": "row",
                                "error_code": "part_not_found",
                                "error_message": "There is no part {part_id}.",
                            },
                        ],
                    ),
                ],
            },
            "facts": [
                {
                    "fact_id": "part_id",
                    "label": "part number",
                    "value": "P-107",
                    "ask_terms": ["part", "number", "which"],
                    "replies": ["It is part {value}."],
                    "questions": ["Which part number do you need?"],
                },
                {
                    "fact_id": "units",
                    "label": "quantity",
                    "value": 13,
                    "ask_terms": ["many", "quantity", "units"],
                    "replies": ["I need {value} of them."],
                    "questions": ["How many units do you need?"],
                },
            ],
            "restriction": {
                "text": "Tool clear_part must NOT be used to take parts.",
                "reason": "Written-off parts are lost to the count.",
                "criterion_id": "no_clear",
                "probe": {
                    "plan_id": "probe",
                    "steps": [
                        {
                            "step_id": "clear",
                            "tool": "clear_part",
                            "arguments": {"part_id": "P-107"},
                        }
                    ],
                    "answer": "Done.",
                },
            },
            "gold_plans": [
                {
                    "plan_id": "main",
                    "steps": [
                        {
                            "step_id": "show",
                            "tool": "show_part",
                            "arguments": {"part_id": {"$fact": "part_id"}},
                        },
                        {
                            "step_id": "take",
                            "tool": "take_part",
                            "arguments": {
                                "part_id": {"$fact": "part_id"},
                                "units": {"$fact": "units"},
                            },
                        },
                    ],
                    "answer": "Taken; {step:take:/units} units are left.",
                }
            ],
            "criteria": [
                {
                    "criterion_id": "no_clear",
                    "section": "policy",
                    "description": "Nothing was written off.",
                    "check": {"kind": "forbidden", "calls": [{"tool": "clear_part"}]},
                },
                {
                    "criterion_id": "shown",
                    "section": "sub_goal",
                    "description": "Looked at the part first.",
                    "check": {"kind": "called", "any_of": [_call("show_part", part_id="P-107")]},
                },
                {
                    "criterion_id": "taken",
                    "section": "sub_goal",
                    "description": "13 units of P-107 are taken.",
                    "check": {
                        "kind": "state",
                        "sql": "SELECT units = 34 FROM part WHERE id = 'P-107'",
                    },
                },
                {
                    "criterion_id": "asked_part",
                    "section": "interaction",
                    "description": "Asked for the part.",
                    "check": {"kind": "asked", "fact_id": "part_id"},
                },
                {
                    "criterion_id": "asked_units",
                    "section": "interaction",
                    "description": "Asked for the quantity.",
                    "check": {"kind": "asked", "fact_id": "units"},
                },
            ],
        }
    )


def calls(count: int) -> Iterator[tuple[str, str]]:
    """`count` calls (tool, arguments as JSON text): two reads and two writes in turn."""
    cycle = (
        ("list_bin", '{"bin":"bin-2"}'),
        ("show_part", '{"part_id":"P-107"}'),
        ("take_part", '{"part_id":"P-107","units":3}'),
        ("return_part", '{"part_id":"P-107","units":3}'),
    )
    for number in range(count):
        yield cycle[number % len(cycle)]
