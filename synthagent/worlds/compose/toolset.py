"""Turns abstract operations into the tools of one world.

Owns the translation of an operation's program: parameters and fields get their surface names,
left-out parameters become NULL, results keep the fields that plans need and a few more. A bypass is
the same program without its business rules, either as a tool of its own or behind a flag.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from pydantic import JsonValue

from synthagent.worlds.compose.language import Concept, Line, Operation
from synthagent.worlds.compose.surface import IdFormat, Surface
from synthagent.worlds.compose.vocabulary import Measure, Pool
from synthagent.worlds.compose.wording import capitalised, render, words_of
from synthagent.worlds.spec import ReturnShape, SqlProgram, Statement, StatementKind, Tool

_PARAMETER = re.compile(r":([a-z]\w*)")
_NEW = re.compile(r"\{new\.(\w+)\}")
MAX_EXTRA_FIELDS = 2


@dataclass(frozen=True)
class Dressing:
    """What a world gives to all of its tools."""

    words: Mapping[str, str]
    surface: Surface
    concepts: Mapping[str, Concept]
    pools: Mapping[str, Pool]
    measures: Mapping[str, Measure]
    formats: Mapping[str, IdFormat]
    described: bool
    enums: bool


@dataclass
class Draft:
    """One tool to be: an operation and what this world makes of it."""

    op: str
    operation: Operation
    needed: set[str] = field(default_factory=set)
    rules: tuple[Line, ...] = ()
    omit: frozenset[str] = frozenset()
    bypass: bool = False
    flag: str = ""

    @property
    def key(self) -> str:
        """What plans call it: the operation, or the operation's bypass."""
        return f"{self.op}!" if self.bypass else self.op

    @property
    def params(self) -> list[str]:
        """The concepts of its parameters."""
        return [name for name in self.operation.params if name not in self.omit]


def code(pattern: str, words: Mapping[str, str]) -> str:
    """The error code of a pattern such as `{client} not found`."""
    return "_".join(words_of(render(pattern, words)))


def build(draft: Draft, dressing: Dressing, rng: Random, noun: str) -> Tool:
    """The tool; its name is drawn here."""
    operation = draft.operation
    source = operation.bypass if draft.bypass and operation.bypass else operation
    name = dressing.surface.name_tool(draft.key, source.names, noun)
    about = render(rng.choice(source.about), dressing.words)
    return Tool(
        name=name,
        description=about,
        input_schema=_input_schema(draft, dressing, rng),
        category=operation.category,
        behaviour=SqlProgram(statements=tuple(_statements(draft, dressing, rng))),
    )


def _input_schema(draft: Draft, dressing: Dressing, rng: Random) -> dict[str, JsonValue]:
    properties: dict[str, JsonValue] = {}
    for key in draft.params:
        concept = dressing.concepts[key]
        schema: dict[str, JsonValue] = {"type": concept.type}
        if concept.measure:
            schema = {"type": "integer", "minimum": 1}
        elif concept.pool and dressing.enums:
            schema["enum"] = list(dressing.pools[concept.pool].values)
        text = _about(concept, dressing, rng)
        if text:
            schema["description"] = text
        properties[dressing.surface.concept(key)] = schema
    required: list[JsonValue] = list(properties)
    if draft.flag:
        properties[draft.flag] = {"type": "boolean"}
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _about(concept: Concept, dressing: Dressing, rng: Random) -> str:
    if not dressing.described:
        return ""
    if concept.about:
        return render(rng.choice(concept.about), dressing.words)
    if concept.id:
        example = dressing.formats[concept.id].text(rng.randint(20, 60))
        noun = render("{" + dressing.words[f"table.{concept.id}"] + "}", dressing.words)
        return rng.choice([f"Identifier of the {noun}.", f"The {noun}, such as {example}."])
    if concept.measure:
        measure = dressing.measures[concept.measure]
        return f"{capitalised(measure.noun[0].singular)} in {measure.unit}."
    return ""


def _statements(draft: Draft, dressing: Dressing, rng: Random) -> list[Statement]:
    lines: list[Line] = list(draft.operation.program)
    if not draft.bypass:
        lines = _with_rules(lines, draft)
    out = []
    for line in lines:
        if set(line.needs) & draft.omit or (draft.bypass and line.rule):
            continue
        out.append(_statement(line, draft, dressing, rng))
    return out


def _with_rules(lines: list[Line], draft: Draft) -> list[Line]:
    """The rules of modules come behind the operation's own checks that things exist."""
    at = next((n for n, line in enumerate(lines) if line.rule or line.execute), 0)
    client = draft.operation.client
    rules = [
        line.model_copy(update={"require": line.require.replace("{client}", client)})
        for line in draft.rules
    ]
    return [*lines[:at], *rules, *lines[at:]]


def _statement(line: Line, draft: Draft, dressing: Dressing, rng: Random) -> Statement:
    if line.execute:
        return Statement(kind=StatementKind.EXECUTE, sql=_sql(line.execute, draft, dressing))
    message = _message(rng.choice(line.message), dressing) if line.message else ""
    error_code = code(line.error, dressing.words) if line.error else ""
    if line.require:
        sql = _sql(line.require, draft, dressing)
        if line.rule and draft.flag:
            sql += f" UNION ALL SELECT 1 AS v_ok WHERE :{draft.flag} = 1"
        return Statement(
            kind=StatementKind.REQUIRE, sql=sql, error_code=error_code, error_message=message
        )
    fields = _fields(line, draft, rng)
    surface = dressing.surface
    columns = ", ".join(f'{expression} AS "{surface.concept(key)}"' for key, expression in fields)
    sql = _sql(f"SELECT {columns} {line.source}", draft, dressing)
    if line.rows:
        return Statement(
            kind=StatementKind.RETURN,
            sql=sql,
            shape=ReturnShape.ROWS,
            key=surface.field_key("{" + line.key + "}"),
        )
    return Statement(
        kind=StatementKind.RETURN,
        sql=sql,
        shape=ReturnShape.ROW,
        error_code=error_code,
        error_message=message,
    )


def _fields(line: Line, draft: Draft, rng: Random) -> list[tuple[str, str]]:
    """The fields that plans need, the first one, and up to two others."""
    every = list((line.row or line.rows).items())
    kept = {key for key, _ in every if key in draft.needed} or {every[0][0]}
    others = [key for key, _ in every if key not in kept]
    extra = rng.randint(0, MAX_EXTRA_FIELDS)
    kept.update(rng.sample(others, min(extra, len(others))))
    return [(key, expression) for key, expression in every if key in kept]


def _message(template: str, dressing: Dressing) -> str:
    return render(
        template,
        dressing.words,
        lambda hole: "{" + dressing.surface.concept(hole[1:]) + "}" if hole[0] == ":" else None,
    )


def _sql(sql: str, draft: Draft, dressing: Dressing) -> str:
    def name(match: re.Match[str]) -> str:
        key = match[1]
        if key in draft.omit:
            return "NULL"
        if key.startswith("v_") or key == draft.flag:
            return match[0]
        return f":{dressing.surface.concept(key)}"

    sql = _NEW.sub(lambda match: dressing.formats[match[1]].sql(match[1]), sql)
    flagged = f"coalesce(:{draft.flag}, 0)" if draft.flag else str(int(draft.bypass))
    return _PARAMETER.sub(name, sql).replace("{bypassed}", flagged)
