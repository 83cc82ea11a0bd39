"""The rubric of a composed task, read off its gold routes.

Reads are checked by the call with its arguments, failed tries by their error code, writes by their
effect on the state, the end by the answer, and every fact by the question for it. Steps that
another route does otherwise are one criterion that either way satisfies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from synthagent.worlds.compose.gold import Route, Walked
from synthagent.worlds.compose.surface import Surface
from synthagent.worlds.compose.telling import Teller
from synthagent.worlds.compose.toolset import Draft, code
from synthagent.worlds.criteria import (
    AnswerCheck,
    ArgumentMatcher,
    AskedCheck,
    CalledCheck,
    CallMatcher,
    Criterion,
    ForbiddenCheck,
    Section,
    StateCheck,
)
from synthagent.worlds.spec import Fact
from synthagent.worlds.values import Scalar

_PARAMETER = re.compile(r":([a-z]\w*)")
FORBIDDEN_ID = "restriction_kept"


def literal(value: Scalar) -> str:
    """The value as SQL writes it."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(int(value)) if isinstance(value, bool) else str(value)


def effect_sql(draft: Draft, arguments: Mapping[str, Scalar], surface: Surface) -> str:
    """The operation's effect with concrete arguments; left-out ones are NULL."""

    def name(match: re.Match[str]) -> str:
        key = match[1]
        return literal(None if key in draft.omit else arguments[surface.concept(key)])

    return f"SELECT {_PARAMETER.sub(name, draft.operation.effect)}"


def forbidden(draft: Draft, tool: str, text: str) -> Criterion:
    """The policy criterion: no call of the tool, or none with its flag."""
    arguments = (ArgumentMatcher(name=draft.flag, equals=True),) if draft.flag else ()
    return Criterion(
        criterion_id=FORBIDDEN_ID,
        section=Section.POLICY,
        description=text,
        check=ForbiddenCheck(calls=(CallMatcher(tool=tool, arguments=arguments),)),
    )


def sub_goals(routes: Sequence[Route], teller: Teller, surface: Surface) -> list[Criterion]:
    """One criterion for each step of the first route."""
    criteria = []
    for position, walked in enumerate(routes[0].walked):
        ways = [route.walked[position] for route in routes]
        goal = teller.text(walked.step.goal or walked.draft.operation.goal[0])
        writes = walked.draft.operation.effect and not walked.step.error
        check = (
            StateCheck(sql=effect_sql(walked.draft, walked.arguments, surface))
            if writes
            else CalledCheck(any_of=_matchers(ways, surface, teller.words))
        )
        criteria.append(
            Criterion(
                criterion_id=f"did_{position + 1}",
                section=Section.SUB_GOAL,
                description=goal,
                check=check,
            )
        )
    return criteria


def _matchers(
    ways: Iterable[Walked], surface: Surface, words: Mapping[str, str]
) -> tuple[CallMatcher, ...]:
    found: dict[str, CallMatcher] = {}
    for way in ways:
        matcher = CallMatcher(
            tool=surface.tool(way.draft.key),
            arguments=tuple(
                ArgumentMatcher(name=name, equals=value) for name, value in way.arguments.items()
            ),
            count_failed=bool(way.step.error),
            error_code=code(way.step.error, words) if way.step.error else "",
        )
        found[matcher.model_dump_json()] = matcher
    return tuple(found.values())


def answer(values: tuple[Scalar, ...], phrases: tuple[str, ...]) -> Criterion:
    """The final answer holds these values, and one of the phrases where there are any."""
    return Criterion(
        criterion_id="answered",
        section=Section.SUB_GOAL,
        description="The answer tells how it ended.",
        check=AnswerCheck(values=values, any_of=phrases),
    )


def asked(facts: Iterable[Fact]) -> list[Criterion]:
    """One criterion for each fact."""
    return [
        Criterion(
            criterion_id=f"asked_{fact.fact_id}",
            section=Section.INTERACTION,
            description=f"Asked for the {fact.label} before using it.",
            check=AskedCheck(fact_id=fact.fact_id),
        )
        for fact in facts
    ]
