"""Which facts a message could be read as asking for; an audit may object to all others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthagent.worlds.asking.questions import Matcher
from synthagent.worlds.asking.readings import could_ask
from tests.synthagent.worlds.asking.test_questions import TASKS

COURT = Matcher(TASKS["court"])
DAY, NAME = {"day"}, {"member_name"}
ANY = DAY | NAME

READINGS: list[tuple[str, set[str]]] = [
    ("Which day should I book?", DAY),
    ("Who is it for?", NAME),
    ("What should I call the person?", NAME),
    ("I need the member.", NAME),
    ("Member, please.", NAME),
    ("Day?", DAY),
    ("Which day, and who plays?", ANY),
    # too vague, or not understood, to rule anything out
    ("Anything else?", ANY),
    ("Give me all details.", ANY),
    ("Tell me everything you know.", ANY),
    ("¿Cuál es el nombre?", ANY),
    ("Por favor dígame el nombre.", ANY),
    ("What is the member's phone number?", ANY),
    # these ask for nothing
    ("", set()),
    ("Hello!", set()),
    ("How can I help you?", set()),
    ("Shall I proceed?", set()),
    ("I have booked the court for the member.", set()),
    ("Thank you, one moment while I check the day.", set()),
    ("Do not tell me your day.", set()),
    ("Please don't tell me the name of the member or the day.", set()),
    ("You need not tell me which day.", set()),
    ("No need to say who it is for.", set()),
    ("Do not tell me your name. Which day?", DAY),
]


@pytest.mark.parametrize(("text", "expected"), READINGS)
def test_readings(text: str, expected: set[str]) -> None:
    assert {fact for fact in COURT.vocabularies if could_ask(COURT, text, fact)} == expected


@pytest.mark.parametrize("name", TASKS)
def test_every_question_of_a_fact_could_ask_for_it(name: str) -> None:
    matcher = Matcher(TASKS[name])
    for fact in TASKS[name].facts:
        for question in (*fact.questions, f"What is the {fact.label}?"):
            assert could_ask(matcher, question, fact.fact_id), question


@given(st.sampled_from(sorted(TASKS)), st.text(max_size=200))
def test_what_the_embedded_user_answers_could_be_asked_for(name: str, text: str) -> None:
    matcher = Matcher(TASKS[name])
    for wanted in matcher.wanted(text):
        assert wanted.fact_id is None or could_ask(matcher, text, wanted.fact_id)
