"""What domains bring to a world, and what all worlds share: words, pools, measures, levels.

Owns the shape of `../domains/*.toml`, `levels.toml` and `surface.toml`. Values are frozen and valid
by construction; what spans files belongs to `library`. `../domains/README.md` tells how a domain
file is written.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Texts = Annotated[
    tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)
]
_POOL_VALUE = re.compile(r"^[a-z0-9][a-z0-9:-]*( [a-z0-9:-]+){0,3}$")


class Data(BaseModel):
    """Base of all values read from files: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Noun(NamedTuple):
    """A noun in both numbers, lower case, without article."""

    singular: str
    plural: str


def _noun(given: object) -> Noun:
    if not isinstance(given, str) or given.count("/") != 1:
        raise ValueError(f"{given!r} is no noun: write 'singular/plural'")
    singular, plural = (part.strip() for part in given.split("/"))
    if not singular or not plural:
        raise ValueError(f"{given!r} is no noun: write 'singular/plural'")
    return Noun(singular, plural)


def _nouns(given: object) -> tuple[Noun, ...]:
    listed = given if isinstance(given, list) else [given]
    if not listed:
        raise ValueError("at least one noun is needed")
    return tuple(_noun(one) for one in listed)


Nouns = Annotated[tuple[Noun, ...], BeforeValidator(_nouns)]
OneNoun = Annotated[Noun, BeforeValidator(_noun)]


class Pool(Data):
    """A closed list of values, how it is called and how its values are said.

    A world uses some of the values; all of them where `fixed`, because programs name them.
    """

    noun: Nouns
    values: tuple[str, ...] = Field(min_length=5)
    phrase: OneNoun | None = None
    say: str = "{value}"
    replies: Texts = ()
    questions: Texts = ()
    ask: Texts = ()
    fixed: bool = False

    @model_validator(mode="after")
    def _check(self) -> Pool:
        for value in self.values:
            if not _POOL_VALUE.match(value):
                raise ValueError(f"value {value!r}: lower case words, digits, ':' and '-' only")
            inside = [v for v in self.values if v != value and f" {value} " in f" {v} "]
            if inside or self.values.count(value) > 1:
                raise ValueError(f"value {value!r} stands twice or inside {inside}")
        for text in (self.say, *self.replies, *(self.phrase or ())):
            if "{value}" not in text:
                raise ValueError(f"{text!r} does not hold {{value}}")
        if bool(self.replies) != bool(self.questions) or len(self.replies) == 1:
            raise ValueError("replies and questions come together, at least two of each")
        return self


class Measure(Data):
    """A whole number with its unit and range."""

    noun: Nouns
    unit: str
    range: tuple[int, int]

    @model_validator(mode="after")
    def _check(self) -> Measure:
        if self.range[0] < 1 or self.range[1] - self.range[0] < 30:
            raise ValueError(f"range {list(self.range)}: from 1 at least, and 30 apart at least")
        return self


class Dress(Data):
    """What a domain brings to one archetype."""

    item: Nouns
    record: Nouns
    kind: Pool
    slot: Pool | None = None
    place: Pool | None = None
    team: Pool | None = None
    purpose: Pool | None = None
    mode: Pool | None = None
    delivery: Pool | None = None
    priority: Pool | None = None
    term: Pool | None = None
    amount: Measure | None = None
    quantity: Measure | None = None
    level: Measure | None = None
    labels: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Dress:
        if self.kind.phrase is None:
            raise ValueError("kind.phrase is required: how an item of a kind is said")
        if self.labels and len(set(self.labels)) < 8:
            raise ValueError("labels: at least 8 distinct ones")
        return self

    def pools(self) -> dict[str, Pool]:
        """The pools given, by key."""
        return {key: value for key, value in self if isinstance(value, Pool)}

    def measures(self) -> dict[str, Measure]:
        """The measures given, by key."""
        return {key: value for key, value in self if isinstance(value, Measure)}


class Domain(Data):
    """A vocabulary: whose world it is and what things are called there."""

    name: str
    split: Literal["train", "held_out"]
    title: str
    organisations: tuple[str, ...] = Field(min_length=5)
    client: Nouns
    roles: tuple[str, ...] = Field(min_length=5)
    colours: tuple[str, ...] = Field(min_length=5)
    motives: tuple[str, ...] = Field(min_length=5)
    reasons: tuple[str, ...] = Field(min_length=3)
    dresses: dict[str, Dress] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Domain:
        for colour in self.colours:
            if "{name}" not in colour:
                raise ValueError(f"colours: {colour!r} does not hold {{name}}")
        return self


class Level(Data):
    """Bounds of a named difficulty. Ranges are inclusive."""

    name: str
    steps: tuple[int, int]
    facts: tuple[int, int]
    tools: tuple[int, int]
    values: tuple[int, int]
    modules: tuple[int, int]
    distractors: tuple[int, int]
    styles: tuple[str, ...]
    prose: bool
    variants: bool
    parameter_texts: float = Field(ge=0, le=1)


class Words(Data):
    """Surface words shared by all worlds: verbs, id names, ways to ask and to answer."""

    verbs: dict[str, Texts]
    id_names: Texts
    wrappers: Texts
    also: Texts
    openings: Texts
    questions: Texts
    replies: Texts
    measure_questions: Texts
    measure_replies: Texts
    forbid: Texts
    refusals: Texts
    voices: tuple[str, ...]
