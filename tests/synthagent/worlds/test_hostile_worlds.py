"""What a hostile world cannot do: read a file, hang, exhaust the process, escape its limits."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthagent.worlds import sandbox
from synthagent.worlds.engine import WorldError, compile_world
from synthagent.worlds.episode import ToolResult
from synthagent.worlds.session import EngineFault
from synthagent.worlds.spec import World
from tests.example_task import example_task
from tests.synthagent.worlds.changed import executes, returns, world

IMAGE = compile_world(example_task().world)


def one_call(made: World, arguments: str = "{}") -> ToolResult:
    with compile_world(made).open() as session:
        return session.call("act", arguments)


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
    slow = compile_world(world(returns(f"SELECT count(*) AS n FROM {CROSS}"), rows=100))
    with slow.open() as session, pytest.raises(EngineFault):
        session.call("act", "{}")


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
