"""What archetypes and modules are made of: tables, operations, scenarios, steps and facts.

Owns the shape of `../archetypes/*.toml` and `../modules/*.toml`, which hold all behaviour of
composed worlds. SQL names of tables and columns are fixed there; what an agent sees (names of
tools, parameters and fields, values, texts) is drawn for each world. Values are frozen and valid by
construction; what spans files belongs to `library`. `README.md` beside this file tells how an
archetype is written.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from synthagent.worlds.compose.vocabulary import Data, Measure, Pool, Texts

Argument = str | int | bool


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
    row: dict[str, str] = Field(default_factory=dict)
    rows: dict[str, str] = Field(default_factory=dict)
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
    equivalents: dict[str, dict[str, str]] = Field(default_factory=dict)

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
    args: dict[str, Argument] = Field(default_factory=dict)
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
    set: dict[str, Argument] = Field(default_factory=dict)


class Answer(Data):
    """What the agent says in the end, the values it must hold, and phrases of which one must."""

    texts: Texts
    values: Texts = ()
    any_of: Texts = ()


class Fragment(Data):
    """What archetypes and modules have in common: pieces of a world."""

    name: str
    pools: dict[str, Pool] = Field(default_factory=dict)
    measures: dict[str, Measure] = Field(default_factory=dict)
    concepts: dict[str, Concept] = Field(default_factory=dict)
    tables: dict[str, TableRecipe] = Field(default_factory=dict)
    ops: dict[str, Operation] = Field(default_factory=dict)


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
    let: dict[str, str] = Field(default_factory=dict)
    rows: tuple[BoundRow, ...] = ()
    fill: dict[str, dict[str, str]] = Field(default_factory=dict)
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

    let: dict[str, str] = Field(default_factory=dict)
    rows: tuple[BoundRow, ...] = ()
    fill: dict[str, dict[str, str]] = Field(default_factory=dict)
    facts: tuple[FactRecipe, ...] = ()
    rule: tuple[Line, ...] = ()
    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()
    variants: tuple[Variant, ...] = ()
    ask: Texts = ()
    answer: Answer | None = None
    forbidden: tuple[ForbiddenOp, ...] = ()
    uses: Literal["client", "record", "both", "none"] = "both"
