"""Values from nowhere: what counts as one, and the many ways in which a held value may be said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthagent.worlds.inventions import invented

HELD = (
    "Please book the Nordlys room for Aron Vik on 2031-06-14 at 15:30. Budget 1,250 euros, "
    "twelve people. Write to aron@vik.example. The desk opens Tuesdays."
)


@pytest.mark.parametrize(
    "text",
    [
        "On 14 June 2031.",
        "That is a Saturday in June.",
        "At 3:30 pm, please.",
        "At 3 p.m. or so.",
        "12 of us.",
        "Twelve of us, I think.",
        "It may cost 1250 euros.",
        "1,250, no more.",
        "It's Aron's room, the Nordlys.",
        "Mr Vik asked for it.",
        "Write to aron@vik.example.",
        "Any Tuesday will do, one or two of them.",
        "Oh, I honestly have no idea, sorry.",
        "Thanks! Could you say that again?",
        "I may ask him. May I ask why?",
        "",
        "½ ² ⅷ",
    ],
)
def test_what_is_held_may_be_said(text: str) -> None:
    assert invented(text, [HELD], strict=True) == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("On 16 June.", "16"),
        ("At 4 pm.", "4"),
        ("It may cost 1,300.", "1300"),
        ("On a Friday.", "Friday"),
        ("Some time in July.", "July"),
        ("Write to vik@aron.example.", "vik@aron.example"),
        ("See https://vik.example/room.", "https://vik.example/room."),
        ("Ask for Mette Holm there.", "Mette Holm"),
        ("The code is NV-7741.", "7741"),
    ],
)
def test_what_is_not_held_is_invented(text: str, value: str) -> None:
    assert invented(text, [HELD], strict=False) == value


@pytest.mark.parametrize(("text", "value"), [("Ask Mette.", "Mette"), ("Bring seven.", "seven")])
def test_a_doubt_counts_only_where_it_is_cheap(text: str, value: str) -> None:
    assert invented(text, [HELD], strict=True) == value
    assert invented(text, [HELD], strict=False) == ""


@given(st.text(max_size=200), st.booleans())
def test_any_text_is_held_by_itself(text: str, strict: bool) -> None:  # noqa: FBT001 - drawn
    assert invented(text, [text], strict=strict) == ""
    invented(text, [], strict=strict)
