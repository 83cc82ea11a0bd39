"""The form of a result and the file that results are written to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

PATH = Path(__file__).parent / "results.json"


@dataclass(frozen=True)
class Result:
    """One figure beside its reference. `ratio` is value over reference_value.

    `at_least` says which way is good: True where the ratio should be high, False where low. It
    decides how a table colours the row and is not written.
    """

    name: str
    value: float
    unit: str
    reference: str
    reference_value: float
    goal_ratio: float | None = None
    at_least: bool = True

    @property
    def ratio(self) -> float:
        """Value over reference value."""
        return self.value / self.reference_value

    @property
    def reached(self) -> bool | None:
        """Whether the goal holds; None where there is none."""
        if self.goal_ratio is None:
            return None
        return self.ratio >= self.goal_ratio if self.at_least else self.ratio <= self.goal_ratio

    def row(self) -> dict[str, object]:
        """The result as it is written."""
        kept = asdict(self)
        del kept["goal_ratio"], kept["at_least"]
        return {
            key: round(value, 6) if isinstance(value, float) else value
            for key, value in {**kept, "ratio": self.ratio}.items()
        }


def show(console: Console, results: Sequence[Result]) -> None:
    """Prints the results as a table; green where a goal holds, red where it does not."""
    table = Table(show_header=False)
    for result in results:
        colour = {None: "", True: "green", False: "red"}[result.reached]
        table.add_row(
            result.name,
            f"{result.value:,.2f} {result.unit}",
            f"{result.reference} ({result.reference_value:,.2f})",
            f"ratio {result.ratio:.2f}",
            style=colour,
        )
    console.print(table)


def write(results: Sequence[Result], path: Path = PATH) -> None:
    """Puts the results into the file, in the place of those of the same names; others stay."""
    stored = orjson.loads(path.read_bytes()) if path.exists() else []
    rows = {row["name"]: row for row in stored} | {each.name: each.row() for each in results}
    write_json(list(rows.values()), path)


def write_json(content: object, path: Path) -> None:
    """Replaces the file in one step, so that it is never half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
    os.replace(temporary, path)  # noqa: PTH105 - replaces, where Path.rename may refuse
