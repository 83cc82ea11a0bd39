"""A session of a world: one copy of its tables, changed by calls, hashed and rolled back.

A session's state is a function of the world and the calls so far: a call that ends in an error
changes nothing, and the state hash covers the content of all tables. A session is closed by its
owner and used by one thread at a time. It is made by a `WorldImage`, of which it reads the compiled
programs.

Tools that a program does not answer (simulated, builtin) are found, and a call to one is checked as
any other, but ends in the tool error `NOT_AVAILABLE`: its answer is for the host to find elsewhere.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

import orjson
from pydantic import JsonValue

from synthagent.worlds import sandbox
from synthagent.worlds.arguments import ArgumentError, ArgumentSchema, Bound, parse
from synthagent.worlds.episode import ToolResult
from synthagent.worlds.programs import Program, WorldError
from synthagent.worlds.spec import ReturnShape, StatementKind
from synthagent.worlds.tables import combine

if TYPE_CHECKING:  # an image opens sessions
    from synthagent.worlds.engine import WorldImage

MAX_RESULT_BYTES = 16 * 1024
NOT_AVAILABLE = "not_available"
_ROWS_AT_ONCE = 64
_Result = TypeVar("_Result")
_WARM_SLACK = 16  # ticks; above the number of statements of any call that nears the budget


class EngineFault(RuntimeError):
    """A fault of the machinery (a session was closed, the host is too slow), never the agent's."""


class _Refused(Exception):
    """Ends a call with a tool error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Answer(NamedTuple):
    """A ToolResult before it becomes one: the same fields."""

    ok: bool
    result: str
    error_code: str
    state_hash: str


class Session:
    """One copy of a world's tables, changed by calls. Made by `WorldImage.open`."""

    _BEGIN, _COMMIT = "BEGIN", "COMMIT"
    _UNDO: tuple[str, ...] = ("ROLLBACK",)

    def __init__(self, image: WorldImage) -> None:
        self._image = image
        self._meter = sandbox.Meter()
        self._connection = sandbox.open_image(image.bytes, image.authorize, self._meter)
        self._cursor = self._connection.cursor()
        self._hashes = image.table_hashes
        self._runs = 0
        self.calls = 0
        self.state_hash = image.initial_hash

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the tables. A second close changes nothing."""
        self._connection.close()

    @property
    def initial_hash(self) -> str:
        """State hash before the first call."""
        return self._image.initial_hash

    def call(self, tool: str, arguments: str) -> ToolResult:
        """Answers a call of the agent; bad input gives a tool error and changes nothing.

        Raises EngineFault where the machinery failed, after which the session is of no use.
        """
        ok, result, error_code, state_hash = self.answer(tool, arguments)
        return ToolResult(ok=ok, result=result, error_code=error_code, state_hash=state_hash)

    def answer(self, tool: str, arguments: str) -> Answer:
        """As `call`, without the value's validation: for where calls come by the thousand."""
        self.calls += 1
        try:
            values = parse(arguments)
            schema, program = self._find(tool)
            bound = schema.check(values)
            if program is None:
                raise _Refused(NOT_AVAILABLE, f"Tool {tool} cannot be called here.")
            result = self._exactly(partial(self._attempt, program, bound))
            return Answer(True, result.decode(), "", self.state_hash)  # noqa: FBT003 - its field
        except (ArgumentError, _Refused) as refused:
            error = {"error": {"code": refused.code, "message": str(refused)}}
            text = orjson.dumps(error).decode()
            return Answer(False, text, refused.code, self.state_hash)  # noqa: FBT003 - its field

    def replay(self, calls: Sequence[tuple[str, str]]) -> None:
        """Makes (tool, arguments) calls again, in order, for their effect on the state."""
        for tool, arguments in calls:
            self.answer(tool, arguments)

    def predicate(self, sql: str) -> bool:
        """Whether the first column of the first row of a SELECT is a number other than 0.

        Raises WorldError where the text does not compile, gives text, or exceeds the limits.
        """
        rows = self.query(sql)
        value = rows[0][0] if rows else None
        if isinstance(value, str | bytes):
            raise WorldError(f"predicate {sql}", "gives text; a truth value is a number")
        return bool(value)

    def query(self, sql: str) -> list[tuple[Bound, ...]]:
        """The first rows (at most 256) of a SELECT without parameters. Raises WorldError."""
        self._image.check_query(sql)
        try:
            return self._exactly(lambda mark, ticks: self._rows(sql + mark, ticks))
        except _Refused as refused:
            raise WorldError(f"query {sql}", refused.message) from refused

    def _rows(self, sql: str, ticks: int) -> list[tuple[Bound, ...]]:
        self._meter.start(ticks)
        try:
            return self._cursor.execute(sql).fetchmany(256)
        except (sqlite3.Error, MemoryError) as error:
            self._check_machine(error)
            raise self._refusal(error) from error

    def _find(self, tool: str) -> tuple[ArgumentSchema, Program | None]:
        found = self._image.programs.get(tool)
        if found is None:
            names = ", ".join(self._image.programs)
            raise _Refused("unknown_tool", f"There is no tool {tool[:64]!r}. Tools: {names}.")
        return found

    def _exactly(self, attempt: Callable[[str, int], _Result]) -> _Result:
        """Attempts something within the budget, given a mark for its statements and a tick limit.

        SQLite counts the instructions of a cached statement on from its earlier runs, so the count
        can be off by a tick for each statement. What comes near the budget is made again with
        statements of its own (the mark makes their text new), whose count is exact.
        """
        try:
            return attempt("", sandbox.MAX_TICKS - _WARM_SLACK)
        except _Refused:
            if not self._meter.exhausted:
                raise
        self._runs += 1
        return attempt(f"\n--{self._runs}", sandbox.MAX_TICKS)

    def _attempt(
        self, program: Program, parameters: dict[str, Bound], mark: str, ticks: int
    ) -> bytes:
        """Runs a program in a transaction; whatever ends it early, nothing has changed."""
        self._meter.start(ticks)
        done = False
        try:
            if not program.writes:
                done = True
                return self._statements(program, parameters, mark)
            self._cursor.execute(self._BEGIN)
            before = self._connection.total_changes
            result = self._statements(program, parameters, mark)
            changed = self._connection.total_changes != before
            hashes = self._rehashed(program.writes) if changed else self._hashes
            self._cursor.execute(self._COMMIT)
            done = True
        except (sqlite3.Error, MemoryError) as error:
            self._check_machine(error)
            raise self._refusal(error) from error
        finally:
            if not done:
                self._undo()
        if changed:
            self._hashes = hashes
            self.state_hash = combine(hashes)
        return result

    def _statements(self, program: Program, bound: dict[str, Bound], mark: str) -> bytes:
        parameters = dict(bound)
        cursor = self._cursor
        for statement in program.statements:
            cursor.execute(statement.sql + mark if mark else statement.sql, parameters)
            if statement.kind is StatementKind.EXECUTE:
                cursor.fetchall()  # finishes a statement with RETURNING
                continue
            if statement.shape is ReturnShape.ROWS:
                return self._sized({statement.key: self._all_rows(statement.columns)})
            row = cursor.fetchone()
            if row is None:
                raise _Refused(statement.error_code, statement.message(parameters))
            named = dict(zip(statement.columns, row, strict=True))
            if statement.kind is StatementKind.RETURN:
                return self._sized(named)
            parameters.update(named)
        raise AssertionError("a program ends with its RETURN")  # Statement's own validation

    def _all_rows(self, columns: tuple[str, ...]) -> list[JsonValue]:
        found: list[JsonValue] = []
        while True:
            rows = self._cursor.fetchmany(_ROWS_AT_ONCE)
            found += [dict(zip(columns, row, strict=True)) for row in rows]
            if len(rows) < _ROWS_AT_ONCE:
                return found
            self._sized(found)

    def _sized(self, result: JsonValue) -> bytes:
        try:
            text = orjson.dumps(result)
        except (TypeError, ValueError) as error:  # bytes have no JSON
            raise _Refused("execution_failed", "The result cannot be shown as JSON.") from error
        if len(text) > MAX_RESULT_BYTES:
            raise _Refused(
                "result_too_large",
                f"The result is longer than {MAX_RESULT_BYTES} bytes. Ask for less.",
            )
        return text

    def _rehashed(self, written: Iterable[str]) -> dict[str, bytes]:
        digests = self._image.digests
        return self._hashes | {name: digests[name].of(self._cursor) for name in written}

    def _undo(self) -> None:
        """Undoes an unfinished call. SQLite may have undone it by itself already."""
        try:
            self._cursor.close()  # finishes the statement that was cut off
            self._cursor = self._connection.cursor()
            if self._connection.in_transaction:
                for sql in self._UNDO:
                    self._cursor.execute(sql)
        except sqlite3.Error as error:
            raise EngineFault(f"the session cannot be used any more: {error}") from error

    def _check_machine(self, error: Exception) -> None:
        """Raises EngineFault where the error is ours and not the statement's."""
        if self._meter.overtime:
            raise EngineFault(
                f"a call took longer than {sandbox.WALL_SECONDS:g} s within its instructions"
            ) from error
        if isinstance(error, MemoryError | sqlite3.ProgrammingError):
            raise EngineFault(f"the session cannot be used any more: {error}") from error

    def _refusal(self, error: Exception) -> _Refused:
        """The tool error for an error of a statement at run time."""
        if self._meter.exhausted:
            return _Refused("statement_limit", "The call needs too much work. Ask for less.")
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_CONSTRAINT:
            return _Refused("constraint_violated", f"The change is not allowed: {error}.")
        if code == sqlite3.SQLITE_FULL:
            return _Refused("database_full", "There is no room for more records.")
        if isinstance(error, sqlite3.DataError):
            return _Refused("result_too_large", "A value is too long.")
        return _Refused("execution_failed", f"The tool cannot work with these values: {error}.")


