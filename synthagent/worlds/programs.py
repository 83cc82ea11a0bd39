"""Programs of declarative tools: checked once, run often.

Owns what a tool's statements may refer to (arguments, columns of earlier REQUIRE statements) and
how an error template is filled. A compiled Program holds only texts that SQLite has prepared under
the authorizer of `sandbox`, so a session runs nothing that was not seen here.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from synthagent.worlds import sandbox
from synthagent.worlds.arguments import ArgumentSchema, Bound, SchemaError, compile_schema
from synthagent.worlds.spec import ReturnShape, SqlProgram, Statement, StatementKind, Tool

MAX_TEMPLATE_VALUE = 80  # characters of a parameter in an error message
_SLOT = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BUILTINS = frozenset({"python", "search"})


class WorldError(ValueError):
    """A world that does not compile: where, and what is wrong."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(f"{where}: {message}")
        self.where = where
        self.message = message


@dataclass(frozen=True, slots=True)
class CompiledStatement:
    """A statement with the names of its columns; empty for EXECUTE."""

    sql: str
    kind: StatementKind
    shape: ReturnShape | None
    key: str
    columns: tuple[str, ...]
    error_code: str
    error_message: str

    def message(self, parameters: Mapping[str, Bound]) -> str:
        """The error message with parameters filled in; nothing else in it is replaced."""

        def fill(match: re.Match[str]) -> str:
            value = parameters[match[1]]
            text = value if isinstance(value, str) else orjson.dumps(value).decode()
            return text if len(text) <= MAX_TEMPLATE_VALUE else text[:MAX_TEMPLATE_VALUE] + "..."

        return _SLOT.sub(fill, self.error_message) or self.error_code.replace("_", " ")


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled program and the tables that it can change, in order of name."""

    statements: tuple[CompiledStatement, ...]
    writes: tuple[str, ...]


class _Names(dict[str, None]):
    """Parameters that are all null; remembers which were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __missing__(self, name: str) -> None:
        self.asked.append(name)


def compile_program(
    connection: sqlite3.Connection,
    tool: Tool,
    reader: sandbox.Authorizer,
    writer: sandbox.Authorizer,
    written: set[str],
) -> tuple[ArgumentSchema, Program | None]:
    """The tool's schema and, where it is declarative, its program. Raises WorldError.

    `written` is the set that `writer` fills with the tables that statements change.
    """
    where = f"tool {tool.name}"
    try:
        schema = ArgumentSchema(tool.input_schema)
        if tool.output_schema is not None:
            compile_schema(tool.output_schema)
    except SchemaError as error:
        raise WorldError(f"{where}, schema", str(error)) from error
    behaviour = tool.behaviour
    if not isinstance(behaviour, SqlProgram):
        if behaviour.kind == "builtin" and behaviour.name not in _BUILTINS:
            raise WorldError(where, f"there is no builtin {behaviour.name!r}")
        return schema, None
    known = set(schema.names)
    compiled: list[CompiledStatement] = []
    tables: set[str] = set()
    for number, statement in enumerate(behaviour.statements):
        place = f"{where}, statement {number}"
        if statement.kind is StatementKind.EXECUTE:
            written.clear()
            connection.set_authorizer(writer)
            _prepare(connection, statement.sql, known, place)
            connection.set_authorizer(reader)
            if not written:
                raise WorldError(place, "EXECUTE needs an INSERT, UPDATE or DELETE")
            tables |= written
            columns: tuple[str, ...] = ()
        else:
            _prepare(connection, statement.sql, known, place)
            columns = _columns(connection, statement.sql, place)
        compiled.append(_checked(statement, columns, known, place))
        if statement.kind is StatementKind.REQUIRE:
            hidden = sorted(set(columns) & set(schema.names))
            if hidden:
                raise WorldError(
                    place, f"column {hidden[0]} hides the argument of that name; rename it with AS"
                )
            known.update(columns)
    return schema, Program(tuple(compiled), tuple(sorted(tables)))


def compile_query(connection: sqlite3.Connection, sql: str) -> None:
    """Checks that a text is one SELECT without parameters. Raises WorldError."""
    _prepare(connection, sql, set(), f"query {sql}")


def _checked(
    statement: Statement, columns: tuple[str, ...], known: set[str], place: str
) -> CompiledStatement:
    for name in _SLOT.findall(statement.error_message):
        if name not in known:
            raise WorldError(f"{place}, error_message", f"{{{name}}} is no parameter")
    return CompiledStatement(
        sql=statement.sql,
        kind=statement.kind,
        shape=statement.shape,
        key=statement.key,
        columns=columns,
        error_code=statement.error_code,
        error_message=statement.error_message,
    )


def _prepare(connection: sqlite3.Connection, sql: str, known: set[str], place: str) -> None:
    """Prepares without running: EXPLAIN lists the instructions and executes none of them."""
    reason = sandbox.screen(sql)
    if reason:
        raise WorldError(place, reason)
    names = _Names()
    try:
        connection.execute(f"EXPLAIN {sql}", names).close()
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        raise WorldError(place, str(error)) from error
    for name in names.asked:
        if name not in known:
            raise WorldError(
                place, f":{name} is neither an argument nor a column of an earlier REQUIRE"
            )


def _columns(connection: sqlite3.Connection, sql: str, place: str) -> tuple[str, ...]:
    """Names of the columns that a SELECT gives; each must be a plain name, and none twice."""
    inner = sql.strip().rstrip(";")
    try:
        cursor = connection.execute(f"SELECT * FROM (\n{inner}\n) LIMIT 0", _Names())  # noqa: S608
    except sqlite3.Error as error:
        raise WorldError(place, str(error)) from error
    names = tuple(str(column[0]) for column in cursor.description)
    cursor.close()
    for name in names:
        if not _COLUMN.fullmatch(name):
            raise WorldError(place, f"column {name!r} needs a plain name; write AS name behind it")
    if len(set(names)) != len(names):
        raise WorldError(place, "two columns have the same name")
    return names
