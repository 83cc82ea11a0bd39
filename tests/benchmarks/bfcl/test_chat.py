import pytest

from benchmarks.bfcl.chat import calls_in, system_text
from benchmarks.bfcl.process import Function

AREA = Function(
    "geometry.area",
    "Area of a shape.",
    {
        "type": "dict",
        "properties": {
            "base": {"type": "integer", "description": "The base."},
            "unit": {"type": "string", "enum": ["cm", "m"], "description": "The unit"},
            "shape": {
                "type": "dict",
                "description": "What it is.",
                "properties": {"name": {"type": "string", "description": "Its name."}},
            },
        },
        "required": ["base"],
    },
)


def test_functions_stand_in_the_format_that_policies_are_trained_in() -> None:
    text = system_text([AREA, AREA])
    line = (
        "geometry.area(base: int, unit?: cm|m, shape?: dict) - Area of a shape. "
        "base: The base; unit: The unit; shape: What it is (name: Its name)"
    )
    assert text.splitlines().count(line) == 2
    assert "Rule" not in text
    assert '<tool_call>{"name": "...", "arguments": {...}}</tool_call>' in text


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>', [{"f": '{"a":1}'}]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}', [{"f": '{"a":1}'}]),
        ('Well. <tool_call>{"name": "a.b"}</tool_call> more', [{"a.b": "{}"}]),
        ("<answer>It is 3.</answer>", "It is 3."),
        ("I cannot do that.", "I cannot do that."),
        ("<tool_call>f(a=1)</tool_call>", "<tool_call>f(a=1)</tool_call>"),
        (
            '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
            '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        ),
    ],
)
def test_a_turn_is_a_call_or_what_it_says(text: str, step: object) -> None:
    assert calls_in(text) == step
