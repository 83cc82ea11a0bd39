"""How well the judge's model agrees with people: labelled items in, agreement and kappa out.

A labelled set is a JSONL file with an object a line:

    {"id": "kept-promise-1", "task": {...} | "task_id": "...", "events": [...],
     "criterion_id": "kept_promise", "label": "YES" | "NO"}

`task` is a whole task and `task_id` names a stored one; `events` is an event log, numbered from 0,
that need not have ended. Both are read in the contract's JSON form and in that of the values
(`Task`, `Event`). Other keys of an item are notes and ignored.

The command line needs three calls:

    items = read_labelled(path)               # InvalidInput tells the bad lines
    judge = asking(client, run=uuid4().hex)   # a new `run` asks anew, the same one repeats
    calibration = await calibrate(items, judge, on_judged=progress)

An abstention is no answer and a fault of the model no judgement: neither counts as agreement or as
disagreement, and both are reported.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import orjson
from pydantic import JsonValue, TypeAdapter, ValidationError
from sklearn.metrics import cohen_kappa_score  # type: ignore[import-untyped]  # it has no types

from synthagent.api.v1 import task_pb2, trajectory_pb2
from synthagent.client import SynthAgentClient
from synthagent.convert import event_from_proto, message_of, task_from_proto
from synthagent.errors import InvalidInput, ModelFault
from synthagent.worlds.episode import Event, Votes
from synthagent.worlds.judgement import CriterionJudgement, Judgement, agreement
from synthagent.worlds.spec import Task
from synthagent.worlds.values import Value

T = TypeVar("T")
Label = Literal["YES", "NO"]
_LABELS: tuple[Label, ...] = ("YES", "NO")
_DECIDED = (Judgement.YES, Judgement.NO)
_EVENT = TypeAdapter[Event](Event)
_TASK = TypeAdapter[Task](Task)
_PROBLEMS_TOLD = 10


class LabelledItem(Value):
    """An episode, one of its criteria, and what a person says of it."""

    item_id: str
    subject: Task | str
    """The task, or the identifier of a stored one."""
    events: tuple[Event, ...]
    criterion_id: str
    label: Label


class JudgedItem(Value):
    """What the judge made of an item: a judgement, or the fault for which there is none."""

    item_id: str
    criterion_id: str
    label: Label
    judgement: Judgement | None
    explanation: str
    """The judge's rationale, or the fault."""
    votes: Votes | None = None


class Calibration(Value):
    """A judge beside the labels. Shares are in [0, 1]; None where nothing was there to share."""

    items: int
    decided: int
    """Items that were judged YES or NO."""
    abstained: int
    faults: int
    agreement: float | None
    """Share of the decided items that are judged as they are labelled."""
    kappa: float | None
    """Cohen's kappa over the decided items, in [-1, 1]; None where label and judgement are all the
    same, so that there is no agreement to expect by chance."""
    abstention: float | None
    """Share of the items without a fault on which the judge abstained."""
    vote_agreement: float | None
    """Mean share of an item's votes that its most frequent answer has."""
    confusion: dict[Label, dict[Judgement, int]]
    """Items by label, then by judgement."""
    disagreements: tuple[JudgedItem, ...]
    """The decided items that are judged otherwise than labelled."""
    undecided: tuple[JudgedItem, ...]
    """The items on which the judge abstained or failed."""


JudgeFunction = Callable[[LabelledItem], Awaitable[CriterionJudgement]]


