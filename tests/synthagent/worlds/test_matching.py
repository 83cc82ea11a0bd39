from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthagent.worlds.matching import contains, same, uses


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("It costs 1,200 euros.", 1200),
        ("It costs 1200.0.", 1200),
        ("It costs 1200", 1200.0),
        ("It costs $1,200.", "1200"),
        ("It is 12.", 12),
        ("It is -5 degrees", -5),
        ("Booked as b-902!", "B-902"),
        ("Booked  for\ntom  achterberg", "Tom Achterberg"),
        ("I can\N{RIGHT SINGLE QUOTATION MARK}t do that", "can't"),
        ("(C-11)", "C-11"),
        ("yes, it is open", True),
        ("It is 0.5 km", 0.5),
    ],
)
def test_contained(text: str, value: Any) -> None:
    assert contains(text, value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("It is 120.", 12),
        ("In 2012", 12),
        ("It is 12.5.", 12),
        ("It is 0.12", 12),
        ("B-12", 12),
        ("12th", 12),
        ("It is 5", -5),
        ("B-9021", "B-902"),
        ("AB-902", "B-902"),
        ("sundays", "sunday"),
        ("", "x"),
        ("x", ""),
        ("12,00", 1200),
        ("no", True),
    ],
)
def test_not_contained(text: str, value: Any) -> None:
    assert not contains(text, value)


@pytest.mark.parametrize(
    ("value", "expected", "equal"),
    [
        (" Clay ", "clay", True),
        (1, 1.0, True),
        (1.5, 1.5, True),
        (True, 1, False),
        (1, True, False),
        (True, True, True),
        ("1", 1, False),
        (None, None, True),
        (None, "", False),
        ([1], 1, False),
    ],
)
def test_same(value: Any, expected: Any, equal: Any) -> None:
    assert same(value, expected) is equal


def test_use_of_a_value_is_found_anywhere() -> None:
    assert uses({"a": {"b": ["for Tom Achterberg"]}}, "tom achterberg")
    assert uses({"a": [3]}, 3.0)
    assert uses({"a": True}, value=True)
    assert not uses({"a": True}, 1)
    assert not uses({"a": 1}, value=True)
    assert not uses({"sunday": 1}, "sunday")
    assert not uses(None, "x")


@given(number=st.integers(-(10**12), 10**12))
def test_a_number_is_found_in_every_format(number: int) -> None:
    for text in (f"{number}", f"{number:,}", f"{number}.0", f"It is {number:,}, I think."):
        assert contains(text, number)
    assert not contains(f"{number}7", number)
