"""Released SYNTHAGENT items as tasks, and tasks as released items.

An item is {"id", "prompt", "task_background", "rubrics"}. Its task has simulated tools, the policy
as its restriction, the rubric as typed criteria, and no typed facts: its background is a text.
What has no other place in the task lies in `Origin.texts`, so that `to_item` gives the item back;
an item for which it would not is refused, so an import never loses anything.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import orjson
from pydantic import JsonValue, ValidationError

from synthagent.interchange.criteria import direct_violation, policy_criterion, to_criteria
from synthagent.interchange.documents import Unreadable, read_documents
from synthagent.interchange.findings import Note, Rejection, Unparsed, one_line
from synthagent.interchange.policy import NO_REASON, Policy, split_policy
from synthagent.interchange.prompt import TEXT, Prompt, read_prompt, write_prompt
from synthagent.interchange.rendering import fresh_item
from synthagent.interchange.rubric import read_rubric
from synthagent.interchange.tools import ToolSet, read_tools, render_tools, tool_lines
from synthagent.worlds.criteria import Criterion, Section
from synthagent.worlds.spec import Origin, Persona, Restriction, Split, Task, Tool, World
from synthagent.worlds.values import canonical_json

FORMAT = "synthagent"
DOMAIN = "synthagent-release"
DIFFICULTY = "unrated"
_KEYS = {
    "id": ("id", "task_id", "uuid"),
    "prompt": ("prompt", "messages"),
    "background": ("task_background", "background"),
    "rubrics": ("rubrics", "rubric"),
}
_PERSONA = Persona(
    name="the user",
    role="someone who needs help with a task",
    description="Knows what the background tells, and answers when asked.",
    voice="plain",
)
_MAX_ID = 64


@dataclass(frozen=True, slots=True)
class Imported:
    """A task that was made of an item, and what was noted on the way."""

    task: Task
    place: str
    notes: tuple[Note, ...]


@dataclass(slots=True)
class _Source:
    """The parts of an item, each under the key that it stands under; notes grow on the way."""

    item: dict[str, JsonValue]
    item_id: str
    keys: dict[str, str]
    prompt: Prompt
    tools: ToolSet
    background: str
    rubrics: str
    notes: list[tuple[str, str]]


def read_released(
    stream: BinaryIO, split: Split, domain: str = DOMAIN
) -> Iterator[Imported | Rejection]:
    """The items of a file (JSON array or JSONL), one by one, as tasks or with why they are none."""
    seen: dict[str, str] = {}
    for document in read_documents(stream):
        if isinstance(document, Unreadable):
            yield Rejection("", document.place, document.reason)
            continue
        try:
            found = from_item(document.value, split, domain)
        except Unparsed as error:
            item_id = _item_id(document.value)
            yield Rejection(item_id, f"{document.place}: {error.place}", error.reason)
            continue
        task_id = found.task.task_id
        if task_id in seen:
            reason = f"its id stands twice in the file, first at {seen[task_id]}"
            yield Rejection(_item_id(document.value), f"{document.place}: id", reason)
            continue
        seen[task_id] = document.place
        yield Imported(
            found.task,
            document.place,
            tuple(
                Note(note.item_id, f"{document.place}: {note.place}", note.reason)
                for note in found.notes
            ),
        )


def from_item(value: JsonValue, split: Split, domain: str = DOMAIN) -> Imported:
    """The task of one item. Raises Unparsed, whose place is a path in the item."""
    source = _read(_checked(value))
    rubric = read_rubric(source.rubrics)
    if not rubric.of(Section.SUB_GOAL) and not rubric.of(Section.INTERACTION):
        raise Unparsed("rubrics", "no sub-goal and no interaction can be told from it")
    source.notes += [*source.prompt.notes, *source.tools.notes, *rubric.notes]
    restriction, criteria = _restriction(source, to_criteria(rubric.items, source.tools.names))
    try:
        task = Task(
            task_id=_task_id(source.item_id),
            split=split,
            domain=domain,
            difficulty=DIFFICULTY,
            teacher="import",
            persona=_PERSONA,
            instruction=source.prompt.instruction,
            world=World(tools=tuple(source.tools.tools)),
            restriction=restriction,
            criteria=tuple(criteria),
            background=source.background,
            workflow=tuple(found.title for found in rubric.of(Section.SUB_GOAL)),
            origin=Origin(format=FORMAT, item_id=source.item_id, texts=_texts(source)),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "item"
        raise Unparsed(place, first["msg"].removeprefix("Value error, ")) from error
    if _refill(task) != value:
        raise Unparsed("prompt", "an export would not give it back as it is")
    notes = (Note(source.item_id, place, reason) for place, reason in source.notes)
    return Imported(task, "", tuple(notes))


def to_item(task: Task) -> dict[str, JsonValue]:
    """The task in the released form.

    Of a task that was imported from it and not changed since: the item it was made from. Of any
    other: an item of the same shape that says what the task says, without programs and gold plans.
    """
    if task.origin is None or task.origin.format != FORMAT:
        return fresh_item(task)
    item = _refill(task)
    try:
        again = from_item(item, task.split, task.domain).task
    except Unparsed:
        return fresh_item(task)
    same = ("instruction", "background", "world", "restriction", "criteria")
    unchanged = all(getattr(again, name) == getattr(task, name) for name in same)
    return item if unchanged else fresh_item(task)


def _checked(value: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise Unparsed("item", f"it is no object: {one_line(json.dumps(value), 60)}")
    try:
        json.dumps(value, allow_nan=False)
        orjson.dumps(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise Unparsed("item", f"it holds a value that JSON or Unicode has not: {error}") from error
    return value


def _read(item: dict[str, JsonValue]) -> _Source:
    keys = {name: next((k for k in known if k in item), "") for name, known in _KEYS.items()}
    if not keys["prompt"]:
        raise Unparsed("prompt", "the item has none")
    notes: list[tuple[str, str]] = []
    if item.get(keys["id"]) in (None, ""):
        notes.append(("id", "the item has none; one is made from its content"))
    prompt = read_prompt(item[keys["prompt"]])
    return _Source(
        item=item,
        item_id=_item_id(item),
        keys=keys,
        prompt=prompt,
        tools=read_tools(prompt.tools),
        background=_text(item, keys["background"] or "task_background", notes),
        rubrics=_text(item, keys["rubrics"] or "rubrics", notes),
        notes=notes,
    )


def _text(item: dict[str, JsonValue], key: str, notes: list[tuple[str, str]]) -> str:
    value = item.get(key)
    if value is None:
        notes.append((key, "it is missing"))
        return ""
    if not isinstance(value, str):
        raise Unparsed(key, f"it is no text: {one_line(json.dumps(value), 60)}")
    if not value.strip():
        notes.append((key, "it is empty"))
    return value


def _restriction(source: _Source, criteria: list[Criterion]) -> tuple[Restriction, list[Criterion]]:
    """The restriction, and the criteria with one that detects it."""
    criterion_id = direct_violation(criteria)
    if source.prompt.policy:
        policy = split_policy(source.prompt.policy)
        if policy.reason == NO_REASON:
            source.notes.append(("prompt", "the policy states no reason"))
    else:
        detecting = next((c for c in criteria if c.criterion_id == criterion_id), None)
        if detecting is None:
            raise Unparsed("prompt", "there is no policy, and no policy criterion in the rubric")
        policy = Policy(detecting.description, NO_REASON)
        source.notes.append(("prompt", "there is no policy; the rubric's criterion stands for it"))
    if not criterion_id:
        criteria = [policy_criterion(policy.rule, source.prompt.policy), *criteria]
        criterion_id = criteria[0].criterion_id
    rule, reason = policy.rule, policy.reason
    names = [original for original, _ in source.tools.names]
    for original, ours in source.tools.names:
        if original != ours and names.count(original) == 1:
            # The agent reads the rule beside our names of the tools.
            rule, reason = rule.replace(original, ours), reason.replace(original, ours)
    return Restriction(text=rule, reason=reason, criterion_id=criterion_id), criteria


def _texts(source: _Source) -> dict[str, str]:
    """What has no other place in the task."""
    prompt, tools = source.prompt, source.tools
    shape: dict[str, JsonValue] = {**source.item, source.keys["prompt"]: prompt.shape}
    for name in ("background", "rubrics"):
        if isinstance(shape.get(source.keys[name]), str):
            shape[source.keys[name]] = {TEXT: name}
    texts = {
        "item": json.dumps(shape, ensure_ascii=False),
        "system_before": prompt.system_before,
        "system_after": prompt.system_after,
        "user_before": prompt.user_before,
        "user_after": prompt.user_after,
        "rubrics": source.rubrics,
    }
    if tools.odd:
        texts["odd_tools"] = json.dumps(tools.odd, ensure_ascii=False)
    if prompt.tools != tool_lines(render_tools(tools.tools, tools.odd)):
        texts["tools"] = prompt.tools
    if source.notes:
        texts["notes"] = "\n".join(f"{place}: {reason}" for place, reason in source.notes)
    return texts


def _refill(task: Task) -> dict[str, JsonValue]:
    """The item that a task was made from, its tools, background and instruction from the task."""
    assert task.origin is not None  # noqa: S101 - asked for by every caller
    texts = task.origin.texts
    values = render_tools(task.world.tools, json.loads(texts.get("odd_tools", "{}")))
    tools = tool_lines(values)
    layout = texts.get("tools")
    if layout is not None and render_tools(*_again(layout)) == values:
        tools = layout
    system = texts["system_before"] + tools + texts["system_after"]
    user = texts["user_before"] + task.instruction + texts["user_after"]
    filled = {
        "system": system,
        "user": user,
        "prompt": system + user,
        "background": task.background,
        "rubrics": texts["rubrics"],
    }
    item = write_prompt(json.loads(texts["item"]), filled)
    assert isinstance(item, dict)  # noqa: S101 - its shape is one
    return item


def _again(layout: str) -> tuple[list[Tool], dict[str, JsonValue]]:
    read = read_tools(layout)
    return read.tools, read.odd


def _item_id(value: JsonValue) -> str:
    """The identifier of an item as text; one of its content where it has none."""
    if not isinstance(value, dict):
        return ""
    given = next((value[key] for key in _KEYS["id"] if value.get(key) not in (None, "")), None)
    if isinstance(given, str | int) and not isinstance(given, bool):
        return str(given)
    try:
        return f"item-{hashlib.sha256(canonical_json(value)).hexdigest()[:16]}"
    except (TypeError, ValueError):  # values that orjson does not write; the item is refused anyway
        return ""


def _task_id(item_id: str) -> str:
    """An identifier as our tasks have it: the item's own where it fits, else with its digest."""
    name = re.sub(r"[^a-z0-9]+", "-", item_id.casefold()).strip("-")
    if name == item_id and len(name) <= _MAX_ID:
        return name
    digest = hashlib.sha256(item_id.encode()).hexdigest()[:12]
    return f"{name[: _MAX_ID - 13].strip('-')}-{digest}".lstrip("-")
