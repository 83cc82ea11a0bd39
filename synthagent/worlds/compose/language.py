"""The data language of the programmatic teacher: what its TOML files may say.

Owns the shape of archetypes (behaviour and scenarios), modules (pieces that combine with any
archetype), domains (words and values), levels and surface words. Values are frozen and valid by
construction; what spans files (does a domain bring the pools that its archetype needs) belongs to
`library`. `../domains/README.md` tells how a domain file is written, `README.md` beside this file
how archetypes and modules are.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Texts = Annotated[
    tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)
]
Argument = str | int | bool

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


class Concept(Data):
    """A parameter or field: how it may be called, its type, and how a user tells it.

    Exactly one of `id` (a table), `pool`, `measure` or `words` says where its name comes from;
    words may also be given beside the others to replace the usual names.
    """

    id: str = ""
    pool: str = ""
    measure: str = ""
    words: Texts = ()
    type: Literal["string", "integer", "boolean"] = "string"
    about: Texts = ()
    label: str = ""
    ask: Texts = ()
    questions: Texts = ()
    replies: Texts = ()

    @model_validator(mode="after")
    def _check(self) -> Concept:
        sources = [source for source in (self.id, self.pool, self.measure) if source]
        if len(sources) > 1 or not (sources or self.words):
            raise ValueError("give exactly one of id, pool, measure, or words")
        return self


class Line(Data):
    """One statement of an operation: exactly one of require, execute, row, rows.

    `rule` marks a business rule that a bypass skips; `needs` drops the line where a parameter is
    left out of the world.
    """

    require: str = ""
    execute: str = ""
    row: dict[str, str] = {}
    rows: dict[str, str] = {}
    source: str = Field("", alias="from")
    key: str = ""
    error: str = ""
    message: Texts = ()
    needs: Texts = ()
    rule: bool = False

    @model_validator(mode="after")
    def _check(self) -> Line:
        given = [bool(self.require), bool(self.execute), bool(self.row), bool(self.rows)]
        if sum(given) != 1:
            raise ValueError("a line is exactly one of require, execute, row, rows")
        if (self.require or self.row) and not (self.error and self.message):
            raise ValueError("require and row need error and message")
        if self.rows and not self.key:
            raise ValueError("rows need a key")
        return self


class Bypass(Data):
    """How an operation's rules may be got round: as a tool of its own, or by a flag."""

    names: Texts
    about: Texts
    flag: Texts = ()
    to: Texts


class Operation(Data):
    """An abstract tool.

    `effect` is a predicate over the state that a successful call makes true; `client` a SQL
    expression for the client concerned; `equivalents` are operations that find the same, with their
    parameters by the names of this one's.
    """

    category: Literal["lookup", "list", "check", "write"]
    names: Texts
    about: Texts
    params: tuple[str, ...]
    program: tuple[Line, ...]
    goal: Texts
    effect: str = ""
    client: str = ""
    bypass: Bypass | None = None
    equivalents: dict[str, dict[str, str]] = {}

    @model_validator(mode="after")
    def _check(self) -> Operation:
        writes = any(line.execute for line in self.program)
        if writes != (self.category == "write") or writes != bool(self.effect):
            raise ValueError("a write, and nothing else, has execute lines and an effect")
        if not (self.program[-1].row or self.program[-1].rows):
            raise ValueError("the last line of a program is row or rows")
        return self


class TableRecipe(Data):
    """Columns with the recipe of their values, and how many rows a world has."""

    rows: tuple[int, int]
    columns: dict[str, str]
    noun: str = ""


class FactRecipe(Data):
    """A private fact: the variable that holds its value and the concept that tells it."""

    id: str
    value: str
    concept: str
    label: str = ""
    ask: Texts = ()
    questions: Texts = ()
    replies: Texts = ()


class Step(Data):
    """One gold call. `error` is the code of the business error it should meet.

    `goal` replaces the operation's; `reads` are fields that the agent must see to go on, beyond
    those that later steps take from the result.
    """

    id: str
    op: str
    args: dict[str, Argument] = {}
    error: str = ""
    goal: str = ""
    reads: Texts = ()


class Variant(Data):
    """Another way to do one step."""

    replaces: str
    step: Step


class BoundRow(Data):
    """A seed row that the scenario speaks of."""

    name: str
    table: str
    set: dict[str, Argument] = {}


class Answer(Data):
    """What the agent says in the end, the values it must hold, and phrases of which one must."""

    texts: Texts
    values: Texts = ()
    any_of: Texts = ()


class Fragment(Data):
    """What archetypes and modules have in common: pieces of a world."""

    name: str
    pools: dict[str, Pool] = {}
    measures: dict[str, Measure] = {}
    concepts: dict[str, Concept] = {}
    tables: dict[str, TableRecipe] = {}
    ops: dict[str, Operation] = {}


class ForbiddenOp(Data):
    """An operation that a restriction may forbid altogether."""

    op: str
    to: Texts
    reasons: Texts = ()


class Scenario(Data):
    """What the user wants, how it is done and what makes it hard.

    `offers` are operations that the world has although no gold step uses them, `forbid` those whose
    bypass may be forbidden (None given: of any that is used), `omit` parameters that this world's
    operations go without. `main`, `client` and `record` are where modules attach: the step that
    they guard or follow, and references to the client's and the record's identifier.
    """

    id: str
    levels: tuple[str, ...]
    weight: int = 1
    let: dict[str, str] = {}
    rows: tuple[BoundRow, ...] = ()
    fill: dict[str, dict[str, str]] = {}
    facts: tuple[FactRecipe, ...] = Field(min_length=1)
    steps: tuple[Step, ...] = Field(min_length=2)
    variants: tuple[Variant, ...] = ()
    main: str = ""
    client: str = ""
    record: str = ""
    success: bool = True
    omit: tuple[str, ...] = ()
    offers: Texts = ()
    forbid: Texts = ()
    asks: Texts
    answer: Answer


class Archetype(Fragment):
    """A kind of system: its tables, its operations and what people want of it."""

    needs: tuple[str, ...] = ()
    labels: bool = False
    forbidden: tuple[ForbiddenOp, ...] = ()
    scenarios: tuple[Scenario, ...] = Field(min_length=2)


class Module(Fragment):
    """A piece that combines with any archetype by its scenario's client, record and main step.

    `before` steps come before the first call of the main operation, `after` steps at the end;
    `rule` lines are put at the head of the main operation's program.
    """

    let: dict[str, str] = {}
    rows: tuple[BoundRow, ...] = ()
    fill: dict[str, dict[str, str]] = {}
    facts: tuple[FactRecipe, ...] = ()
    rule: tuple[Line, ...] = ()
    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()
    variants: tuple[Variant, ...] = ()
    ask: Texts = ()
    answer: Answer | None = None
    forbidden: tuple[ForbiddenOp, ...] = ()
    uses: Literal["client", "record", "both", "none"] = "both"


class Level(Data):
    """Bounds of a named difficulty. Ranges are inclusive."""

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