def read_labelled(path: Path) -> tuple[LabelledItem, ...]:
    """The items of a JSONL file. Raises InvalidInput, which tells each bad line and why."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as UTF-8 text: {error}.") from error
    items: list[LabelledItem] = []
    problems: list[str] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            item = _item(line)
            if item.item_id in lines:
                raise InvalidInput(f"id {item.item_id!r} stands in line {lines[item.item_id]}, too")
        except InvalidInput as error:
            problems.append(f"line {number}: {error.message.rstrip('.')}")
            continue
        lines[item.item_id] = number
        items.append(item)
    if problems:
        more = len(problems) - _PROBLEMS_TOLD
        told = problems[:_PROBLEMS_TOLD] + ([f"and {more} more bad lines"] if more > 0 else [])
        raise InvalidInput(f"{path} is no labelled set: {'; '.join(told)}.")
    if not items:
        raise InvalidInput(f"{path} holds no items; write one JSON object a line.")
    return tuple(items)


def _item(line: str) -> LabelledItem:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidInput("is no JSON object")
    label = found.get("label")
    if label not in _LABELS:
        raise InvalidInput(f"label is {orjson.dumps(label).decode()}; give YES or NO")
    subject = _subject(found)
    criterion_id = _text(found, "criterion_id")
    if isinstance(subject, Task):
        known = [criterion.criterion_id for criterion in subject.criteria]
        if criterion_id not in known:
            raise InvalidInput(
                f"the task has no criterion {criterion_id!r}; it has {', '.join(known)}"
            )
    return LabelledItem(
        item_id=_text(found, "id"),
        subject=subject,
        events=_events(found.get("events")),
        criterion_id=criterion_id,
        label=label,
    )


def _text(item: dict[str, JsonValue], name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{name} is {orjson.dumps(value).decode()}; give a text")
    return value


def _subject(item: dict[str, JsonValue]) -> Task | str:
    if ("task" in item) == ("task_id" in item):
        raise InvalidInput("give either task or task_id")
    if "task_id" in item:
        return _text(item, "task_id")
    task = item["task"]
    if not isinstance(task, dict):
        raise InvalidInput("task is no JSON object")
    if _is_value(task):
        return _validated(_TASK, task, "task")
    try:
        message = message_of(task, task_pb2.Task)
    except InvalidInput as error:
        raise InvalidInput(f"task: {error.message}") from error
    return task_from_proto(message)


def _is_value(task: dict[str, JsonValue]) -> bool:
    """Whether a task is in the form of the values: there, a check tells its kind."""
    criteria = task.get("criteria")
    first = criteria[0] if isinstance(criteria, list) and criteria else None
    return isinstance(first, dict) and "check" in first


def _events(events: JsonValue) -> tuple[Event, ...]:
    if not isinstance(events, list) or not events:
        raise InvalidInput("events is no list with at least one event")
    read = tuple(_event(event, f"events[{number}]") for number, event in enumerate(events))
    for position, event in enumerate(read):
        if event.sequence != position:
            raise InvalidInput(
                f"events[{position}] has sequence {event.sequence}; number them from 0 without gaps"
            )
    return read


def _event(event: JsonValue, path: str) -> Event:
    if isinstance(event, dict) and "body" in event:
        return _validated(_EVENT, event, path)
    if not isinstance(event, dict):
        raise InvalidInput(f"{path} is no JSON object")
    try:
        message = message_of(event, trajectory_pb2.Event)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error.message}") from error
    return event_from_proto(message, path)


def _validated(adapter: TypeAdapter[T], value: JsonValue, path: str) -> T:
    try:
        return adapter.validate_json(orjson.dumps(value))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join([path, *map(str, first["loc"])])
        raise InvalidInput(f"{place}: {first['msg']}") from error


def asking(client: SynthAgentClient, run: str, *, seconds: float = 300.0) -> JudgeFunction:
    """A function that judges by `RubricJudge.JudgeCriterion`; `seconds` is each call's deadline.

    `run` names the calibration: judged again under the same name, an item keeps its answer.
    """

    async def judge(item: LabelledItem) -> CriterionJudgement:
        request_id = hashlib.sha256(f"{run}/{item.item_id}".encode()).hexdigest()
        return await client.judge_criterion(
            request_id, item.subject, item.events, item.criterion_id, seconds=seconds
        )

    return judge


async def calibrate(
    items: Sequence[LabelledItem],
    judge: JudgeFunction,
    *,
    concurrency: int = 8,
    on_judged: Callable[[JudgedItem], None] | None = None,
) -> Calibration:
    """Judges every item, `concurrency` at a time, and compares; `on_judged` hears of each.

    Raises what `judge` raises, except ModelFault, which is reported as the item's fault.
    """
    places = asyncio.Semaphore(concurrency)

    async def one(item: LabelledItem) -> JudgedItem:
        async with places:
            judged = await _judged(item, judge)
        if on_judged is not None:
            on_judged(judged)
        return judged

    running = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return compare(await asyncio.gather(*running))
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _judged(item: LabelledItem, judge: JudgeFunction) -> JudgedItem:
    judgement: Judgement | None = None
    votes: Votes | None = None
    try:
        found = await judge(item)
        judgement, votes = found.judgement, found.result.votes
        explanation = found.result.explanation
    except ModelFault as fault:
        explanation = fault.message
    return JudgedItem(
        item_id=item.item_id,
        criterion_id=item.criterion_id,
        label=item.label,
        judgement=judgement,
        explanation=explanation,
        votes=votes,
    )


def compare(judged: Sequence[JudgedItem]) -> Calibration:
    """The figures of a set that was judged."""
    decided = [item for item in judged if item.judgement in _DECIDED]
    abstained = sum(item.judgement is Judgement.ABSTAIN for item in judged)
    wrong = tuple(item for item in decided if item.judgement != item.label)
    shares = [agreement(item.votes) for item in judged if item.votes is not None]
    return Calibration(
        items=len(judged),
        decided=len(decided),
        abstained=abstained,
        faults=len(judged) - len(decided) - abstained,
        agreement=_share(len(decided) - len(wrong), len(decided)),
        kappa=_kappa(decided),
        abstention=_share(abstained, len(decided) + abstained),
        vote_agreement=sum(shares) / len(shares) if shares else None,
        confusion={
            label: {
                judgement: sum(i.label == label and i.judgement is judgement for i in judged)
                for judgement in Judgement
            }
            for label in _LABELS
        },
        disagreements=wrong,
        undecided=tuple(item for item in judged if item.judgement not in _DECIDED),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _kappa(decided: Sequence[JudgedItem]) -> float | None:
    labels = [item.label for item in decided]
    judgements = [str(item.judgement) for item in decided]
    if len({*labels, *judgements}) < 2:
        return None
    return float(cohen_kappa_score(labels, judgements, labels=list(_LABELS)))
