"""What SQL of a world may do and use: limits, authorizer, and connections that carry both.

Owns every bound on a world's statements. A connection from `open_image` can only read and change
the tables it was opened for, call functions that are deterministic and bounded, and run a fixed
number of SQLite instructions per call. Instructions are counted by SQLite, so a call that exceeds
its budget does so on every machine with the same SQLite; the wall clock is only a backstop for
faults of ours. `screen` refuses, before SQLite parses them, the forms whose preparation alone takes
exponential time (subqueries in FROM, common table expressions).
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterable

PAGE_BYTES = 1024
MAX_DATABASE_PAGES = 1024  # 1 MiB
MAX_VALUE_BYTES = 8192  # one text, and one stored row
MAX_SQL_BYTES = 4600  # the contract's 4,000 characters and room for what the engine puts around
MAX_PATTERN_BYTES = 100  # of LIKE: matching takes text times pattern
INSTRUCTIONS_PER_TICK = 1000
MAX_TICKS = 100  # of one call: 100,000 instructions
WALL_SECONDS = 2.0
HEAP_BYTES = 1 << 30  # of SQLite in the whole process; never reached unless a bound above is broken
CACHED_STATEMENTS = 32

_LIMITS = (
    (sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES),
    (sqlite3.SQLITE_LIMIT_SQL_LENGTH, MAX_SQL_BYTES),
    (sqlite3.SQLITE_LIMIT_COLUMN, 64),
    (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 100),
    (sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 8),
    (sqlite3.SQLITE_LIMIT_FUNCTION_ARG, 32),
    (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
    (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, MAX_PATTERN_BYTES),
    (sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 64),
    (sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 1),
    (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
)

# Deterministic, and linear in their arguments or nearly so. Not here: random and date functions,
# load_extension, zeroblob, hex (doubling), glob and instr (quadratic), char (invalid text).
FUNCTIONS = frozenset(
    {
        *("abs", "ceil", "ceiling", "floor", "mod", "round", "sign"),
        *("avg", "count", "group_concat", "max", "min", "string_agg", "sum", "total"),
        *("coalesce", "iif", "ifnull", "likely", "nullif", "typeof", "unlikely"),
        *("concat", "concat_ws", "format", "length", "like", "lower", "ltrim", "printf", "quote"),
        *("replace", "rtrim", "substr", "substring", "trim", "upper"),
        *("json", "json_array", "json_array_length", "json_extract", "json_type"),
        *("json_group_array", "json_group_object", "json_object", "json_valid"),
        *("dense_rank", "first_value", "lag", "last_value", "lead", "rank", "row_number"),
    }
)

_WRITES = {
    sqlite3.SQLITE_INSERT: "insert",
    sqlite3.SQLITE_UPDATE: "update",
    sqlite3.SQLITE_DELETE: "delete",
}

_TRANSACTIONS = (sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT)

Authorizer = Callable[[int, str | None, str | None, str | None, str | None], int]


def authorizer(
    tables: Iterable[str],
    *,
    writes: bool = False,
    transactions: bool = False,
    written: set[str] | None = None,
) -> Authorizer:
    """A whitelist for `Connection.set_authorizer`: everything not named here is denied.

    `transactions` is for sessions, which begin and commit themselves and run only statements that
    were prepared before under an authorizer without it. `written`, where given, collects the
    tables that prepared statements change.
    """
    readable = frozenset(tables)
    writable = frozenset(tables) if writes else frozenset()

    def check(
        action: int, first: str | None, second: str | None, _db: str | None, _by: str | None
    ) -> int:
        if action == sqlite3.SQLITE_READ:
            allowed = first in readable
        elif action == sqlite3.SQLITE_FUNCTION:
            allowed = second is not None and second.lower() in FUNCTIONS
        elif action in _WRITES:
            allowed = first in writable
            if allowed and written is not None:
                written.add(str(first))
        else:
            allowed = action == sqlite3.SQLITE_SELECT or (transactions and action in _TRANSACTIONS)
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    return check


class Meter:
    """The instructions of one call. Shared by a connection's progress handler and its session."""

    __slots__ = ("_deadline", "limit", "overtime", "ticks")

    def __init__(self) -> None:
        self.limit = MAX_TICKS
        self.ticks = 0
        self.overtime = False
        self._deadline = 0.0

    def start(self, limit: int = MAX_TICKS) -> None:
        """Begins a call that may use `limit` ticks."""
        self.limit = limit
        self.ticks = 0
        self.overtime = False

    @property
    def exhausted(self) -> bool:
        """Whether the last call was stopped for its number of instructions."""
        return self.ticks > self.limit

    def tick(self) -> int:
        """The progress handler: nonzero stops the statement."""
        self.ticks += 1
        if self.ticks == 1:
            self._deadline = time.monotonic() + WALL_SECONDS
        elif self.ticks > self.limit:
            return 1
        elif time.monotonic() > self._deadline:
            self.overtime = True
            return 1
        return 0


