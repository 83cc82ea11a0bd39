"""Facts as the user simulator needs them, whatever the model wrote."""

from __future__ import annotations

from typing import Any

import pytest

from services.task_synthesis.teacher.facts import as_facts
from services.task_synthesis.teacher.products import FactDesign
from services.task_synthesis.teacher.repair import Broken
from synthagent.worlds.spec import Fact

TOOLS = ("RouteFinder",)


def made(**parts: Any) -> Fact:
    design = {"name": "pick_up", "label": "the pick-up place", "value": "Quay 9", **parts}
    (fact,), _ = as_facts([FactDesign.model_validate(design)], TOOLS)
    return fact


def test_everything_is_derived_from_the_label() -> None:
    fact = made()
    assert fact.fact_id == "pick_up"
    assert fact.label == "pick-up place"
    assert fact.questions == (
        "What is the pick-up place?",
        "Could you tell me the pick-up place?",
    )
    assert fact.replies == ("The pick-up place is {value}.", "That would be {value}.")
    assert fact.ask_terms[:2] == ("pick up place", "pick up")
    assert {"pick", "place"} <= set(fact.ask_terms)


def test_plural_labels_are_spoken_of_as_such() -> None:
    fact = made(label="dates of the stay", value="3 to 9 May")
    assert fact.questions[0] == "What are the dates of the stay?"
    assert fact.replies[0] == "The dates of the stay are {value}."
    assert made(label="boarding pass").questions[0] == "What is the boarding pass?"


def test_fit_words_of_the_model_come_first() -> None:
    fact = made(question="Where shall I fetch you?", reply="I'll be at Quay 9.")
    assert fact.questions[0] == "Where shall I fetch you?"
    assert fact.replies[0] == "I'll be at {value}."


@pytest.mark.parametrize(
    "question", ["Tell me.", "Is it Quay 9?", "Well. Where?", "Shall RouteFinder look for it?"]
)
def test_other_questions_are_left_out(question: str) -> None:
    assert question not in made(question=question).questions


@pytest.mark.parametrize(
    "reply",
    [
        "Somewhere near the water.",
        "{value} and {value}.",
        "Quay 9, I mean Quay 9.",
        "At {value}. Ask RouteFinder.",
        "RouteFinder says {value}.",
        "At {value} of {place}.",
    ],
)
def test_other_replies_are_left_out(reply: str) -> None:
    fact = made(reply=reply)
    assert all(one.count("{value}") == 1 for one in fact.replies)
    assert len(fact.replies) == 2


def test_a_label_that_tells_the_value_is_replaced_by_the_name() -> None:
    assert made(label="Quay 9 at night").label == "pick up"
    with pytest.raises(Broken, match="holds its value"):
        made(name="quay 9", label="Quay 9")


@pytest.mark.parametrize("value", [True, None, "", "   "])
def test_what_can_be_guessed_is_no_fact(value: Any) -> None:
    with pytest.raises(Broken, match="nobody guesses"):
        made(value=value)


def test_long_values_and_twins_are_refused() -> None:
    with pytest.raises(Broken, match="at most 120"):
        made(value="x" * 121)
    twins = [
        FactDesign(name=name, label=f"{name} number", value=value)
        for name, value in (("first", 7), ("second", "7"))
    ]
    with pytest.raises(Broken, match="same value"):
        as_facts(twins, TOOLS)
    with pytest.raises(Broken, match="have the name"):
        as_facts([twins[0], twins[0]], TOOLS)


def test_names_become_identifiers_that_differ() -> None:
    designs = [
        FactDesign(name="Pick-up", label="place", value="Quay 9"),
        FactDesign(name="pick up!", label="hour", value=17.5),
        FactDesign(name="7 seats", label="seat", value=7),
    ]
    facts, names = as_facts(designs, TOOLS)
    assert [fact.fact_id for fact in facts] == ["pick_up", "pick_up_2", "fact_7_seats"]
    assert names["pick up!"] == "pick_up_2"
    assert facts[1].spoken == "17.5"
