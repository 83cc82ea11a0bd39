"""Choices drawn from bytes, so that whoever makes the bytes steers the choices.

A fuzzer that learns from coverage changes bytes; each byte decides one thing, so a small change of
the bytes is a small change of the input. When the bytes are used up every choice is the first one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
Path = tuple[str | int, ...]

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63 - 1, -(2**63), 2**64, 10**400, 0.0, -0.0, 1e308,
    "", " ", "a", "id", "\x00", "\ud800", "é" * 300, "x" * 10_000, "%s%n", "{name}",
    "{0.__class__}", "../../etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/", "$(id)",
    "`id`", "'; --", "\\", "<tool_call>{}</tool_call>", "</answer>", "[]", "{}", '{"a": 1}',
    "(a+)+$", "^(([a-z])+.)+[A-Z]", [], {}, [[]], [None], {"": ""}, {"$ref": "#"},
    {"$ref": "file:///etc/passwd"}, {"$ref": "http://127.0.0.1:1/schema"},
    {"type": "object", "properties": {"a": {"$ref": "#"}}}, {"pattern": "(a|a)*$"},
    {"type": ["string", "null"]}, {"const": {"a": [1, {"b": None}]}},
    {"kind": "builtin", "name": "python"}, {"kind": "simulated"},
    {"kind": "sql", "statements": []},
)  # fmt: skip

SQL: tuple[str, ...] = (
    "SELECT ", "INSERT INTO ", "UPDATE ", "DELETE FROM ", "REPLACE INTO ", "WITH RECURSIVE ",
    "PRAGMA ", "ATTACH DATABASE '/tmp/x.db' AS y", "VACUUM INTO '/tmp/x.db'",
    "CREATE TABLE t (a)", "DETACH ", "court", "booking", "member", "sqlite_master",
    "pragma_table_info('court')", "json_each('[1,2]')", " FROM ", " WHERE ", " JOIN ",
    " LEFT JOIN ", " ON ", " USING ", " GROUP BY ", " ORDER BY ", " LIMIT ", " UNION ALL ",
    " EXCEPT ", " VALUES ", " SET ", " RETURNING ", " AS one", " AS a", "*", "1", "id",
    "court_id", "day", "rowid", "count(*)", "(", ")", ",", " = ", " < ", " || ", " IN ",
    "(SELECT 1)", "EXISTS (SELECT 1 FROM court)", " LIKE ", "'%a%b%c%'", "'x'", ":court_id",
    ":day", "?1", "@a", "$a", "NULL", "1e999", "-9223372036854775808", "x'00'",
    "randomblob(99999999)", "zeroblob(99999999)", "load_extension('/tmp/x')",
    "readfile('/etc/passwd')", "writefile('x', 'y')", "printf('%99999999d', 1)",
    "replace(day, 'a', day)", "group_concat(day)", "hex(day)", "json(day)",
    "row_number() OVER (ORDER BY id)", " OVER (PARTITION BY day)", "CASE WHEN 1 THEN 2 END", ";",
    "--", "/*", "*/", '"', "`", "[", "]", "\x00", " COLLATE NOCASE", "CAST(day AS BLOB)",
    " NOT NULL",
)  # fmt: skip


class Draws:
    """A source of choices."""

    def __init__(self, data: bytes) -> None:
        self._bytes: Iterator[int] = iter(data)

    def below(self, bound: int) -> int:
        """A number from 0 to `bound` - 1."""
        number = next(self._bytes, 0)
        if bound > 256:
            number = number * 256 + next(self._bytes, 0)
        return number % bound

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def text(self) -> str:
        """Any short text."""
        length = self.below(64)
        return bytes(next(self._bytes, 0) for _ in range(length)).decode("utf-8", "replace")

    def sql(self) -> str:
        """Pieces of SQL after one another."""
        return "".join(
            self.choice(SQL) if self.below(12) else self.text() for _ in range(1 + self.below(14))
        )

    def value(self) -> Any:
        """A value that JSON can or cannot hold, mostly a hostile one."""
        match self.below(8):
            case 0:
                return self.text()
            case 1:
                return [self.value() for _ in range(self.below(4))]
            case 2:
                return {self.text(): self.value() for _ in range(self.below(4))}
            case 3:
                return self.sql()
            case 4:
                return self.below(65_536) - 32_768
            case _:
                return copy.deepcopy(self.choice(HOSTILE))

    def edited(self, value: Any) -> Any:
        """A copy of a JSON value after a few changes anywhere in it."""
        root = [copy.deepcopy(value)]
        for _ in range(1 + self.below(4)):
            self._edit(root)
        return root[0]

    def _edit(self, root: list[Any]) -> None:
        paths = list(_paths(root))
        *way, last = self.choice(paths)
        place: Any = root
        for step in way:
            place = place[step]
        match self.below(5):
            case 0 if place is not root:
                del place[last]
            case 1:  # the same once more
                _insert(place, last, copy.deepcopy(place[last]))
            case 2:  # what stands elsewhere
                *source, end = self.choice(paths)
                found: Any = root
                for step in source:
                    found = found[step]
                place[last] = copy.deepcopy(found[end])
            case _:
                place[last] = self.value()


def _insert(place: Any, key: Any, value: Any) -> None:
    if isinstance(place, list):
        place.insert(key, value)
    else:
        place[f"{key}_"] = value


def _paths(value: Any, here: Path = ()) -> Iterator[Path]:
    """Every place inside a JSON value."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield (*here, key)
        yield from _paths(inner, (*here, key))