class Rehearsal(Session):
    """A session for certification, which goes back to the initial state again and again.

    All of it is one transaction that is never committed; each call is a savepoint in it. A call
    that SQLite stops in the middle of a change (statement limit, full database) can take the whole
    transaction with it, and then ends in an EngineFault: certification needs no such call.
    """

    _BEGIN, _COMMIT = "SAVEPOINT call", "RELEASE call"
    _UNDO = ("ROLLBACK TO call", "RELEASE call")

    def __init__(self, image: WorldImage) -> None:
        super().__init__(image)
        self._marked = (self._hashes, self.state_hash, self.calls)
        self._cursor.execute("BEGIN")

    def mark(self) -> None:
        """Remembers this state for `back`, until the next mark or reset."""
        self._cursor.execute("SAVEPOINT mark")
        self._marked = (self._hashes, self.state_hash, self.calls)

    def back(self) -> None:
        """Back to the state of the last mark."""
        self._cursor.execute("ROLLBACK TO mark")
        self._hashes, self.state_hash, self.calls = self._marked

    def reset(self) -> None:
        """Back to the initial state."""
        self._cursor.execute("ROLLBACK")
        self._cursor.execute("BEGIN")
        self._hashes = self._image.table_hashes
        self.calls = 0
        self.state_hash = self._image.initial_hash

    def _undo(self) -> None:
        if not self._connection.in_transaction:
            raise EngineFault("a call was stopped in the middle of a change")
        super()._undo()
