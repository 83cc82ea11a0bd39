"""Answers of a model to items: made, kept as they are made, and found again.

Owns the folder of an evaluation:

    settings.json    what decides the answers; another evaluation in the folder is refused
    answers.jsonl    one answer a line, appended when it is whole

A fault of the model's or the package's machinery leaves no answer, so a repeat asks again.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict

from benchmarks.bfcl.chat import calls_in, system_text
from benchmarks.bfcl.models import ContextFull, Conversation, Model, ModelFault, Reply
from benchmarks.bfcl.process import BfclFault, Checker, Item
from synthagent.errors import Conflict

Step = list[dict[str, str]] | str
"""What one turn of the model did: its calls, or what it said."""


class Answer(BaseModel):
    """A model's answer to an item, as the checker takes it.

    `result` of a single-turn item is one step; of a multi-turn item, the steps of each of the
    user's turns, fewer than the user has where the model was stopped.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    category: str
    result: Any
    texts: list[str]
    tokens: int
    seconds: float
    stopped: str = ""


class Settings(BaseModel):
    """What decides the answers."""

    model_config = ConfigDict(frozen=True)

    model: str
    format: str
    bfcl_eval: str
    turn_tokens: int
    context_tokens: int


class AnswerFolder:
    """The answers that are there. Raises Conflict where they were made otherwise."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "settings.json"
        if path.exists():
            earlier = Settings.model_validate_json(path.read_bytes())
            if earlier != settings:
                differs = [n for n, v in settings if getattr(earlier, n) != v]
                raise Conflict(
                    f"{folder} holds answers that were made with another {', '.join(differs)}; "
                    "choose another folder, or remove it."
                )
        path.write_text(settings.model_dump_json(indent=2) + "\n", encoding="utf-8")
        self._path = folder / "answers.jsonl"
        self.by_id = {answer.id: answer for answer in self._read()}

    def add(self, answer: Answer) -> None:
        """Keeps an answer; on disk when this returns."""
        with self._path.open("ab") as file:
            file.write(answer.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.by_id[answer.id] = answer

    def _read(self) -> list[Answer]:
        if not self._path.exists():
            return []
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) != len(content):  # cut while it was written
            self._path.write_bytes(whole)
        return [Answer.model_validate(orjson.loads(line)) for line in whole.splitlines()]


class Answering:
    """Asks a model items, several at once."""

    def __init__(
        self, model: Model, checker: Checker, folder: AnswerFolder, max_steps: int
    ) -> None:
        self._model = model
        self._checker = checker
        self._folder = folder
        self._max_steps = max_steps
        self._attempts = itertools.count()

    async def run(
        self,
        items: Sequence[Item],
        *,
        done: Callable[[], None],
        deadline: float | None = None,
    ) -> Mapping[str, str]:
        """Answers what has no answer yet; returns what went wrong by item.

        `done` is called after each item; `deadline`, by time.monotonic(), lets none begin after it.
        """
        faults: dict[str, str] = {}
        waiting = iter([item for item in items if item.item_id not in self._folder.by_id])

        async def work() -> None:
            for item in waiting:
                if deadline is not None and time.monotonic() >= deadline:
                    return
                try:
                    self._folder.add(await self._answer(item))
                except (ModelFault, BfclFault) as error:
                    faults[item.item_id] = str(error)
                done()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._model.places):
                tasks.create_task(work())
        return faults

    async def _answer(self, item: Item) -> Answer:
        started = time.perf_counter()
        key = f"attempt_{os.getpid()}_{next(self._attempts)}"
        replies: list[Reply] = []
        async with self._model.converse(key) as conversation:
            result: Step | list[list[Step]]
            stopped = ""
            if item.multi_turn:
                result, stopped = await self._turns(item, key, conversation, replies)
            else:
                result = await self._single(item, conversation, replies)
        return Answer(
            id=item.item_id,
            category=item.category,
            result=result,
            texts=[reply.text for reply in replies],
            tokens=sum(reply.tokens for reply in replies),
            seconds=round(time.perf_counter() - started, 3),
            stopped=stopped,
        )

    async def _single(self, item: Item, conversation: Conversation, replies: list[Reply]) -> Step:
        try:
            reply = await conversation.begin(system_text(item.functions), item.turns[0])
        except ContextFull as error:
            raise ModelFault(f"the prompt is longer than the context: {error}") from error
        replies.append(reply)
        return calls_in(reply.text)

    async def _turns(
        self, item: Item, key: str, conversation: Conversation, replies: list[Reply]
    ) -> tuple[list[list[Step]], str]:
        """The steps of each turn, and why it was stopped early: "steps", "context", or ""."""
        turns: list[list[Step]] = []
        try:
            for number, said in enumerate(item.turns):
                if number == 0:
                    reply = await conversation.begin(system_text(item.functions), said)
                else:
                    reply = await conversation.go_on("user", said)
                turns.append([])
                while True:
                    replies.append(reply)
                    step = calls_in(reply.text)
                    turns[-1].append(step)
                    if isinstance(step, str):
                        break
                    results = await self._checker.execute(key, item.item_id, step)
                    if len(turns[-1]) > self._max_steps:
                        return turns, "steps"
                    reply = await conversation.go_on("tool", "\n".join(results))
        except ContextFull:
            return turns[:-1], "context"  # too few turns: the checker counts the item as stopped
        return turns, ""
