import json
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthagent.worlds import sandbox
from synthagent.worlds.engine import EngineFault, WorldError, compile_world
from synthagent.worlds.spec import World
from tests.example_task import example_task
from tests.synthagent.worlds.changed import executes, requires, returns, world

BOOK = ("book_court", '{"court_id":"C-11","member_id":"M-502","day":"sunday"}')
IMAGE = compile_world(example_task().world)


def one_call(made: World, arguments: str = "{}"):
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


# What a hostile world can do.

REFUSED_SQL = [
    "ATTACH DATABASE '/etc/passwd' AS other",
    "PRAGMA table_info(item)",
    "SELECT * FROM pragma_table_info('item')",
    "SELECT name FROM sqlite_master",
    "SELECT sql FROM sqlite_schema",
    "SELECT * FROM sqlite_stmt",
    "SELECT * FROM dbstat",
    "SELECT load_extension('x') AS x",
    "SELECT readfile('/etc/passwd') AS x",
    "SELECT random() AS x",
    "SELECT date('now') AS x",
    "SELECT zeroblob(1000000) AS x",
    "SELECT randomblob(10) AS x",
    "SELECT fts3_tokenizer('x') AS x",
    "SELECT sqlite_version() AS x",
    "VACUUM INTO '/tmp/x'",
    "CREATE TABLE other (a)",
    "DROP TABLE item",
    "ALTER TABLE item RENAME TO other",
    "CREATE TRIGGER t AFTER INSERT ON item BEGIN SELECT 1; END",
    "BEGIN",
    "COMMIT",
    "SAVEPOINT x",
    "REINDEX",
    "ANALYZE",
    "SELECT 1 AS a; SELECT 2 AS a",
    "-- nothing",
    ";",
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c",
    "SELECT a FROM (SELECT 1 AS a)",
    "SELECT 1 AS a FROM item JOIN item AS b ON 1 = 1, (SELECT 2 AS c)",
    "SELECT 1 AS a FROM item JOIN item AS b USING (id), (SELECT 2 AS c)",
    "SELECT id AS a FROM item, json_each('[1]')",
    "SELECT :missing AS x",
    "SELECT ? AS x",
    "SELECT $a AS x",
    "SELECT @a AS x",
    "SELECT count(*) FROM item",
    "SELECT id, id FROM item",
    "SELECT nothing FROM item",
    "SELECT 1 AS a FROM nowhere",
    "SELECT 1 AS a\x00",
    "DELETE FROM item",
    "EXPLAIN SELECT 1 AS a",
]


@pytest.mark.parametrize("sql", REFUSED_SQL)
def test_refused_statements_do_not_compile(sql: str) -> None:
    with pytest.raises(WorldError) as caught:
        compile_world(world(returns(sql)))
    assert caught.value.where == "tool act, statement 0"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 AS one",
        "INSERT INTO sqlite_master VALUES ('a', 'b', 'c', 1, 'd')",
        "UPDATE sqlite_master SET sql = ''",
        "INSERT INTO item SELECT id + 9, 'x', 1 FROM (SELECT id FROM item)",
        "CREATE TEMP TABLE t AS SELECT 1",
        "PRAGMA writable_schema = 1",
        "ATTACH ':memory:' AS other",
    ],
)
def test_refused_changes_do_not_compile(sql: str) -> None:
    with pytest.raises(WorldError):
        compile_world(world(executes(sql), returns("SELECT 1 AS one")))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id AS a FROM item WHERE name = 'with ( from (' ORDER BY id",
        "SELECT id, (SELECT count(*) FROM item) AS n FROM item WHERE id IN (SELECT id FROM item)",
        "SELECT i.id AS a FROM item i JOIN item j ON (i.id = j.id) LEFT JOIN item k USING (id)",
        "SELECT id AS a /* with */ FROM item -- from (",
        "SELECT id AS a FROM item WHERE id IS NOT DISTINCT FROM (SELECT 1)",
    ],
)
def test_ordinary_statements_compile(sql: str) -> None:
    assert one_call(world(returns(sql)), '{"x":[1]}').ok


