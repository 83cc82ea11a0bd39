import pytest

from services.rollout.prompt import (
    signature,
    system_text,
    user_text,
    with_facts_in_instruction,
)
from synthagent.worlds.compose import Composer
from synthagent.worlds.spec import Split, Tool
from tests.example_task import example_task


def _tool(properties: dict[str, object], required: list[str]) -> Tool:
    return Tool.model_validate(
        {
            "name": "do",
            "description": "Does it.",
            "input_schema": {"type": "object", "properties": properties, "required": required},
            "behaviour": {"kind": "builtin", "name": "python"},
        }
    )


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"type": "string"}, "string"),
        ({"type": "integer", "minimum": 1}, "int"),
        ({"type": "boolean"}, "bool"),
        ({"type": "number"}, "number"),
        ({"type": "string", "format": "date"}, "date"),
        ({"enum": ["a", "b c"]}, "a|b c"),
        ({"const": 4}, "4"),
        ({"type": "array", "items": {"type": "integer"}}, "[int]"),
        ({"type": ["string", "null"]}, "string|null"),
        ({}, "any"),
    ],
)
def test_a_parameter_is_written_by_its_type(schema: dict[str, object], written: str) -> None:
    assert signature(_tool({"x": schema}, ["x"])) == f"do(x: {written}) - Does it."


def test_optional_parameters_are_marked() -> None:
    tool = _tool({"x": {"type": "string"}, "y": {"type": "integer"}}, ["x"])
    assert signature(tool) == "do(x: string, y?: int) - Does it."


def test_the_prompt_holds_what_the_agent_may_know_and_nothing_else() -> None:
    task = example_task()
    system, user = system_text(task), user_text(task)
    assert task.restriction.text in system
    assert task.restriction.reason in system
    for tool in task.world.tools:
        assert f"\n{tool.name}(" in system
    assert '<tool_call>{"name": "...", "arguments": {...}}</tool_call>' in system
    assert user == f"I am Mara Lindqvist, club secretary. {task.instruction}"
    assert "Tom Achterberg" not in system + user  # "sunday" is a choice that a tool lists


def test_an_agent_may_be_told_what_it_would_ask() -> None:
    task = example_task()
    told = with_facts_in_instruction(task)
    assert user_text(told).startswith(user_text(task))
    for fact in task.facts:
        assert f"{fact.label}: {fact.spoken}" in user_text(told)
    assert system_text(told) == system_text(task)


def test_prompts_of_mini_tasks_are_short() -> None:
    composer = Composer(Split.TRAIN, "mini")
    # Four characters a token is what English takes; names and JSON take fewer characters.
    lengths = [len(system_text(t) + user_text(t)) for t in map(composer.task, range(30))]
    assert max(lengths) < 350 * 3.5
