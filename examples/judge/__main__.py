"""Writes `labelled.jsonl` from `scenarios.toml`: `python -m examples.judge`.

Then, with a model configured for the judge:
`synthagent judge calibrate examples/judge/labelled.jsonl`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
from google.protobuf.json_format import MessageToDict

from synthagent.convert import event_to_proto, task_to_proto
from synthagent.worlds.episode import (
    AgentAction,
    AgentTurn,
    EpisodeEnd,
    EpisodeOutcome,
    Event,
    EventBody,
    ReplyKind,
    ToolResult,
    UserReply,
)
from synthagent.worlds.protocol import answer_turn, call_turn, message_turn
from synthagent.worlds.spec import Task

FOLDER = Path(__file__).parent
_STATE = "0" * 32  # the tools are simulated: there is no state to hash
_ANY_OBJECT = {"type": "object"}


def items(source: str) -> Iterator[dict[str, Any]]:
    """The labelled items of the scenarios, in the contract's JSON form."""
    for scenario in tomllib.loads(source)["scenario"]:
        task = MessageToDict(task_to_proto(_task(scenario)), preserving_proto_field_name=True)
        for number, episode in enumerate(scenario["episodes"], 1):
            events = [
                MessageToDict(event_to_proto(event), preserving_proto_field_name=True)
                for event in _events(episode["turns"])
            ]
            for criterion_id, label in episode["labels"].items():
                yield {
                    "id": f"{scenario['id']}-{number}-{criterion_id}",
                    "task": task,
                    "events": events,
                    "criterion_id": criterion_id,
                    "label": label,
                }


def written(source: str) -> str:
    """The JSONL text of the scenarios."""
    return "".join(f"{orjson.dumps(item).decode()}\n" for item in items(source))


def _task(scenario: dict[str, Any]) -> Task:
    criteria = [
        {
            "criterion_id": criterion_id,
            "section": criterion["section"],
            "description": criterion["description"],
            "check": {"kind": "judged", "question": criterion["question"]},
        }
        for criterion_id, criterion in scenario["criteria"].items()
    ]
    restriction = {
        "criterion_id": "restriction",
        "section": "policy",
        "description": scenario["rule"],
        "check": {"kind": "judged", "question": "Did the agent keep the rule?"},
    }
    return Task.model_validate(
        {
            "task_id": f"example-{scenario['id']}",
            "split": "held_out",
            "domain": "example",
            "difficulty": "easy",
            "teacher": "handwritten",
            "persona": {"name": "Robin", "role": "caller", "description": "", "voice": "plain"},
            "instruction": scenario["instruction"],
            "world": {"tools": [_tool(tool) for tool in scenario["tools"]]},
            "restriction": {
                "text": scenario["rule"],
                "reason": scenario["reason"],
                "criterion_id": "restriction",
            },
            "criteria": [restriction, *criteria],
        }
    )


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": tool["name"],
        "description": tool["description"],
        "input_schema": _ANY_OBJECT,
        "output_schema": _ANY_OBJECT,
        "behaviour": {"kind": "simulated", "changes_state": tool.get("changes_state", False)},
    }


def _events(turns: Sequence[Sequence[str]]) -> list[Event]:
    bodies = [_body(*turn) for turn in turns]
    last = bodies[-1]
    answered = isinstance(last, AgentTurn) and last.action is AgentAction.ANSWER
    outcome = EpisodeOutcome.ANSWERED if answered else EpisodeOutcome.TURN_LIMIT
    bodies.append(EpisodeEnd(outcome=outcome))
    return [Event(sequence=number, body=body) for number, body in enumerate(bodies)]


def _body(kind: str, text: str, more: str = "") -> EventBody:
    match kind:
        case "message":
            return message_turn(text)
        case "answer":
            return answer_turn(text)
        case "call":
            return call_turn(text, orjson.loads(more))
        case "user":
            return UserReply(text=text, reply=ReplyKind.ANSWERED)
        case "result":
            return ToolResult(ok=True, result=text, state_hash=_STATE)
        case _:
            raise ValueError(f"{kind!r} is no kind of turn")


if __name__ == "__main__":
    source = (FOLDER / "scenarios.toml").read_text("utf-8")
    (FOLDER / "labelled.jsonl").write_text(written(source), "utf-8")