CROSS = "item a, item b, item c, item d"


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        (f"SELECT count(*) AS n FROM {CROSS}", "statement_limit"),
        (f"SELECT a.id AS n FROM {CROSS} ORDER BY d.price", "statement_limit"),
        ("SELECT format('%8000d', id) AS n FROM item", "result_too_large"),
        ("SELECT group_concat(a.id % 2 = 2 AND NULL) AS n FROM item a, item b", "statement_limit"),
        ("SELECT group_concat(format('%900d', id)) AS n FROM item", "result_too_large"),
        ("SELECT format('%9000d', 1) AS n", ""),  # null: SQLite drops what is too long
        ("SELECT format('%1000000000d', 1) AS n", ""),
        ("SELECT name || format('%8190d', 1) AS n FROM item", "result_too_large"),
        ("SELECT x'00ff' AS n", "execution_failed"),
        ("SELECT CAST(x'ff' AS TEXT) AS n", "execution_failed"),
        ("SELECT abs(-9223372036854775807 - 1) AS n", "execution_failed"),
        ("SELECT json('{') AS n", "execution_failed"),
        ("SELECT id AS n FROM item WHERE name LIKE format('%500d', 1)", "execution_failed"),
    ],
)
def test_limits_end_a_call_and_not_the_session(sql: str, code: str) -> None:
    with compile_world(world(returns(sql), rows=1000)).open() as session:
        before = session.state_hash
        for _ in range(3):
            result = session.call("act", "{}")
            assert result.error_code == code
            assert result.state_hash == before


def test_a_limit_in_the_middle_of_a_change_undoes_only_that_call() -> None:
    made = world(
        executes("UPDATE item SET name = name || :a WHERE id < :n"),
        executes(f"INSERT INTO item SELECT a.id + 1000000, 'x', 1 FROM {CROSS} WHERE :n = 9"),
        returns("SELECT 1 AS one"),
        rows=100,
    )
    with compile_world(made).open() as session:
        first = session.call("act", '{"a":"!"}')
        assert first.ok
        assert session.call("act", '{"a":"!","n":9}').error_code == "statement_limit"
        assert session.state_hash == first.state_hash
        assert session.predicate("SELECT count(*) = 5 FROM item WHERE name LIKE '%!'")


def test_the_database_cannot_grow_without_bound() -> None:
    made = world(
        executes("INSERT INTO item SELECT max(id) + 1, format('%8000d', 1), 1 FROM item"),
        returns("SELECT 1 AS one"),
    )
    with compile_world(made).open() as session:
        codes = [session.call("act", "{}").error_code for _ in range(200)]
        assert set(codes) == {"", "database_full"}
        full = codes.index("database_full")
        assert 100 < full < 150  # about 1 MiB
        assert codes[full:] == ["database_full"] * (200 - full)


def test_text_that_is_no_unicode_cannot_be_stored() -> None:
    made = world(executes("UPDATE item SET name = CAST(x'ff' AS TEXT)"), returns("SELECT 1 AS one"))
    assert one_call(made).error_code == "execution_failed"


def test_the_instruction_budget_does_not_depend_on_earlier_calls() -> None:
    # The count of instructions crosses the budget somewhere in these sizes; a warm session and a
    # fresh one must agree on where.
    made = world(
        returns("SELECT count(*) AS n FROM item a, item b WHERE a.id < :n AND b.price >= 0"),
        rows=200,
    )
    image = compile_world(made)
    sizes = range(60, 200, 5)
    with image.open() as warm:
        together = [warm.call("act", f'{{"n":{n}}}').error_code for n in sizes]
        backwards = [warm.call("act", f'{{"n":{n}}}').error_code for n in reversed(sizes)]
    alone = []
    for n in sizes:
        with image.open() as fresh:
            alone.append(fresh.call("act", f'{{"n":{n}}}').error_code)
    assert together == alone == backwards[::-1]
    assert set(alone) == {"", "statement_limit"}


def test_a_slow_host_is_a_fault_and_no_tool_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "WALL_SECONDS", -1.0)
    with compile_world(world(returns(f"SELECT count(*) AS n FROM {CROSS}"), rows=100)).open() as s:
        with pytest.raises(EngineFault):
            s.call("act", "{}")


