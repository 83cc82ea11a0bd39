"""A model server that plays every role: a teacher of varied products, an agent, tools and a judge.

What it writes follows from the prompt alone (domain and persona), so its answers may come in any
order. `faults` says, by domain, at which step it fails that domain.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.services.task_synthesis.teacher.sql_product import sql_world
from tests.synthagent.llm.server import (
    ModelServer,
    Received,
    completion,
    fails,
    response,
    serving,
)

ROLES = ("teacher", "tool", "judge")
_SYLLABLES = ["bar", "den", "fol", "gim", "hus", "kel", "lor", "mip", "nas", "pod", "rul", "tev"]
_LABEL = "wanted handover day"


@dataclass
class Company:
    """What the server does, and what it was asked."""

    faults: dict[str, str] = field(default_factory=dict)
    """What goes wrong in a domain: "tool_set" or "tool_fault"."""
    discards: bool = False
    """Whether the teacher keeps none of its tasks."""
    down: set[str] = field(default_factory=set)
    """Roles whose requests are answered with 503."""
    pause: float = 0.0
    """Seconds before each answer."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Role and step of each request that was answered."""
    server: ModelServer | None = None

    def role(self, name: str) -> dict[str, Any]:
        """Settings of a role at this server."""
        assert self.server is not None
        return {
            "base_url": self.server.base_url,
            "model": name,
            "attempts": 1,
            "timeout_seconds": 10,
            "prompt_price": 1.0,
            "completion_price": 2.0,
        }

    def environment(self) -> dict[str, str]:
        """The roles as variables of a server process."""
        return {
            f"SYNTHAGENT_{role.upper()}__{name.upper()}": str(value)
            for role in ROLES
            for name, value in self.role(role).items()
        }

    def count(self, role: str, step: str) -> int:
        """How often a step was answered in a role."""
        return self.asked.count((role, step))

    async def act(self, received: Received, writer: asyncio.StreamWriter) -> None:
        role = str(received.body["model"])
        await asyncio.sleep(self.pause)
        if role in self.down:
            await fails(503)(received, writer)
            return
        step, text = self._answer(role, received.body)
        self.asked.append((role, step))
        body = completion(text, prompt_tokens=100, completion_tokens=10)
        writer.write(response(200, json.dumps(body).encode()))
        await writer.drain()

    def _answer(self, role: str, body: dict[str, Any]) -> tuple[str, str]:
        messages = [str(message["content"]) for message in body["messages"]]
        if role == "judge":
            text = json.dumps({"evidence": [0], "rationale": "It shows.", "answer": "YES"})
            return "vote", text
        if role == "tool":
            return self._tool(messages[1], json.dumps(body["response_format"]))
        if not messages[1].startswith("Step: "):
            return "attempt", self._agent(messages)
        step, _, prompt = messages[1].partition("\n")
        step = step.removeprefix("Step: ")
        return step, json.dumps(getattr(self, f"_{step}")(prompt))

    def _fault(self, domain: str) -> str:
        return self.faults.get(domain, "")

    def _tool(self, prompt: str, schema: str) -> tuple[str, str]:
        if '"entry"' in schema:
            return "match", json.dumps({"reason": "They differ.", "entry": 0})
        domain = _found(r"used in this field: \"(\S+?)\"\.", prompt)
        if self._fault(domain) == "tool_fault":
            return "answer", "this is no JSON"
        return "answer", json.dumps({"status": "done", "reference": "R-204"})

    def _agent(self, messages: list[str]) -> str:
        turns = (len(messages) - 2) // 2
        tool = _found(r"Tools:\n(\w+)\(", messages[0])
        if turns == 0:
            return f"What is the {_LABEL}?"
        if turns == 1:
            call = {"name": tool, "arguments": {"item": "crate", "day": "friday"}}
            return f"<tool_call>{json.dumps(call)}</tool_call>"
        return "<answer>It is settled, reference R-204.</answer>"

    def _tool_set(self, prompt: str) -> dict[str, Any]:
        domain, words = _subject(prompt)
        tools = [_tool_design(words) for _ in range(3)]
        restricted = "nobody" if self._fault(domain) == "tool_set" else tools[0]["name"]
        goals = ["Find out", "Look up", "Compare", "Arrange", "Report"]
        more = ["Confirm", "Record"]
        number = int(_found(r"`workflow`: (\d)", prompt))
        return {
            "tools": tools,
            "restriction": {
                "tool": restricted,
                "forbidden_use": f"overrule the {_word(words)} of another {_word(words)}",
                "reason": f"A {_word(words)} was lost that way.",
            },
            "workflow": [f"{goal} the {_word(words)}" for goal in [*goals, *more][:number]],
        }

    def _tool_check(self, _: str) -> dict[str, Any]:
        return {"answers": []}

    def _distractors(self, prompt: str) -> dict[str, Any]:
        words = Random(_found(r'"name":"(\w+)"', prompt))
        return {"tools": [_tool_design(words)]}

    def _fuzzy_task(self, prompt: str) -> dict[str, Any]:
        _, words = _subject(prompt)
        words.random()  # other words than those of the tools
        fact = {
            "name": "handover day",
            "label": _LABEL,
            "value": words.choice(["monday", "friday"]),
        }
        part = words.choice(["lid", "key", "rim"])
        thing = (
            f"{words.choice(['old', 'green', 'tall'])} {words.choice(['gate', 'barrow', 'lamp'])}"
        )
        return {
            "instruction": f"Please see to my {thing} and its {part}.",
            "facts": [{**fact, "question": "", "reply": ""}],
            "background": f"It has to happen on {fact['value']}, because of the neighbours.",
        }

    def _leak_check(self, _: str) -> dict[str, Any]:
        return {"reason": "It tells nothing.", "leaks": False}

    def _rubric(self, prompt: str) -> dict[str, Any]:
        line = {"tool": "", "arguments": [], "fact": "", "values": [], "question": ""}
        goals = ["the request was understood", "the matter was looked up", "it was settled"]
        return {
            "policy": [{**line, "text": "Nothing private was passed on", "check": "judged"}],
            "sub_goals": [{**line, "text": goal, "check": "judged"} for goal in goals],
            "interaction": [
                {**line, "text": "Asked for the day", "check": "asked", "fact": "handover_day"}
            ],
        }

    def _sql_world(self, _: str) -> dict[str, Any]:
        return sql_world()

    def _keep(self, prompt: str) -> dict[str, Any]:
        return {"reason": "It is clear.", "keep": not self.discards}


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, f"no {pattern} in {text}"
    return found[1]


def _subject(prompt: str) -> tuple[str, Random]:
    """The domain of a prompt, and a source of words that follows from domain and persona."""
    domain = _found(r"Domain: \"?(\w+)", prompt)
    return domain, Random(domain + _found(r"Persona: (.*)", prompt))


def _word(words: Random) -> str:
    return "".join(words.choices(_SYLLABLES, k=3))


def _tool_design(words: Random) -> dict[str, Any]:
    def texts(**properties: str) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {
                name: {"type": "string", "description": told} for name, told in properties.items()
            },
        }

    return {
        "name": f"{_word(words)}_{_word(words)}",
        "category": _word(words),
        "description": " ".join(_word(words) for _ in range(12)),
        "input_schema": texts(item="What it is about", day="Which day"),
        "output_schema": texts(status="How it went", reference="Where to find it"),
        "changes_state": False,
        "simulation": "",
    }


@asynccontextmanager
async def company(**options: Any) -> AsyncIterator[Company]:
    """A company whose server listens while the block runs."""
    opened = Company(**options)
    async with serving(opened.act) as opened.server:
        yield opened
