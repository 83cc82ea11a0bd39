import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthagent.worlds.sandbox import Meter, authorizer, confine, connect, limit_heap, screen


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a FROM t, (SELECT 1)",
        "SELECT a FROM (t)",
        "SELECT a FROM t JOIN u ON (1 = 1), (SELECT 1)",
        "SELECT a FROM t JOIN (SELECT 1)",
        "SELECT (SELECT a FROM (SELECT 1)) FROM t",
        "SELECT a fRoM/**/(SELECT 1)",
        "SELECT a FROM--x\n(SELECT 1)",
        "SELECT 1 WHERE 1 IN (SELECT 1 FROM (SELECT 2))",
        "wItH a AS (SELECT 1) SELECT * FROM a",
        "SELECT 1from(SELECT 1)",
        "SELECT $a(from(",
        "SELECT ?1",
    ],
)
def test_screened_out(sql: str) -> None:
    assert screen(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a, (SELECT 1) FROM t WHERE b IN (SELECT 1) AND EXISTS (SELECT 1 FROM u)",
        "SELECT :from AS a, :with AS b, 'it''s with (' AS c, \"with\", [from] FROM t",
        "SELECT a FROM t JOIN u ON (t.a = u.a AND (1)) JOIN v USING (a), w WHERE (a)",
        "INSERT INTO t (a, b) SELECT a, b FROM u WHERE (a) ON CONFLICT (a) DO UPDATE SET b = (1)",
        "DELETE FROM t WHERE (a = 1)",
        "SELECT a FROM t WHERE a IS DISTINCT FROM (b)",
        "SELECT withdrawn, fromage FROM t GROUP BY (a) ORDER BY (a) LIMIT (1)",
    ],
)
def test_not_screened_out(sql: str) -> None:
    assert not screen(sql)


@settings(max_examples=200)
@given(
    parts=st.lists(
        st.sampled_from(
            ["FROM", "JOIN", "(", ")", "'", '"', "--", "/*", "*/", ",", "ON", "a", "[", "\n"]
        )
    )
)
def test_nothing_hides_a_subquery_in_from(parts: list[str]) -> None:
    # Whatever stands before it: where SQLite accepts the text, the subquery is seen.
    sql = " ".join(["SELECT 1 FROM t,", *parts, "(SELECT 2)"])
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (a)")
    selects: list[int] = []

    def watch(action: int, *_: object) -> int:
        selects.append(action)
        return sqlite3.SQLITE_OK

    connection.set_authorizer(watch)
    try:
        connection.execute(f"EXPLAIN {sql}")
    except sqlite3.Error:
        return
    finally:
        connection.close()
    if selects.count(sqlite3.SQLITE_SELECT) > 1 and "ON" not in parts:
        assert screen(sql)


def test_only_what_is_listed_is_allowed() -> None:
    check = authorizer({"t"})
    ok, deny = sqlite3.SQLITE_OK, sqlite3.SQLITE_DENY
    assert check(sqlite3.SQLITE_SELECT, None, None, None, None) == ok
    assert check(sqlite3.SQLITE_READ, "t", "a", "main", None) == ok
    assert check(sqlite3.SQLITE_READ, "u", "a", "main", None) == deny
    assert check(sqlite3.SQLITE_INSERT, "t", None, "main", None) == deny
    assert check(sqlite3.SQLITE_FUNCTION, None, "UPPER", None, None) == ok
    for function in ("load_extension", "random", "randomblob", "zeroblob", "datetime", "glob"):
        assert check(sqlite3.SQLITE_FUNCTION, None, function, None, None) == deny
    every = {
        getattr(sqlite3, name)
        for name in dir(sqlite3)
        if name.startswith("SQLITE_") and isinstance(getattr(sqlite3, name), int)
    }
    allowed = {a for a in range(40) if check(a, "t", "upper", "main", None) == ok} & every
    assert allowed == {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}


def test_writes_and_transactions_are_granted_one_by_one() -> None:
    written: set[str] = set()
    writer = authorizer({"t"}, writes=True, written=written)
    assert writer(sqlite3.SQLITE_UPDATE, "t", "a", "main", None) == sqlite3.SQLITE_OK
    assert writer(sqlite3.SQLITE_DELETE, "sqlite_master", None, "main", None) == sqlite3.SQLITE_DENY
    assert writer(sqlite3.SQLITE_TRANSACTION, "BEGIN", None, None, None) == sqlite3.SQLITE_DENY
    assert written == {"t"}
    session = authorizer({"t"}, writes=True, transactions=True)
    assert session(sqlite3.SQLITE_TRANSACTION, "BEGIN", None, None, None) == sqlite3.SQLITE_OK
    assert session(sqlite3.SQLITE_ATTACH, "x", None, None, None) == sqlite3.SQLITE_DENY


def test_a_confined_connection_stops_by_instructions_and_reads_no_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret.db"
    with sqlite3.connect(secret) as other:
        other.execute("CREATE TABLE t (a)")
    other.close()
    connection = connect()
    connection.execute("CREATE TABLE t (a)")
    connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(1000)])
    meter = Meter()
    confine(connection, authorizer({"t"}), meter)
    meter.start(3)
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        connection.execute("SELECT count(*) FROM t a, t b, t c").fetchall()
    assert meter.exhausted
    assert not meter.overtime
    with pytest.raises(sqlite3.DatabaseError):
        connection.execute("ATTACH DATABASE ? AS other", (str(secret),))
    with pytest.raises(sqlite3.DatabaseError):
        connection.execute("PRAGMA temp_store_directory = '/'")
    connection.close()


def test_the_heap_of_sqlite_is_limited_for_the_process() -> None:
    limit_heap()
    limit_heap()
    connection = sqlite3.connect(":memory:")
    assert 0 < connection.execute("PRAGMA hard_heap_limit").fetchone()[0] <= 1 << 30
    connection.close()
