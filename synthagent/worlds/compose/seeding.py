"""Seed rows of a world, from the recipes of its tables and the scenario's bound rows.

A recipe of a column is one of

    id                 identifier of the row, by the table's format
    label              a name of the thing, by the domain or numbered
    name               a person's full name
    email:COLUMN       an address made of another column of the row
    pool:P             a value of pool P            other:P:$VAR[,$VAR]  one that is none of these
    measure:M          a number in the range of M   low:M mid:M high:M   from one third of it
    int:A:B            a number from A to B         code:N               N random digits
    ref:T              identifier of a filler row of table T
    ref:T?             the same, or null where the world has no table T
    rows:T             identifier of any row of table T
    one:a,b,c          one of these words           const:V              this word or number

Tables are filled in their order: first the bound rows, which get every column that they do not set
by the table's recipe, then the filler rows. Identifiers are numbered at random over both, so they
tell nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from synthagent.worlds.compose.language import Argument, BoundRow, TableRecipe
from synthagent.worlds.compose.people import draw_name
from synthagent.worlds.compose.surface import IdFormat
from synthagent.worlds.compose.vocabulary import Measure, Pool
from synthagent.worlds.spec import Column, ColumnType, Table
from synthagent.worlds.values import Scalar

Row = dict[str, Scalar]

_MARKS = tuple(f"{letter}{number}" for letter in "ABCDEFGH" for number in range(2, 10))


class SeedError(ValueError):
    """A recipe that cannot be followed; a fault of a data file."""


def _word(text: str) -> Scalar:
    return int(text) if text.isdigit() else text


def _is_number(recipe: str) -> bool:
    what, _, rest = recipe.partition(":")
    return what in {"measure", "low", "mid", "high", "int"} or (
        what in {"const", "one"} and rest.split(",")[0].isdigit()
    )


@dataclass(frozen=True)
class SeedSource:
    """What rows are made of; `item` is the noun of things that the domain gives no labels for."""

    tables: Mapping[str, TableRecipe]
    pools: Mapping[str, Pool]
    measures: Mapping[str, Measure]
    formats: Mapping[str, IdFormat]
    labels: tuple[str, ...]
    item: str


class Seeds:
    """The rows of one world while they are made, and the scenario's variables."""

    def __init__(self, rng: Random, source: SeedSource) -> None:
        self._rng = rng
        self._tables = source.tables
        self._pools = source.pools
        self._measures = source.measures
        self._formats = source.formats
        self._labels = rng.sample(source.labels, len(source.labels))
        self._item = source.item
        self._marks = iter(rng.sample(_MARKS, len(_MARKS)))
        self._people: set[str] = set()
        self.variables: dict[str, Scalar] = {}
        self.rows: dict[str, list[Row]] = {name: [] for name in source.tables}
        self._bound: dict[str, Row] = {}
        self._fillers: dict[str, list[Row]] = {name: [] for name in source.tables}
        self._positions: dict[str, list[int]] = {}
        self._makers = self._recipes()

    def let(self, name: str, recipe: str) -> None:
        """Draws a variable."""
        self.variables[name] = self._draw(recipe, {})

    def lookup(self, reference: str) -> Scalar:
        """The value of `$variable` or `$row.column`."""
        name, _, column = reference.removeprefix("$").partition(".")
        if column and name in self._bound and column in self._bound[name]:
            return self._bound[name][column]
        if not column and name in self.variables:
            return self.variables[name]
        raise SeedError(f"{reference} is neither a variable nor a column of a bound row")

    def value(self, given: Argument) -> Scalar:
        """A literal, `$reference`, or recipe of a column that a bound row sets."""
        if not isinstance(given, str):
            return int(given)
        if given.startswith("$"):
            return self.lookup(given)
        return self._draw(given, {}) if ":" in given else given

    def fill(self, bound: Sequence[BoundRow], overrides: Mapping[str, Mapping[str, str]]) -> None:
        """Makes all rows of all tables."""
        sizes = {}
        for name, recipe in self._tables.items():
            wanted = sum(row.table == name for row in bound)
            # unless it starts empty, a table has at least two rows beside the scenario's
            size = max(self._rng.randint(*recipe.rows), wanted + 2) if recipe.rows[1] else wanted
            sizes[name] = size
            self._positions[name] = self._rng.sample(range(size), size)
        for row in bound:
            if row.table not in self._tables:
                raise SeedError(f"row {row.name}: the world has no table {row.table}")
        for name, recipe in self._tables.items():
            for row in bound:
                if row.table == name:
                    sets = {column: self.value(value) for column, value in row.set.items()}
                    self._bound[row.name] = self._add(name, recipe.columns, sets)
            columns = {**recipe.columns, **overrides.get(name, {})}
            while len(self.rows[name]) < sizes[name]:
                self._fillers[name].append(self._add(name, columns, {}))

    def _add(self, table: str, columns: Mapping[str, str], sets: Row) -> Row:
        row: Row = {}
        self.rows[table].append(row)
        position = self._positions[table][len(self.rows[table]) - 1]
        for column, recipe in columns.items():
            if column in sets:
                row[column] = sets[column]
            elif recipe == "id":
                row[column] = self._formats[table].text(position)
            else:
                row[column] = self._draw(recipe, row)
        return row

    def _recipes(self) -> dict[str, Callable[[str, Row], Scalar]]:
        """How to make a value, by the first word of its recipe, from the rest and the row."""
        rng = self._rng
        return {
            "label": lambda _rest, _row: self._label(),
            "name": lambda _rest, _row: draw_name(rng, self._people),
            "email": lambda rest, row: f"{str(row[rest]).lower().replace(' ', '.')}@example.org",
            "pool": lambda rest, _row: rng.choice(self._pools[rest].values),
            "other": lambda rest, _row: self._other(rest),
            "measure": lambda rest, _row: rng.randint(*self._measures[rest].range),
            "low": lambda rest, _row: self._third(rest, 0),
            "mid": lambda rest, _row: self._third(rest, 1),
            "high": lambda rest, _row: self._third(rest, 2),
            "int": lambda rest, _row: rng.randint(*map(int, rest.split(":"))),
            "code": lambda rest, _row: "".join(rng.choice("123456789") for _ in range(int(rest))),
            "one": lambda rest, _row: _word(rng.choice(rest.split(","))),
            "const": lambda rest, _row: _word(rest),
            "ref": lambda rest, _row: self._reference(rest, self._fillers),
            "rows": lambda rest, _row: self._reference(rest, self.rows),
        }

    def _draw(self, recipe: str, row: Row) -> Scalar:
        what, _, rest = recipe.partition(":")
        if what not in self._makers:
            raise SeedError(f"recipe {recipe!r} is unknown")
        return self._makers[what](rest, row)

    def _other(self, rest: str) -> Scalar:
        pool, _, taken = rest.partition(":")
        out = {self.lookup(one) for one in taken.split(",")}
        return self._rng.choice([v for v in self._pools[pool].values if v not in out])

    def _third(self, measure: str, part: int) -> int:
        """A number from the lower, middle or upper third of a measure's range."""
        low, high = self._measures[measure].range
        third = (high - low) // 3
        start = low + part * third
        return self._rng.randint(start, high if part == 2 else start + third - 1)

    def _reference(self, rest: str, among: Mapping[str, list[Row]]) -> Scalar:
        table = rest.removesuffix("?")
        if table not in self._tables and rest.endswith("?"):
            return None
        if not among.get(table):
            raise SeedError(f"a row refers to table {table}, which has no rows yet")
        return self._rng.choice(among[table])["id"]

    def _label(self) -> str:
        if self._labels:
            return self._labels.pop()
        return f"{self._item.capitalize()} {next(self._marks)}"

    def tables(self) -> tuple[Table, ...]:
        """The tables of the world, rows in the order of their identifiers."""
        return tuple(self._table(name, recipe) for name, recipe in self._tables.items())

    def _table(self, name: str, recipe: TableRecipe) -> Table:
        rows = self.rows[name]
        order = sorted(range(len(rows)), key=lambda at: self._positions[name][at])
        columns = []
        for column, how in recipe.columns.items():
            columns.append(
                Column(
                    name=column,
                    type=ColumnType.INTEGER if _is_number(how) else ColumnType.TEXT,
                    primary_key=how == "id",
                    nullable=how.endswith("?"),
                )
            )
        return Table(
            name=name,
            columns=tuple(columns),
            rows=tuple(tuple(rows[at][column] for column in recipe.columns) for at in order),
        )
