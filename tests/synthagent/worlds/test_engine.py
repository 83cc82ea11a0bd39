import json
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthagent.worlds import sandbox
from synthagent.worlds.engine import WorldError, compile_world
from synthagent.worlds.episode import ToolResult
from synthagent.worlds.session import EngineFault
from synthagent.worlds.spec import World
from tests.example_task import example_task
from tests.synthagent.worlds.changed import executes, requires, returns, world

BOOK = ("book_court", '{"court_id":"C-11","member_id":"M-502","day":"sunday"}')
IMAGE = compile_world(example_task().world)


def one_call(made: World, arguments: str = "{}") -> ToolResult:
    with compile_world(made).open() as session:
        return session.call("act", arguments)


def test_call_changes_the_state_and_the_hash() -> None:
    with IMAGE.open() as session:
        result = session.call(*BOOK)
        assert result.ok
        assert json.loads(result.result) == {"booking_id": "B-902", "member": "Tom Achterberg"}
        assert result.state_hash == session.state_hash != IMAGE.initial_hash
        assert len(session.state_hash) == 32
        assert session.calls == 1
        assert session.predicate("SELECT count(*) = 2 FROM booking")


@pytest.mark.parametrize(
    ("tool", "arguments", "code", "says"),
    [
        ("find_courts", "{", "malformed_arguments", "not valid JSON"),
        ("find_courts", "[]", "malformed_arguments", "one JSON object"),
        ("find_courts", '{"court_type":NaN}', "malformed_arguments", "not valid JSON"),
        ("find_courts", '{"court_type":"\\ud800"}', "malformed_arguments", "not valid JSON"),
        ("find_courts", "[" * 5000, "malformed_arguments", "not valid JSON"),
        ("fly", "{}", "unknown_tool", "find_courts, find_member"),
        ("", "{}", "unknown_tool", "find_courts, find_member"),
        ("find_courts", "{}", "invalid_arguments", '"court_type" is a required property'),
        ("find_courts", '{"court_type":3}', "invalid_arguments", "court_type: "),
        (
            "find_courts",
            '{"court_type":"mud"}',
            "invalid_arguments",
            'court_type: must be one of "clay", "grass", "hard", "carpet"',
        ),
        ("find_courts", '{"court_type":"clay","x":1}', "invalid_arguments", "'x'"),
        ("find_member", json.dumps({"name": "x" * 70_000}), "arguments_too_large", "65536"),
        ("find_member", json.dumps({"name": "x" * 9_000}), "arguments_too_large", "name"),
        ("find_member", '{"name":"Ann {name}"}', "member_not_found", "called Ann {name}."),
        ("book_court", BOOK[1].replace("C-11", "C-14"), "court_closed", "Court C-14 is not open."),
    ],
)
def test_bad_input_is_a_tool_error_that_changes_nothing(
    tool: str, arguments: str, code: str, says: str
) -> None:
    with IMAGE.open() as session:
        result = session.call(tool, arguments)
        assert not result.ok
        assert result.error_code == code
        error = json.loads(result.result)["error"]
        assert error["code"] == code
        assert says in error["message"]
        assert len(error["message"]) < 400
        assert result.state_hash == IMAGE.initial_hash
        assert session.call(*BOOK).ok  # and the session goes on


def test_business_error_after_a_change_rolls_it_back() -> None:
    made = world(
        executes("DELETE FROM item"),
        requires("SELECT 1 AS one FROM item"),
        returns("SELECT 1 AS o"),
    )
    image = compile_world(made)
    with image.open() as session:
        assert session.call("act", "{}").error_code == "refused"
        assert session.state_hash == image.initial_hash
        assert session.predicate("SELECT count(*) = 3 FROM item")


def test_defaults_absent_arguments_and_structures_are_bound() -> None:
    made = world(returns("SELECT :a AS a, :n AS n, :x AS x"))
    row = json.loads(one_call(made).result)["rows"][0]
    assert row == {"a": None, "n": 5, "x": None}
    row = json.loads(one_call(made, '{"n":7.0,"x":[1,{"b":2}]}').result)["rows"][0]
    assert row == {"a": None, "n": 7, "x": '[1,{"b":2}]'}


def test_numbers_beyond_64_bits_are_refused() -> None:
    made = world(returns("SELECT :x AS x"))
    assert one_call(made, '{"x":9223372036854775808}').error_code == "invalid_arguments"
    assert one_call(made, '{"x":9223372036854775807}').ok
    assert one_call(made, '{"n":1e300}').error_code == "invalid_arguments"


def test_columns_of_a_require_are_parameters_of_later_statements() -> None:
    made = world(
        requires("SELECT name AS found FROM item WHERE id = :n", "No item {n}."),
        returns("SELECT :found AS found", "row"),
    )
    assert json.loads(one_call(made, '{"n":2}').result) == {"found": "item 2"}
    assert json.loads(one_call(made, '{"n":9}').result)["error"]["message"] == "No item 9."