def connect() -> sqlite3.Connection:
    """An empty database in memory that never touches a file, without authorizer yet."""
    connection = sqlite3.connect(
        ":memory:",
        isolation_level=None,
        check_same_thread=False,
        cached_statements=CACHED_STATEMENTS,
    )
    for limit, value in _LIMITS:
        connection.setlimit(limit, value)
    return connection


def confine(connection: sqlite3.Connection, check: Authorizer, meter: Meter) -> None:
    """Bounds what the connection can do from here on."""
    connection.execute("PRAGMA temp_store = MEMORY").close()
    connection.execute(f"PRAGMA max_page_count = {MAX_DATABASE_PAGES}").close()
    connection.set_authorizer(check)
    connection.set_progress_handler(meter.tick, INSTRUCTIONS_PER_TICK)


def open_image(image: bytes, check: Authorizer, meter: Meter) -> sqlite3.Connection:
    """A confined connection to a copy of a serialized database of ours."""
    connection = connect()
    connection.deserialize(image)
    confine(connection, check, meter)
    return connection


def limit_heap() -> None:
    """Sets the backstop on the memory of SQLite in this process; later calls change nothing."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(f"PRAGMA hard_heap_limit = {HEAP_BYTES}").close()
    finally:
        connection.close()


_TOKEN = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|--[^\n]*|/\*.*?(?:\*/|\Z)"""
    r"""|:\w+|(?P<word>[^\W\d]\w*)|(?P<mark>[(),$@#?])""",
    re.DOTALL,
)
_CONDITION = frozenset({"on", "using"})
_FROM_ENDS = frozenset(
    {
        *("except", "group", "having", "intersect", "limit", "order", "returning", "select"),
        *("set", "union", "values", "where", "window"),
    }
)


def screen(sql: str) -> str:
    """Why the text may not be prepared at all, or an empty string.

    Nested subqueries in FROM and common table expressions are expanded by SQLite before any limit
    or authorizer of it is asked, and a few hundred characters of them take minutes and gigabytes.
    Scalar subqueries, IN (SELECT ...) and EXISTS (SELECT ...) stay: they are not expanded.
    """
    clauses = [""]  # per open parenthesis: "from" where tables are named, "on" in a join condition
    previous = ""
    for match in _TOKEN.finditer(sql):
        word = (match["word"] or "").lower()
        mark = match["mark"] or ""
        if word == "with":
            return "WITH is not supported; write a subquery in WHERE or a second statement"
        if mark and mark in "$@#?":
            return "only parameters of the form :name are supported"
        if mark == "(":
            if clauses[-1] == "from":
                return "a subquery or parenthesis in FROM is not supported; name tables and JOIN"
            clauses.append("")
        elif mark == ")" and len(clauses) > 1:
            clauses.pop()
        else:
            clauses[-1] = _clause(clauses[-1], word or mark, previous)
        if not match.group().startswith(("--", "/*")):
            previous = word or mark or "other"
    return ""


def _clause(clause: str, part: str, previous: str) -> str:
    """The clause after a word or mark at the same depth."""
    if part == "join" or (part == "from" and previous != "distinct"):
        return "from"
    if part in _CONDITION:
        return "on" if clause == "from" else clause
    if part == "," and clause == "on":
        return "from"
    return "" if part in _FROM_ENDS else clause
