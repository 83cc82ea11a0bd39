"""Values in a sentence of the user that it can have from nowhere: numbers, days, addresses, names.

The user may say what stands in its facts and background, in what it wants done, and what it heard.
`invented` gives the first value that is in none of these, whatever way it is written: 12 for
"twelve", 14 June for 2031-06-14, 3 pm for 15:00. Words of everyday speech are no values, so an
invented quality ("the quiet one") is not found here; that takes a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from functools import lru_cache

from synthagent.worlds.asking.language import lexicon, stem
from synthagent.worlds.values import normalise

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_DIGITS = re.compile(r"\d+")
_CLOCK = re.compile(r"\b(\d{1,2})(?=(?::\d\d)?\s*(?:[ap]\.?m\b|o'clock))", re.IGNORECASE)
_ISO_DATE = re.compile(r"\b(\d{4})-(\d\d)-(\d\d)\b")
_NUMERIC_DATE = re.compile(r"\b(\d{1,2})[./](\d{1,2})[./](\d{4})\b")
_ADDRESS = re.compile(r"https?://\S+|[\w.+-]+@[\w-]+\.[\w.-]*\w")
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
_OPENS = re.compile(r"(?:^|[.!?:;\u2026\"\u201c(\u2014-])\s*$")
_TITLE = re.compile(r"[^\W\d_a-z][a-z\u00df-\u00ff]+")
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
)  # fmt: skip
_DAYS = frozenset((*_WEEKDAYS, *_MONTHS))
_ALSO_WORDS = frozenset(("march", "may", "august"))
_COUNTED = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBER_WORDS = {word: number for number, word in enumerate(_COUNTED)} | {
    word: 10 * number for number, word in enumerate(_TENS, start=2)
}


def invented(text: str, sources: Sequence[str], *, strict: bool) -> str:
    """The first value of the text that no source holds, as it stands there; "" where none is.

    Sources are read in order and as far as needed: the most likely ones belong first. `strict` also
    takes number words from three on, and single names, for values: right where a doubt costs a
    second try, wrong where it costs an episode.
    """
    known = _Sources(sources)
    for match in _ADDRESS.finditer(text):
        if not any(match[0].casefold() in source.text for source in known):
            return str(match[0])
    return (
        _invented_number(text, known, strict=strict)
        or _invented_day(text, known)
        or _invented_name(text, known, strict=strict)
    )


class _Known:
    """What one source holds, in every form that it may be said in."""

    def __init__(self, text: str) -> None:
        self.text = normalise(text)
        self.words = frozenset(word.casefold() for word in _WORD.findall(text))
        self.stems = frozenset(
            stem(part) for word in self.words for part in re.split(r"['\u2019-]", word)
        )
        digits = f"{text} {self.text}"  # as they stand, and without thousands separators
        self.numbers = {int(run) for run in _DIGITS.findall(digits) if len(run) < 19}
        self.numbers |= {_NUMBER_WORDS[word] for word in self.words & _NUMBER_WORDS.keys()}
        self.runs = re.sub(r"(?<=\d)[\s().,:/-]+(?=\d)", "", text)
        self.days = frozenset(_names_of_days(text))
        self.hours = {hour % 12 for hour in self.numbers if hour < 25}

    def has_number(self, digits: str) -> bool:
        return int(digits[:18]) in self.numbers or (len(digits) > 3 and digits in self.runs)

    def has_hour(self, hour: int) -> bool:
        return hour < 25 and hour % 12 in self.hours

    def has_day(self, day: str) -> bool:
        """Whether it names the day or month: in full, in the plural, abbreviated, by a date."""
        forms = {day, f"{day}s", f"{day}'s", day[:3], day[:4]}
        return day in self.days or not forms.isdisjoint(self.words)

    def has_word(self, word: str) -> bool:
        return word in self.words or stem(word) in self.stems


_known = lru_cache(maxsize=4096)(_Known)


class _Sources:
    """Sources as what they hold; each is read when it is come to."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def __iter__(self) -> Iterator[_Known]:
        return map(_known, self._texts)


def _names_of_days(text: str) -> Iterable[str]:
    """Months and weekdays of the dates that a text holds as numbers."""
    found = [(int(y), int(m), int(d)) for y, m, d in _ISO_DATE.findall(text)]
    for first, second, year in _NUMERIC_DATE.findall(text):
        found += [(int(year), int(first), int(second)), (int(year), int(second), int(first))]
    for year, month, day in found:
        try:
            when = date(year, month, day)
        except ValueError:  # 31/12 read as month 31: the other reading is the date
            continue
        yield _MONTHS[when.month - 1]
        yield _WEEKDAYS[when.weekday()]


def _invented_number(text: str, known: _Sources, *, strict: bool) -> str:
    plain = _THOUSANDS.sub("", text)
    hours = {match.start(1) for match in _CLOCK.finditer(plain)}
    for match in _DIGITS.finditer(plain):
        run = str(match[0])
        hour = int(run) if match.start() in hours else 25
        if not any(source.has_number(run) or source.has_hour(hour) for source in known):
            return run
    if strict:
        for word in _WORD.findall(text.replace("-", " ")):
            number = _NUMBER_WORDS.get(word.casefold(), 0)
            if number > 2 and not any(
                number in source.numbers or source.has_hour(number) for source in known
            ):
                return str(word)
    return ""


def _invented_day(text: str, known: _Sources) -> str:
    for match in _WORD.finditer(text):
        word = match[0].casefold().removesuffix("'s").removesuffix("\u2019s").removesuffix("s")
        if word not in _DAYS:
            continue
        if word in _ALSO_WORDS and (match[0].islower() or _OPENS.search(text[: match.start()])):
            continue
        if not any(source.has_day(word) for source in known):
            return str(match[0])
    return ""


def _invented_name(text: str, known: _Sources, *, strict: bool) -> str:
    """A capitalised word inside a sentence; two in a row, unless `strict`."""
    last: re.Match[str] | None = None
    for match in _WORD.finditer(text):
        if not _is_name(match, text, known):
            continue
        follows = last is not None and text[last.end() : match.start()].strip(" .") == ""
        if strict or follows:
            start = last.start() if last is not None and follows else match.start()
            return text[start : match.end()]
        last = match
    return ""


def _is_name(match: re.Match[str], text: str, known: _Sources) -> bool:
    word = re.sub(r"['\u2019]s$", "", match[0])
    if not _TITLE.fullmatch(word) or _OPENS.search(text[: match.start()]):
        return False
    plain = word.casefold()
    if (
        plain in lexicon().words["capitalised"]
        or plain in _DAYS
        or stem(plain) in lexicon().familiar
    ):
        return False
    return not any(source.has_word(plain) for source in known)
