"""What an import has to say about what it read: where something stands, and what is wrong with it.

A place is a path that a person finds in the source ("item 3: tools, line 12"). A note is about
an item that was imported all the same; a rejection is about one that was not.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Note:
    """Something that was read, and understood only in part: what it is and where it stands."""

    item_id: str
    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """Something that was not imported: which (empty where it has no identifier), where and why."""

    item_id: str
    place: str
    reason: str


class Unparsed(ValueError):
    """A part of an item that cannot be read: its place in the item, and why."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place = place
        self.reason = reason


def one_line(text: str, limit: int) -> str:
    """The text in one line, cut at `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"