def test_a_column_of_a_require_may_not_hide_an_argument() -> None:
    made = world(
        requires("SELECT price AS n FROM item WHERE id = :n"), returns("SELECT :n AS n", "row")
    )
    with pytest.raises(WorldError, match="column n hides the argument"):
        compile_world(made)


def test_tools_without_a_program_are_not_available_here() -> None:
    made = world(returns("SELECT 1 AS one"))
    data = made.model_dump(mode="json")
    data["tools"][0]["behaviour"] = {"kind": "simulated"}
    assert one_call(World.model_validate(data)).error_code == "not_available"


def test_constraints_are_tool_errors() -> None:
    made = world(executes("INSERT INTO item VALUES (:n, 'x', 1)"), returns("SELECT 1 AS one"))
    assert one_call(made, '{"n":1}').error_code == "constraint_violated"
    assert one_call(made, '{"n":10}').ok


def test_hash_keeps_types_apart_and_ignores_the_order_of_rows() -> None:
    def digest(rows: list[list[object]], kind: str, *, key: bool = False) -> str:
        columns = [{"name": "a", "type": kind, "nullable": not key, "primary_key": key}]
        data = world(returns("SELECT 1 AS one")).model_dump(mode="json")
        data["tables"] = [{"name": "t", "columns": columns, "rows": rows}]
        return compile_world(World.model_validate(data)).initial_hash

    different = {
        digest([[1]], "integer"),
        digest([[1]], "real"),
        digest([["1"]], "text"),
        digest([[None]], "text"),
        digest([[""]], "text"),
        digest([[1], [1]], "integer"),
    }
    assert len(different) == 6
    assert digest([[1], [2]], "integer") == digest([[2], [1]], "integer")
    assert digest([["b"], ["a"]], "text", key=True) == digest([["a"], ["b"]], "text", key=True)


def test_hash_returns_when_the_content_does() -> None:
    made = world(executes("UPDATE item SET name = :a WHERE id = 1"), returns("SELECT 1 AS one"))
    image = compile_world(made)
    with image.open() as session:
        assert session.call("act", '{"a":"other"}').state_hash != image.initial_hash
        assert session.call("act", '{"a":"item 1"}').state_hash == image.initial_hash


def test_replay_reopens_a_session() -> None:
    calls = [("find_member", '{"name":"Li Wen"}'), BOOK, ("nope", "{"), BOOK]
    with IMAGE.open() as one, IMAGE.open() as other:
        for call in calls:
            one.call(*call)
        other.replay(calls)
        assert one.state_hash == other.state_hash
        assert one.calls == other.calls == 4


def test_rehearsal_goes_back_and_answers_as_a_session_does() -> None:
    with IMAGE.open() as session, IMAGE.rehearse() as rehearsal:
        calls = [BOOK, BOOK, ("find_courts", '{"court_type":"clay"}'), ("x", "")]
        expected = [session.call(*call) for call in calls]
        for _ in range(3):
            assert [rehearsal.call(*call) for call in calls] == expected
            rehearsal.reset()
            assert rehearsal.state_hash == IMAGE.initial_hash
            assert rehearsal.predicate("SELECT count(*) = 1 FROM booking")


def test_a_closed_session_is_a_fault_of_ours() -> None:
    session = IMAGE.open()
    session.close()
    session.close()
    with pytest.raises(EngineFault):
        session.call(*BOOK)


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["find_courts", "find_member", "book_court", "force_booking", "other"]),
        st.one_of(
            st.text(max_size=30),
            st.fixed_dictionaries(
                {},
                optional={
                    "court_type": st.sampled_from(["clay", "grass", 3]),
                    "name": st.sampled_from(["Tom Achterberg", "Li Wen", "", None]),
                    "court_id": st.sampled_from(["C-11", "C-12", "C-14", "C-99"]),
                    "member_id": st.sampled_from(["M-501", "M-502", "M-999"]),
                    "day": st.sampled_from(["monday", "sunday", "never"]),
                },
            ).map(json.dumps),
        ),
    ),
    max_size=12,
)


@settings(max_examples=100, deadline=2000)
@given(calls=CALLS)
def test_replay_of_any_calls_gives_the_same_results_and_state(calls: list[tuple[str, str]]) -> None:
    with IMAGE.open() as one, IMAGE.open() as other, IMAGE.rehearse() as third:
        first = [one.call(*call) for call in calls]
        assert [other.call(*call) for call in calls] == first
        third.replay(calls)
        third.reset()
        assert [third.call(*call) for call in calls] == first
        assert one.state_hash == other.state_hash == third.state_hash


def test_a_thousand_sessions_are_small() -> None:
    # SQLite's own count of its memory, which no other allocation of the process blurs.
    probe = sqlite3.connect(":memory:")
    used = probe.execute("PRAGMA hard_heap_limit").fetchone()[0]
    assert 0 < used <= sandbox.HEAP_BYTES
    probe.close()
    assert len(IMAGE.bytes) < 16_384
