"""Seed rows of a world, from the recipes of its tables and the scenario's bound rows.

A recipe of a column is one of

    id                 identifier of the row, by the table's format
    label              a name of the thing, by the domain or numbered
    name               a person's full name
    email:COLUMN       an address made of another column of the row
    pool:P             a value of pool P            other:P:$VAR[,$VAR]  one that is none of these
    measure:M          a number in the range of M   low:M mid:M high:M   from the lower, middle, upper part
    int:A:B            a number from A to B         code:N               N random digits
    ref:T              identifier of a filler row of table T; with "?" behind it, null where the world has no T
    rows:T             identifier of any row of table T
    one:a,b,c          one of these words           const:V              this word or number

Tables are filled in their order: first the bound rows, which get every column that they do not set
by the table's recipe, then the filler rows. Identifiers are numbered at random over both, so they
tell nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from synthagent.worlds.compose.language import Argument, BoundRow, Measure, Pool, TableRecipe
from synthagent.worlds.compose.people import draw_name
from synthagent.worlds.compose.surface import IdFormat
from synthagent.worlds.spec import Column, ColumnType, Scalar, Table

Row = dict[str, Scalar]


class SeedError(ValueError):
    """A recipe that cannot be followed; a fault of a data file."""


def _word(text: str) -> Scalar:
    return int(text) if text.isdigit() else text


def _is_number(recipe: str) -> bool:
    what, _, rest = recipe.partition(":")
    return what in {"measure", "low", "mid", "high", "int"} or (
        what in {"const", "one"} and rest.split(",")[0].isdigit()
    )


class Seeds:
    """The rows of one world while they are made, and the scenario's variables."""

    def __init__(
        self,
        rng: Random,
        tables: Mapping[str, TableRecipe],
        pools: Mapping[str, Pool],
        measures: Mapping[str, Measure],
        formats: Mapping[str, IdFormat],
        labels: tuple[str, ...],
        item: str,
    ) -> None:
        self._rng = rng
        self._tables = tables
        self._pools = pools
        self._measures = measures
        self._formats = formats
        self._labels = rng.sample(labels, len(labels)) if labels else []
        self._item = item
        self._marks = iter(rng.sample([f"{letter}{n}" for letter in "ABCDEFGH" for n in range(2, 10)], 40))
        self._people: set[str] = set()
        self.variables: dict[str, Scalar] = {}
        self.rows: dict[str, list[Row]] = {name: [] for name in tables}
        self._bound: dict[str, Row] = {}
        self._fillers: dict[str, list[Row]] = {name: [] for name in tables}
        self._positions: dict[str, list[int]] = {}

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

    def fill(self, bound: list[BoundRow], overrides: Mapping[str, Mapping[str, str]]) -> None:
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

    def _draw(self, recipe: str, row: Row) -> Scalar:
        what, _, rest = recipe.partition(":")
        rng = self._rng
        if what == "label":
            return self._label()
        if what == "name":
            return draw_name(rng, self._people)
        if what == "email":
            return str(row[rest]).lower().replace(" ", ".") + "@example.org"
        if what == "pool":
            return rng.choice(self._pools[rest].values)
        if what == "other":
            pool, _, taken = rest.partition(":")
            out = {self.lookup(one) for one in taken.split(",")}
            return rng.choice([v for v in self._pools[pool].values if v not in out])
        if what in {"measure", "low", "mid", "high"}:
            return self._number(what, self._measures[rest].range)
        if what == "int":
            low, _, high = rest.partition(":")
            return rng.randint(int(low), int(high))
        if what == "code":
            return str(rng.randint(10 ** (int(rest) - 1), 10 ** int(rest) - 1))
        if what == "one":
            return _word(rng.choice(rest.split(",")))
        if what == "const":
            return _word(rest)
        if what in {"ref", "rows"}:
            return self._reference(what, rest)
        raise SeedError(f"recipe {recipe!r} is unknown")

    def _number(self, part: str, bounds: tuple[int, int]) -> int:
        low, high = bounds
        third = (high - low) // 3
        low, high = {
            "measure": (low, high),
            "low": (low, low + third - 1),
            "mid": (low + third, low + 2 * third - 1),
            "high": (low + 2 * third, high),
        }[part]
        return self._rng.randint(low, high)

    def _reference(self, what: str, rest: str) -> Scalar:
        table = rest.removesuffix("?")
        if table not in self._tables:
            if rest.endswith("?"):
                return None
            raise SeedError(f"a column refers to table {table}, which the world does not have")
        rows = self.rows[table] if what == "rows" else self._fillers[table]
        if not rows:
            raise SeedError(f"a row refers to table {table} before that has rows")
        return self._rng.choice(rows)["id"]

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
