"""Where the three sections of a rubric begin: policy, sub-goals, interactions.

A heading says its section by a word (`sections.toml`: words of several languages), or by its number
(1, 2, 3 as the authors number them), or, where three headings say neither, by its place. Sections
may come in any order, with any marks: headings, bold lines, items of a list, lines that end in a
colon.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from synthagent.interchange.markdown import BOLD_LINE_LEVEL, Block, plain
from synthagent.worlds.criteria import Section

_BY_NUMBER = dict(enumerate(Section, start=1))
_ROMAN = {"I": 1, "II": 2, "III": 3}
_SUB_NUMBERED = re.compile(r"^\W*(?:section|part)?\s*\d+\s*(?:[a-z]\b|\.\s*\d)", re.IGNORECASE)
_NUMBERED = re.compile(r"^\W*(?:section|part)?\s*(?P<number>\d+|I{1,3})\s*(?:[.:)、．]|\s|$)")  # noqa: RUF001
_MAX_LINE = 80


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a rubric: its section (None where it belongs to none), heading and blocks."""

    section: Section | None
    heading: Block | None
    blocks: tuple[Block, ...]


def split_sections(blocks: Sequence[Block]) -> list[Part]:
    """The parts of a rubric in order, each up to the next heading of a section."""
    outline = list(blocks)
    if not any(_by_words(block) for block in outline if block.kind == "heading"):
        outline = list(_as_headings(outline))
    headings = [block for block in outline if block.kind == "heading"]
    sections = _assign(headings)
    parts: list[Part] = []
    heading: Block | None = None
    section: Section | None = None
    content: list[Block] = []
    for block in outline:
        if id(block) in sections:
            parts.append(Part(section, heading, tuple(content)))
            heading, section, content = block, sections[id(block)], []
        else:
            content.append(block)
    parts.append(Part(section, heading, tuple(content)))
    return [part for part in parts if part.heading is not None or part.blocks]


def _assign(headings: Sequence[Block]) -> dict[int, Section | None]:
    """The headings (by identity) that begin a part, each with its section."""
    told = {id(h): found for h in headings if (found := _by_words(h)) is not None}
    numbered = {told[id(h)] for h in headings if id(h) in told and _by_number(h) is told[id(h)]}
    if len(numbered) >= 2:  # then the others only mention what a numbered one is about
        told = {
            id(h): told[id(h)]
            for h in headings
            if id(h) in told and (told[id(h)] not in numbered or _by_number(h) is told[id(h)])
        }
    if told:
        level = min(h.level for h in headings if id(h) in told)
    else:
        level = _level_by_number(headings) or _level_by_place(headings)
    bounds: dict[int, Section | None] = {
        id(h): told.get(id(h)) for h in headings if _bounds(h, level, told)
    }
    _add_deeper(headings, told, bounds)
    missing = [section for section in Section if section not in bounds.values()]
    for h in headings:
        section = _by_number(h)
        if section in missing and id(h) in bounds and bounds[id(h)] is None:
            bounds[id(h)] = section
            missing.remove(section)
    silent = [h for h in headings if h.level == level and id(h) in bounds]
    if not told and len(silent) == 3 and all(bounds[id(h)] is None for h in silent):
        bounds.update((id(h), section) for h, section in zip(silent, Section, strict=True))
    return bounds


def _bounds(heading: Block, level: int, told: dict[int, Section]) -> bool:
    """Whether a heading begins a part; a bold line also heads what is within a section."""
    if heading.level != BOLD_LINE_LEVEL or not told:
        return heading.level <= level
    return level == BOLD_LINE_LEVEL and (id(heading) in told or _by_number(heading) is not None)


def _add_deeper(
    headings: Sequence[Block], told: dict[int, Section], bounds: dict[int, Section | None]
) -> None:
    """Adds headings of another level that are a missing section by their word and their number."""
    for h in headings:
        section = told.get(id(h))
        if id(h) in bounds or section is None or section in bounds.values():
            continue
        if _by_number(h) is section:
            bounds[id(h)] = section


def _by_words(heading: Block) -> Section | None:
    title = plain(heading.text)
    if _SUB_NUMBERED.match(title):
        return None
    found = {
        section: match.start()
        for section, words in _words().items()
        if (match := words.search(title)) is not None
    }
    if len(found) > 1 and _by_number(heading) in found:
        return _by_number(heading)
    return min(found, key=lambda section: found[section], default=None)


@cache
def _words() -> dict[Section, re.Pattern[str]]:
    folder = resources.files("synthagent.interchange")
    data = tomllib.loads(folder.joinpath("sections.toml").read_text("utf-8"))
    return {
        section: re.compile("|".join(data[section.value]), re.IGNORECASE) for section in Section
    }


def _by_number(heading: Block) -> Section | None:
    title = plain(heading.text)
    match = None if _SUB_NUMBERED.match(title) else _NUMBERED.match(title)
    if match is None:
        return None
    number = match["number"]
    return _BY_NUMBER.get(_ROMAN[number] if number in _ROMAN else int(number))


def _level_by_number(headings: Sequence[Block]) -> int:
    for level in sorted({h.level for h in headings}):
        if len({_by_number(h) for h in headings if h.level == level} - {None}) >= 2:
            return level
    return 0


def _level_by_place(headings: Sequence[Block]) -> int:
    levels = [h.level for h in headings]
    return next((level for level in sorted(set(levels)) if levels.count(level) == 3), 0)


def _as_headings(blocks: Iterable[Block]) -> Iterable[Block]:
    """Takes items of a list, and short lines, that name a section for its heading."""
    for block in blocks:
        if block.kind == "list" and len({_by_words(i) for i in block.children} - {None}) >= 2:
            for item in block.children:
                body = item.children[1:]
                end = body[0].start if body else item.end
                yield Block("heading", item.start, end, item.text, level=1)
                yield from body
        elif block.kind == "list" and len(block.children) == 1 and _by_words(block.children[0]):
            item = block.children[0]
            yield Block("heading", item.start, item.start + 1, item.text, level=1)
            yield from item.children[1:]
        elif block.kind == "text" and _is_line(block) and _by_words(block):
            yield replace(block, kind="heading", level=1)
        else:
            yield block


def _is_line(block: Block) -> bool:
    text = block.text.strip()
    return "\n" not in text and len(text) <= _MAX_LINE and not text.endswith((".", "。"))
