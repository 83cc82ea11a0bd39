"""Whatever a model writes, the outcome is a task or a typed refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.task_synthesis.teacher import drafting, fuzzy_task, rubric, sql_world, tool_check
from services.task_synthesis.teacher.bounds import identifier, printable
from services.task_synthesis.teacher.products import FuzzyTask, Rubric, ToolDesign, ToolSet
from services.task_synthesis.teacher.repair import Broken
from services.task_synthesis.teacher.sql_product import SqlWorld
from synthagent.worlds.certify import certify
from synthagent.worlds.spec import Split, Task
from tests.services.task_synthesis.teacher import products, sql_product
from tests.services.task_synthesis.teacher.episodes import attempt
from tests.services.task_synthesis.teacher.test_rubric import draft

HOSTILE: list[Any] = [
    "", " ", "\x00", "\u202e", "{value}", "{{ 7*7 }}", "{fact:x}", "{step:a:/b}", "'; DROP TABLE x",
    "<tool_call>{}</tool_call>", "</data>", "a" * 5000, "é" * 70, "😀", "0", "-1", "1e999", "null",
    0, -1, 2**63, 10**40, 1.5, True, False, None, [], {}, [[]], {"$fact": "x"}, {"$step": []},
    {"$step": "a", "path": 7}, {"type": "object", "properties": {"a": {"$ref": "#"}}},
    {"type": ["object"], "properties": {"": {}}}, {"properties": {"a": None}, "required": [1]},
    {"type": "object", "properties": {"a": {"pattern": "(a+)+$"}}}, "SELECT", "SELECT 1; SELECT 2",
    "SELECT * FROM sqlite_master", "INSERT INTO loan VALUES (1)", "WITH a AS (SELECT 1) SELECT 1",
    "SELECT randomblob(10)", "DELETE FROM member", "PRAGMA user_version", ":model", "/kayaks/0",
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from places(item, (*path, number))


def spoiled(good: Any, changes: list[tuple[int, Any]]) -> str:
    """The product as JSON with other values at some places."""
    product = json.loads(json.dumps(good))
    for choice, value in changes:
        found = list(places(product))
        if not found:
            break
        *path, last = found[choice % len(found)]
        at = product
        for part in path:
            at = at[part]
        at[last] = json.loads(json.dumps(value))
    return json.dumps(product)


values = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(max_size=30),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
)
changes = st.lists(st.tuples(st.integers(0, 10_000), values), min_size=1, max_size=3)
hostile = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@hostile
@given(changes)
def test_any_tool_set_is_checked_or_refused(spoil: list[tuple[int, Any]]) -> None:
    try:
        product = ToolSet.model_validate_json(spoiled(products.tool_set(), spoil), strict=True)
        checked = tool_check.check(product)
        extra = [ToolDesign.model_validate(each) for each in products.distractors()["tools"]]
        checked = tool_check.with_distractors(checked, extra)
        told = fuzzy_task.check(
            FuzzyTask.model_validate(products.fuzzy_task()),
            tool_names=[tool.name for tool in checked.tools],
            workflow=checked.workflow,
        )
    except (Broken, ValidationError):
        return
    task = drafting.draft_task(products.ROUTE, products.PERSONA, Split.TRAIN, checked, told)
    check_sound(task)


@hostile
@given(changes)
def test_any_fuzzy_task_is_told_or_refused(spoil: list[tuple[int, Any]]) -> None:
    checked = tool_check.check(ToolSet.model_validate(products.tool_set()))
    try:
        told = fuzzy_task.check(
            FuzzyTask.model_validate_json(spoiled(products.fuzzy_task(), spoil), strict=True),
            tool_names=[tool.name for tool in checked.tools],
            workflow=checked.workflow,
        )
    except (Broken, ValidationError):
        return
    task = drafting.draft_task(products.ROUTE, products.PERSONA, Split.TRAIN, checked, told)
    check_sound(task)


@hostile
@given(changes)
def test_any_rubric_is_typed_or_refused(spoil: list[tuple[int, Any]]) -> None:
    try:
        product = Rubric.model_validate_json(spoiled(products.rubric(), spoil), strict=True)
        task = rubric.typed(draft(), product, [attempt()])
    except (Broken, ValidationError):
        return
    assert check_sound(task)


@settings(parent=hostile, max_examples=60)
@given(changes)
def test_any_sql_world_is_certified_or_refused(spoil: list[tuple[int, Any]]) -> None:
    try:
        product = SqlWorld.model_validate_json(spoiled(sql_product.sql_world(), spoil), strict=True)
        task = sql_world.assembled(products.ROUTE, products.PERSONA, Split.TRAIN, product)
    except (Broken, ValidationError):
        return
    check_sound(task)


def check_sound(task: Task) -> bool:
    """A task survives its JSON, and its certificate is whole or ends with the gate that failed."""
    assert Task.model_validate_json(task.model_dump_json()) == task
    certificate = certify(task)
    assert certificate.passed or certificate.gates[-1].detail
    return certificate.passed


@given(st.text())
def test_texts_become_printable_and_identifiers(text: str) -> None:
    assert printable(f"{text}\x00\ud800").encode().decode() == printable(text)
    taken: set[str] = set()
    names = [identifier(text, taken, "line") for _ in range(12)]
    assert len(set(names)) == 12
    for name in names:
        assert name.isascii()
        assert name[0].isalpha()
        assert len(name) <= 63


@pytest.mark.parametrize("depth", [13, 200, 5000])
def test_deep_values_are_refused(depth: int) -> None:
    deep = '{"a":' * depth + "1" + "}" * depth
    product = json.dumps(products.tool_set()).replace(
        '"input_schema": {', '"input_schema": {"x":@,', 1
    )
    with pytest.raises(ValidationError):
        ToolSet.model_validate_json(product.replace("@", deep), strict=True)
