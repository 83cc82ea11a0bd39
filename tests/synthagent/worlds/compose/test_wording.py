"""Templates: what stands in braces, articles and capitals."""

import pytest

from synthagent.worlds.compose.wording import WordingError, render, with_article, words_of

WORDS = {"item": "room", "items": "rooms", "client": "employee", "amount.unit": "euros"}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Book {a item}.", "Book a room."),
        ("{A client} left.", "An employee left."),
        ("{Items} and {items}", "Rooms and rooms"),
        ("3 {amount.unit}", "3 euros"),
        ("It is {value}.", "It is {value}."),
        ("nothing", "nothing"),
        ("", ""),
    ],
)
def test_render(template: str, text: str) -> None:
    assert render(template, WORDS) == text


def test_holes_that_are_no_words_are_resolved_by_the_caller() -> None:
    assert render("{$kind} {item}", WORDS, lambda hole: hole[1:].upper()) == "KIND room"


def test_an_unknown_word_is_named() -> None:
    with pytest.raises(WordingError, match=r"\{itme\} is unknown"):
        render("the {itme}", WORDS)


@pytest.mark.parametrize(
    ("noun", "text"),
    [
        ("hour", "an hour"),
        ("unit", "a unit"),
        ("umbrella", "an umbrella"),
        ("uniform", "a uniform"),
        ("one-way trip", "a one-way trip"),
        ("European permit", "a European permit"),
        ("x-ray", "an x-ray"),
        ("urn", "an urn"),
        ("8-bed dormitory", "an 8-bed dormitory"),
        ("80-seat bus", "an 80-seat bus"),
        ("user licence", "a user licence"),
        ("inn", "an inn"),
    ],
)
def test_articles_follow_the_sound(noun: str, text: str) -> None:
    assert with_article(noun) == text


def test_words_of_drops_what_no_name_may_hold() -> None:
    assert words_of("Walk-in fridge (cold)") == ["walk", "in", "fridge", "cold"]