@pytest.mark.parametrize(
    ("column", "value"),
    [("id", "1"), ("id", 1.5), ("id", 2**63), ("id", None), ("id", 0), ("name", 5), ("price", "x")],
)
def test_a_bad_seed_row_is_named(column: str, value: Any) -> None:
    data = world(returns("SELECT 1 AS one")).model_dump(mode="json")
    row = {"id": 7, "name": "x", "price": 1.0} | {column: value}
    data["tables"][0]["rows"] = [[0, "x", 1.0], list(row.values())]
    with pytest.raises(WorldError, match="table item, row 1"):
        compile_world(World.model_validate(data))


@pytest.mark.parametrize("name", ["sqlite_master", "sqlite_x"])
def test_reserved_table_names_are_refused(name: str) -> None:
    data = world(returns("SELECT 1 AS one")).model_dump(mode="json")
    data["tables"][0]["name"] = name
    with pytest.raises(WorldError, match=f"table {name}"):
        compile_world(World.model_validate(data))


def test_names_that_are_keywords_are_only_names() -> None:
    data = world(returns('SELECT "order" AS a FROM "select"')).model_dump(mode="json")
    data["tables"][0] |= {
        "name": "select",
        "columns": [{"name": "order", "type": "text"}],
        "rows": [["x"]],
    }
    assert one_call(World.model_validate(data)).ok


def test_predicates_only_read() -> None:
    with IMAGE.open() as session:
        for sql in ("DELETE FROM court", "PRAGMA user_version", "SELECT :a", "SELECT 'yes'", "x"):
            with pytest.raises(WorldError):
                session.predicate(sql)
        assert not session.predicate("SELECT 1 FROM court WHERE id = 'C-99'")
        assert not session.predicate("SELECT NULL")
        assert not session.predicate("SELECT 0.0")
        assert session.predicate("SELECT 0.5")


SQL_WORDS = st.sampled_from(
    [
        "SELECT",
        "FROM",
        "item",
        "WHERE",
        "id",
        "name",
        "price",
        ",",
        "(",
        ")",
        "*",
        "=",
        "<",
        "1",
        "'x'",
        ":a",
        ":n",
        ":x",
        "AND",
        "OR",
        "NOT",
        "IN",
        "EXISTS",
        "UNION",
        "ALL",
        "ORDER",
        "BY",
        "LIMIT",
        "GROUP",
        "HAVING",
        "JOIN",
        "ON",
        "USING",
        "AS",
        "a",
        "INSERT",
        "INTO",
        "VALUES",
        "UPDATE",
        "SET",
        "DELETE",
        "RETURNING",
        "count(",
        "max(",
        "format(",
        "group_concat(",
        "json_each(",
        "'%500d'",
        "CASE",
        "WHEN",
        "THEN",
        "END",
        "||",
        "+",
        "-",
        "%",
        "LIKE",
        "NULL",
        "PRAGMA",
        "ATTACH",
        "sqlite_master",
        "WITH",
        "RECURSIVE",
        ";",
        "--",
        "/*",
        '"',
        "`",
        "[",
        "]",
    ]
)


@settings(max_examples=300, deadline=2000)
@given(
    words=st.lists(SQL_WORDS, max_size=14),
    verb=st.sampled_from(["SELECT 1 AS a", "SELECT id AS a FROM item", "DELETE FROM item", ""]),
    arguments=st.text(max_size=20) | st.just('{"a":"x","n":3}'),
)
def test_no_statement_escapes_its_limits(words: list[str], verb: str, arguments: str) -> None:
    sql = " ".join([verb, *words]) or "SELECT 1 AS a"
    program = [executes(sql), returns("SELECT 1 AS a")] if "DELETE" in verb else [returns(sql)]
    try:
        image = compile_world(world(*program, rows=30))
    except WorldError:
        return
    with image.open() as one, image.open() as other:
        for call in (arguments, '{"a":"y"}'):
            result = one.call("act", call)
            assert result == other.call("act", call)
            assert len(result.result) <= 17_000
            assert result.ok or result.state_hash == one.state_hash


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
