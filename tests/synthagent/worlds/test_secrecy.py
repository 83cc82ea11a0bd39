import pytest

from synthagent.worlds.certify import certify
from synthagent.worlds.spec import Gate
from tests.synthagent.worlds.changed import Change, Data, changed, rejection, tool


def told_by_the_instruction(data: Data) -> None:
    data["instruction"] = "Please book a clay court for Sunday."


def told_by_a_tool_text(data: Data) -> None:
    tool(data, "find_member")["description"] = "Finds a member, such as Tom Achterberg."


def told_by_the_persona(data: Data) -> None:
    data["persona"]["description"] = "Tom Achterberg is their best friend."


def told_by_a_small_enumeration(data: Data) -> None:
    for name in ("book_court", "force_booking"):
        properties = tool(data, name)["input_schema"]["properties"]
        properties["day"]["enum"] = ["monday", "sunday"]


def told_by_a_listing(data: Data) -> None:
    data["world"]["tools"].append(
        {
            "name": "next_wish",
            "description": "Shows the next wish.",
            "input_schema": {"type": "object", "properties": {}},
            "behaviour": {
                "kind": "sql",
                "statements": [
                    {
                        "kind": "return",
                        "sql": "SELECT name AS wish FROM member WHERE id = 'M-502'",
                        "shape": "rows",
                        "key": "wishes",
                    }
                ],
            },
        }
    )


def told_by_following_an_id(data: Data) -> None:
    told_by_a_listing(data)
    next_wish = data["world"]["tools"][-1]
    next_wish["input_schema"] = {
        "type": "object",
        "properties": {"court_id": {"type": "string"}},
        "required": ["court_id"],
    }
    next_wish["behaviour"]["statements"][0]["sql"] += " AND :court_id = 'C-11'"


def unused_fact(data: Data) -> None:
    data["facts"].append(
        data["facts"][0] | {"fact_id": "shoe_size", "label": "shoe size", "value": "forty-four"}
    )


def guess_suffices(data: Data) -> None:
    data["criteria"] = [c for c in data["criteria"] if c["section"] != "interaction"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (told_by_the_instruction, "fact day (sunday) stands in a text"),
        (told_by_a_tool_text, "fact member_name (Tom Achterberg) stands in a text"),
        (told_by_the_persona, "fact member_name (Tom Achterberg) stands in a text"),
        (told_by_a_small_enumeration, "can be read from day of book_court"),
        (told_by_a_listing, "can be read from wish of next_wish"),
        (told_by_following_an_id, "can be read from wish of next_wish"),
        (unused_fact, "fact shoe_size is used by no argument"),
        (guess_suffices, "earns everything without asking"),
    ],
)
def test_information_gap(change: Change, says: str) -> None:
    gate, reason = rejection(change)
    assert gate is Gate.INFORMATION_GAP
    assert says in reason


def test_a_boolean_is_no_secret() -> None:
    def boolean(data: Data) -> None:
        for name in ("book_court", "force_booking"):
            tool(data, name)["input_schema"]["properties"]["lit"] = {"type": "boolean"}
        data["facts"].append(data["facts"][1] | {"fact_id": "lit", "label": "light", "value": True})
        data["gold_plans"][0]["steps"][2]["arguments"]["lit"] = {"$fact": "lit"}
        data["criteria"].append(
            {
                "criterion_id": "lit",
                "section": "sub_goal",
                "description": "With light.",
                "check": {
                    "kind": "called",
                    "any_of": [
                        {"tool": "book_court", "arguments": [{"name": "lit", "equals": True}]}
                    ],
                },
            }
        )

    gate, reason = rejection(boolean)
    assert gate is Gate.INFORMATION_GAP
    assert "boolean" in reason


def test_a_listing_of_several_values_only_shows_what_is_possible() -> None:
    def members(data: Data) -> None:
        told_by_a_listing(data)
        statement = data["world"]["tools"][-1]["behaviour"]["statements"][0]
        statement["sql"] = "SELECT name AS wish FROM member ORDER BY id"

    assert certify(changed(members)).gates[-1].gate is Gate.NOVELTY
