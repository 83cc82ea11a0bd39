"""Templates of the data files: what stands in braces, and how it becomes text.

    {item} {items} {Item}       a noun of the world, singular, plural, at the start of a sentence
    {a item} {A item}           with its article
    {$kind} {$target.price}     a variable of the scenario, or a column of one of its rows
    {$kind.say}                 a pool's value as it is said in a sentence
    {$kind.phrase} {$kind.phrases}  an item, or items, of that value
    {:client_id}                the surface name of a parameter, in braces, for error messages
    {step.field} {step[$row.id].field} {?fact}  part of a result, or a fact: answers only
    {value} {name}              left as they are unless the lexicon knows them

A template is parsed once; rendering joins strings. Unknown words raise WordingError at once, so a
misspelt template never reaches a task.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

_HOLE = re.compile(r"\{((?:[aA] )?)([^{}]+)\}")
_WORD = re.compile(r"^[A-Za-z][A-Za-z0-9_]*(\.[a-z]+)?$")
_VOWEL_SOUND = re.compile(
    r"^(?:[aeio](?!ne\b|uro|we)|u(?!ni|se|ti|r[aei])|hour|honest|x-|8|11\b|18\b)", re.IGNORECASE
)


class WordingError(ValueError):
    """A template that speaks of something that the world does not have."""


def with_article(text: str) -> str:
    """The text behind "a" or "an", by its sound."""
    return f"{'an' if _VOWEL_SOUND.match(text) else 'a'} {text}"


def capitalised(text: str) -> str:
    """The text with its first letter in upper case and the rest as it is."""
    return text[:1].upper() + text[1:]


@lru_cache(maxsize=8192)
def parse(template: str) -> tuple[tuple[str, str, str], ...]:
    """(text before, article, hole) for each hole, and the text after the last one."""
    parts: list[tuple[str, str, str]] = []
    end = 0
    for match in _HOLE.finditer(template):
        parts.append((template[end : match.start()], match[1].strip(), match[2]))
        end = match.end()
    parts.append((template[end:], "", ""))
    return tuple(parts)


def render(
    template: str, words: Mapping[str, str], special: Callable[[str], str | None] | None = None
) -> str:
    """The text. `special` resolves what is no word of the lexicon, or gives None."""
    out: list[str] = []
    for before, article, hole in parse(template):
        out.append(before)
        if not hole:
            continue
        text = words.get(hole)
        if text is None and _WORD.match(hole) and hole[0].isupper():
            lower = words.get(hole[0].lower() + hole[1:])
            text = capitalised(lower) if lower is not None else None
        if text is None and special is not None:
            text = special(hole)
        if text is None:
            if hole in {"value", "name"}:
                text = "{" + hole + "}"
            else:
                raise WordingError(f"template {template!r}: {{{hole}}} is unknown")
        if article:
            text = with_article(text)
            if article == "A":
                text = capitalised(text)
        out.append(text)
    return "".join(out)


def words_of(text: str) -> list[str]:
    """Lower-case words of a name pattern, for joining in a naming style."""
    return [word for word in re.split(r"[^A-Za-z0-9]+", text.lower()) if word]
