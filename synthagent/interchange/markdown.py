"""Markdown as blocks that know their lines, so that every line of a text can be accounted for.

CommonMark and tables by markdown-it, and on top of it what models write beside it: bullets and
numbers of other scripts, a bold line as a heading, a table whose ruler has another number of
columns. A text is parsed and never changed: `Text.source` gives back the lines as they were.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

BOLD_LINE_LEVEL = 7  # deeper than any heading with marks
_parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["lheading", "code"])

_unfenced = MarkdownIt("commonmark", {"html": False}).enable("table")
_unfenced.disable(["lheading", "code", "fence"])

_BULLET = re.compile(r"^(\s*)[•●▪◦‣·–—]\s+")  # noqa: RUF001 - as written for bullets
_NUMBER = re.compile(r"^(\s*)[（(]?(\d{1,3})[、．)）]\s*(?=\S)")  # noqa: RUF001 - of other scripts
_BOLD_LINE = re.compile(r"^(?:\*\*|__)(?P<title>(?:(?!\*\*|__).)+)(?:\*\*|__)\s*[:：]?$")  # noqa: RUF001
_RULER = re.compile(r"^\s*\|?\s*:?-{2,}:?\s*(\|\s*:?-{2,}:?\s*)*\|?\s*$")
_CELL_BREAK = re.compile(r"(?<!\\)\|")
_MARKS = re.compile(r"\*\*|__|`|(?<![\w*])[*_](?=\S)|(?<=\S)[*_](?![\w*])")

Kind = Literal["heading", "list", "item", "table", "row", "rule", "text"]


@dataclass(frozen=True, slots=True)
class Block:
    """A block and its lines from `start` up to, not including, `end`.

    `text` is the heading, or the first paragraph; `cells` are those of a row, and on a table those
    of its head, whose lines end at `body`.
    """

    kind: Kind
    start: int
    end: int
    text: str = ""
    level: int = 0
    ordered: bool = False
    cells: tuple[str, ...] = ()
    body: int = 0
    children: tuple[Block, ...] = ()


class Text:
    """A Markdown text, its lines and its blocks in order."""

    def __init__(self, markdown: str) -> None:
        self.lines = markdown.split("\n")
        self.fence = _fence_lines(self.lines)
        readable = [
            "" if number in self.fence else _normal(line) for number, line in enumerate(self.lines)
        ]
        fences = sum(line.lstrip().startswith(("```", "~~~")) for line in readable)
        parser = _unfenced if fences % 2 else _parser  # one that is never closed takes all the rest
        root = SyntaxTreeNode(parser.parse("\n".join(readable)))
        self.blocks = tuple(_blocks(root.children, readable))

    def source(self, start: int, end: int) -> str:
        """The lines as they were written, without blank ones at either end."""
        while start < end and not self.lines[end - 1].strip():
            end -= 1
        while start < end and not self.lines[start].strip():
            start += 1
        return "\n".join(self.lines[start:end])


def plain(text: str) -> str:
    """The text without marks of emphasis and code, in one line."""
    return " ".join(_MARKS.sub("", text).split())


def cells_of(line: str) -> tuple[str, ...]:
    """The cells of a table row, also where there are more than the head has."""
    inner = line.strip().removeprefix("|")
    if inner.endswith("|") and not inner.endswith("\\|"):
        inner = inner[:-1]
    return tuple(cell.strip().replace("\\|", "|") for cell in _CELL_BREAK.split(inner))


def _fence_lines(lines: Sequence[str]) -> frozenset[int]:
    """The two lines of a code fence around the whole text."""
    full = [number for number, line in enumerate(lines) if line.strip()]
    if len(full) < 2:
        return frozenset()
    first, last = lines[full[0]].strip(), lines[full[-1]].strip()
    if first.startswith("```") and "`" not in first[3:] and last == "```":
        return frozenset({full[0], full[-1]})
    return frozenset()


def _normal(line: str) -> str:
    """The line with marks of lists that CommonMark knows, at the same place."""
    line = _BULLET.sub(r"\1- ", line.rstrip("\r"))
    return _NUMBER.sub(r"\1\2. ", line)


def _blocks(nodes: Sequence[SyntaxTreeNode], lines: Sequence[str]) -> Iterator[Block]:
    for node in nodes:
        start, end = node.map or (0, 0)
        match node.type:
            case "heading":
                yield Block("heading", start, end, _inline(node), level=int(node.tag[1]))
            case "bullet_list" | "ordered_list":
                items = tuple(_item(child, lines) for child in node.children)
                ordered = node.type == "ordered_list"
                yield Block("list", start, end, ordered=ordered, children=items)
            case "table":
                yield _table(start, end, lines)
            case "hr":
                yield Block("rule", start, end)
            case "paragraph":
                yield from _paragraph(start, end, _inline(node), lines)
            case _:
                yield Block("text", start, end, "\n".join(lines[start:end]))


def _inline(node: SyntaxTreeNode) -> str:
    return node.children[0].content if node.children else ""


def _item(node: SyntaxTreeNode, lines: Sequence[str]) -> Block:
    start, end = node.map or (0, 0)
    children = tuple(_blocks(node.children, lines))
    first = children[0] if children and children[0].kind in ("text", "heading") else None
    return Block("item", start, end, first.text if first else "", children=children)


def _table(start: int, end: int, lines: Sequence[str]) -> Block:
    rows = [n for n in range(start, end) if lines[n].strip()]
    rulers = [n for n in rows if _RULER.match(lines[n])]
    head = rows[0] if rulers[:1] == rows[1:2] else None
    body = rulers[0] + 1 if rulers and head is not None else start
    return Block(
        "table",
        start,
        end,
        cells=cells_of(lines[head]) if head is not None else (),
        body=body,
        children=tuple(
            Block("row", n, n + 1, lines[n], cells=cells_of(lines[n]))
            for n in rows
            if n >= body and n not in rulers
        ),
    )


def _paragraph(start: int, end: int, text: str, lines: Sequence[str]) -> Iterator[Block]:
    bold = _BOLD_LINE.match(text.strip()) if "\n" not in text.strip() else None
    if bold:
        yield Block("heading", start, end, bold["title"], level=BOLD_LINE_LEVEL)
    elif all(line.strip().startswith("|") for line in lines[start:end]) and end - start > 1:
        yield _table(start, end, lines)
    else:
        yield Block("text", start, end, text)
