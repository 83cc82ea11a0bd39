"""What a model gets to see of a ledger, and what it may never call the same."""

from dataclasses import replace

import pytest
from pydantic import JsonValue

from services.tool_mock.similarity import (
    MAX_EXEMPLARS,
    MAX_MATCHES,
    latest,
    may_be_same,
    possible_matches,
    similar,
)
from services.tool_mock.simulated_call import SimulatedCall
from synthagent.store.ledger import LedgerEntry, Source
from synthagent.worlds.values import canonical_json
from tests.services.tool_mock.lending import lending_task

TASK = lending_task()
ROOT = "0" * 32


def entry(
    tool: str = "search_shelf", result: str = '{"note":"x"}', **arguments: object
) -> LedgerEntry:
    text = canonical_json(arguments).decode()
    return LedgerEntry(
        task_id="lending",
        tool=tool,
        arguments=text,
        state_version=ROOT,
        next_state_version=ROOT,
        ok=True,
        result=result,
        error_code="",
        source=Source.GENERATED,
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"id": "AX-17"}, {"id": "AX-18"}),
        ({"id": "AX-17"}, {"id": "AX-171"}),
        ({"day": "2031-04-02"}, {"day": "2031-04-03"}),
        ({"limit": 3}, {"limit": 4}),
        ({"open": True}, {"open": False}),
        ({"open": True}, {"open": 1}),
        ({"words": "spade", "limit": 3}, {"words": "a spade", "limit": 4}),
        ({"ids": ["A1", "A2"]}, {"ids": ["A1", "A3"]}),
        ({"ids": ["A1"]}, {"ids": ["A1", "A2"]}),
        ({"at": {"row": 1}}, {"at": {"row": 2}}),
    ],
)
def test_another_number_or_identifier_is_another_call(one: JsonValue, other: JsonValue) -> None:
    assert not may_be_same(one, other)
    assert not may_be_same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"id": "AX-17"}, {"id": "ax17"}),
        ({"words": "digging fork"}, {"words": "Fork for digging"}),
        ({"words": "2 spades"}, {"words": "two spades"}),
        ({"words": "spade"}, {"words": "spade", "limit": 5}),
        ({"day": "2031-04-02"}, {"day": "2 April 2031"}),
        ({"price": 5}, {"price": 5.0}),
        ({"limit": None}, {"limit": 3}),
    ],
)
def test_other_words_may_be_the_same_call(one: JsonValue, other: JsonValue) -> None:
    assert may_be_same(one, other)


def test_candidates_are_few_and_the_nearest_first() -> None:
    far = [entry(words=f"word{'s' * number} of another kind") for number in range(40)]
    near = entry(words="fork for digging")
    found = possible_matches('{"words":"digging fork"}', [*far, near])
    assert found[0] == near
    assert len(found) == MAX_MATCHES


def test_integers_beyond_64_bits_are_compared_to_the_last_digit() -> None:
    kept = replace(entry(), arguments='{"id":18446744073709551617}')
    assert possible_matches('{"id":18446744073709551617}', [kept]) == [kept]
    assert possible_matches('{"id":18446744073709551618}', [kept]) == []


def test_long_arguments_are_not_compared() -> None:
    long = entry(words="x" * 3000)
    assert possible_matches(long.arguments, [long]) == []
    assert possible_matches('{"words":"x"}', [long]) == []


def test_exemplars_are_of_the_same_tool_first_in_order_of_writing() -> None:
    call = SimulatedCall(TASK, TASK.world.tools[0], '{"words":"digging fork"}', (ROOT,), ())
    others = [entry("thing_status", thing=f"fork {number}") for number in range(20)]
    own = [entry(words="rake"), entry(words="fork")]
    newest_first = [own[1], *others, own[0]]
    found = similar(call, newest_first)
    assert len(found) == MAX_EXEMPLARS
    assert [item for item in found if item.tool == "search_shelf"] == own
    assert found[0] == own[0]
    assert found[-1] == own[1]


def test_exemplars_are_bounded_in_length() -> None:
    call = SimulatedCall(TASK, TASK.world.tools[0], '{"words":"fork"}', (ROOT,), ())
    huge = replace(entry(words="fork"), result='"' + "x" * 16_000 + '"')
    small = entry(words="rake")
    assert similar(call, [huge, small]) == [small]


def test_the_last_items_are_kept_and_at_least_one() -> None:
    assert latest(["aaa", "bb", "c"], 3) == 2
    assert latest(["aaa", "bb", "c"], 100) == 3
    assert latest(["aaaaaa"], 3) == 1
    assert latest([], 3) == 0
