"""A rubric in Markdown, divided into its items: rows of tables, items of lists, or headed parts.

An item is one thing to be judged, with exactly the lines that it was written in. A line of the
rubric is part of an item, of a heading (of a section, a table, a part), or is reported as a
remainder: nothing is dropped in silence.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from synthagent.interchange.findings import one_line
from synthagent.interchange.markdown import Block, Text, plain
from synthagent.interchange.sections import Part, split_sections
from synthagent.worlds.criteria import Section

_MAX_TITLE = 160
_LABEL = (
    r"requirements?|requires|completion(?: criteri(?:a|on)| check| status)?|criteria(?: for \w+)?"
    r"|criterion|definition|(?:violation|compliance|failure|success) (?:indicators?|criteria)"
    r"|indicators?(?: of \w+)?|violations?|compliance|compliant|judge?ment(?: basis)?|assessment"
    r"|what (?:the )?(?:agent )?(?:must|to|should)(?: the agent)? ask"
    r"|(?:the )?agent (?:must|should) ask"
    r"|(?:must|should|to) ask(?: \([^)]*\))?|questions?(?: to ask)?|sufficien\w*(?: \w+){0,2}"
    r"|premature(?: \w+){0,3}(?: / \w+)?|unsupported assumptions?|assumptions?(?: risks?)?"
    r"|examples?|notes?|evidence|status|purpose|rationale|reason|why(?: it matters)?|severity"
    r"|fully(?: completed)?|partial(?:ly)?(?: completed)?|not(?: completed)?|completed|incomplete"
    r"|information needed|description|details?|scoring|score|pass|fail|yes|no|acceptable"
    r"|unacceptable|optional"
)
_FIELD = re.compile(rf"^(?:[✅⚠❌☑✔✗]|(?:{_LABEL})\s*(?:[:：→]|$))", re.IGNORECASE)  # noqa: RUF001
_BOLD_START = re.compile(r"^(?:\*\*|__)(?P<title>.+?)(?:\*\*|__)")
_NUMBER = re.compile(
    r"^\W*(?:(?:sub-?\s?goal|step|criterion|policy|interaction|item|question|goal)\s*)?"
    r"#?(?P<label>\d+[a-z]?|[a-z](?=[.)]))\s*[.:)–—-]\s*(?=\S)",  # noqa: RUF001
    re.IGNORECASE,
)
_NOTHING = re.compile(r"\b(?:no|none|not (?:required|needed|applicable)|n/a)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RubricItem:
    """One thing to be judged: its label ("1a") and title, its text to read, and its source."""

    section: Section
    label: str
    title: str
    text: str
    source: str


@dataclass(slots=True)
class Rubric:
    """The items of a rubric in order, and what was noted: place ("line 7") and reason."""

    items: list[RubricItem] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    def of(self, section: Section) -> list[RubricItem]:
        """The items of one section."""
        return [item for item in self.items if item.section is section]


@dataclass(slots=True)
class _Span:
    """The lines of an item while it is put together; `head`: those of its table, for a row."""

    heading: str
    start: int
    end: int
    cells: tuple[str, ...] = ()
    head: tuple[str, ...] = ()


def read_rubric(markdown: str) -> Rubric:
    """The items of a rubric. What belongs to none is noted, line by line."""
    text = Text(markdown)
    rubric = Rubric()
    known = set(text.fence)
    for part in split_sections(text.blocks):
        if part.heading is not None:
            known.update(range(part.heading.start, part.heading.end))
        if part.section is None:
            continue
        for span in _spans(part):
            known.update(range(span.start, span.end))
            rubric.items.append(_item(part.section, span, text))
        known.update(_layout(part.blocks))
    known.update(_rules(text.blocks))
    rubric.notes.extend(_remainder(text, known))
    for section in Section:
        if not rubric.of(section):
            name = section.value.replace("_", "-")
            rubric.notes.append(("rubric", f"there is no {name} criterion in it"))
    return rubric


def _spans(part: Part) -> Iterator[_Span]:
    spans = list(_divide(part.blocks, alone=part.section is Section.POLICY))
    if spans or part.section is None:
        yield from spans
        return
    content = [b for b in part.blocks if b.kind in ("text", "list", "table")]
    said = " ".join(block.text for block in content)
    if not content or (part.section is Section.INTERACTION and _NOTHING.search(said)):
        return
    title = part.heading.text if part.heading else content[0].text
    yield _Span(title, content[0].start, content[-1].end)


def _divide(blocks: Sequence[Block], *, alone: bool) -> Iterator[_Span]:
    """The items of a section; with `alone`, a headed part is never divided further."""
    heads = [b for b in blocks if b.kind == "heading" and not _is_field(b.text)]
    if not heads:
        yield from _divide_flat(blocks)
        return
    level = min(head.level for head in heads)
    first = next(n for n, b in enumerate(blocks) if b in heads and b.level == level)
    yield from _divide_flat(blocks[:first]) if _bearing(blocks[:first]) else ()
    groups: list[list[Block]] = []
    for block in blocks[first:]:
        if block.kind == "heading" and block.level == level and block in heads:
            groups.append([])
        groups[-1].append(block)
    for head, *rest in groups:
        numbered = len(groups) > 1 and _NUMBER.match(plain(head.text)) is not None
        if not alone and not numbered and _holds_items(rest, only=len(groups) == 1):
            yield from _divide(rest, alone=False)
        else:
            content = [block for block in rest if block.kind != "rule"]
            yield _Span(head.text, head.start, content[-1].end if content else head.end)


def _holds_items(blocks: Sequence[Block], *, only: bool) -> bool:
    bearing = _bearing(blocks)
    if any(block.kind == "table" or block.ordered for block in bearing):
        return True
    nested = any(len(item.children) > 1 for block in bearing for item in block.children)
    heads = any(b.kind == "heading" and not _is_field(b.text) for b in blocks)
    return nested or (only and bool(bearing or heads))


def _bearing(blocks: Sequence[Block]) -> list[Block]:
    """The tables and lists whose rows and items are items of the rubric, not fields of one."""
    own = [b for b in blocks if b.kind in ("table", "list") and not _are_fields(b)]
    strong = [b for b in own if b.kind == "table" or b.ordered]
    return strong or own


def _divide_flat(blocks: Sequence[Block]) -> Iterator[_Span]:
    bearing = _bearing(blocks)
    leads = [b for b in blocks if b.kind == "text" and _is_lead(b)] if not bearing else []
    current: _Span | None = None
    for number, block in enumerate(blocks):
        if block in leads:
            yield from (current,) if current else ()
            current = _Span(block.text, block.start, block.end)
        elif block in bearing:
            yield from (current,) if current else ()
            *before, current = _children(block) or [None]
            yield from (span for span in before if span)
        elif current and not current.cells and _goes_on(block, blocks[number + 1 :], bearing):
            current.end = block.end
    if current:
        yield current


def _goes_on(block: Block, later: Sequence[Block], bearing: Sequence[Block]) -> bool:
    """Whether a block belongs to the item of a list before it, from which its layout cut it off."""
    if block.kind in ("list", "heading", "table"):
        return True
    follows = any(other in bearing for other in later)
    return block.kind == "text" and (follows or _is_field(block.text))


def _children(block: Block) -> list[_Span | None]:
    if block.kind == "table":
        return [
            _Span(_row_title(row.cells), row.start, row.end, row.cells, block.cells)
            for row in block.children
            if any(cell.strip(" .…-") for cell in row.cells)
        ]
    return [_Span(item.text, item.start, item.end) for item in block.children]


def _row_title(cells: Sequence[str]) -> str:
    named = (cell for cell in cells if re.search(r"[^\W\d_]", cell))
    return next(named, cells[0] if cells else "")


def _are_fields(block: Block) -> bool:
    """Whether most rows or items of a block are labelled parts of one item."""
    first = [child.cells[0] if child.cells else child.text for child in block.children]
    return sum(_is_field(text) for text in first) * 2 >= max(len(first), 1)


def _is_field(text: str) -> bool:
    return _FIELD.match(plain(text)) is not None


def _is_lead(block: Block) -> bool:
    return _BOLD_START.match(block.text) is not None and not _is_field(block.text)


def _item(section: Section, span: _Span, text: Text) -> RubricItem:
    source = text.source(span.start, span.end)
    bold = _BOLD_START.match(span.heading.strip())
    title = plain(bold["title"] if bold else span.heading.strip().split("\n")[0])
    number = _NUMBER.match(title)
    label = number["label"].lower() if number else ""
    title = one_line(title[number.end() :] if number else title, _MAX_TITLE).rstrip(" :：")  # noqa: RUF001
    readable = _row_text(span) if span.cells else textwrap.dedent(source)
    return RubricItem(section, label, title or "item", readable, source)


def _row_text(span: _Span) -> str:
    """A row as lines "head: cell"; cells beyond the head's go with the last one."""
    heads, cells = list(span.head), list(span.cells)
    if heads and len(cells) > len(heads):
        cells[len(heads) - 1 :] = [" | ".join(cells[len(heads) - 1 :])]
    heads += [f"Column {n}" for n in range(len(heads) + 1, len(cells) + 1)]
    pairs = zip(heads, cells, strict=False)
    return "\n".join(f"{plain(head)}: {cell}" for head, cell in pairs if cell)


def _layout(blocks: Sequence[Block]) -> Iterator[int]:
    """Lines of headings and of the heads of tables."""
    for block in blocks:
        if block.kind == "heading":
            yield from range(block.start, block.end)
        elif block.kind == "table":
            yield from range(block.start, block.body)


def _rules(blocks: Sequence[Block]) -> Iterator[int]:
    for block in blocks:
        if block.kind == "rule":
            yield from range(block.start, block.end)
        yield from _rules(block.children)


def _remainder(text: Text, known: set[int]) -> Iterator[tuple[str, str]]:
    """Runs of lines that belong to nothing."""
    run: list[int] = []
    for number in range(len(text.lines) + 1):
        if number < len(text.lines) and number not in known and text.lines[number].strip():
            run.append(number)
        elif run:
            first, last = run[0] + 1, run[-1] + 1
            place = f"rubric, line {first}" if first == last else f"rubric, lines {first}-{last}"
            excerpt = one_line(text.source(run[0], run[-1] + 1), 80)
            yield place, f"in no criterion, kept in the original text only: {excerpt}"
            run = []
