"""The rubric: from what the model proposes to typed criteria, each with the text it came from.

What an engine can check becomes a called, forbidden, answer or asked check, and only where the
attempts bear it out: an engine check that no attempt meets asks for something that the task may not
need, and a ban that every attempt breaks is none. Such lines are judged instead, by the same text.
The restriction itself is always judged, in words of ours, and outweighs all other policies, so that
a violation zeroes the reward by every preset.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.task_synthesis.teacher.attempts import Attempt
from services.task_synthesis.teacher.bounds import identifier, plain
from services.task_synthesis.teacher.drafting import asked, complied, identified, policy, validated
from services.task_synthesis.teacher.products import ArgumentDesign, CriterionDesign, Rubric
from services.task_synthesis.teacher.repair import Broken
from services.task_synthesis.teacher.route import Step
from synthagent.worlds.checks import Reading, matches, read
from synthagent.worlds.criteria import (
    AnswerCheck,
    ArgumentMatcher,
    AskedCheck,
    CalledCheck,
    CallMatcher,
    Check,
    Criterion,
    ForbiddenCheck,
    JudgedCheck,
    Section,
)
from synthagent.worlds.matching import contains
from synthagent.worlds.spec import Task, Tool
from synthagent.worlds.values import Scalar

MIN_SUB_GOALS = 3

_STEMS = {Section.POLICY: "policy", Section.SUB_GOAL: "goal", Section.INTERACTION: "asked"}


def typed(draft: Task, product: Rubric, attempts: Sequence[Attempt]) -> Task:
    """The final task: the draft with the rubric as typed criteria. Raises Broken."""
    lines = _Lines(draft, [read(attempt.events, "") for attempt in attempts])
    policies = lines.of(Section.POLICY, product.policy)
    goals = lines.of(Section.SUB_GOAL, product.sub_goals)
    if len(goals) < MIN_SUB_GOALS:
        raise Broken(
            Step.RUBRIC,
            f"the rubric has {len(goals)} different sub-goals; at least {MIN_SUB_GOALS} are needed",
        )
    interaction = lines.of(Section.INTERACTION, product.interaction)
    if not any(isinstance(line.check, AskedCheck) for line in interaction):
        interaction = [*map(asked, draft.facts), *interaction]
    restriction = policy(draft.restriction.text, weight=1.0 + len(policies))
    content = {
        **draft.model_dump(),
        "certificate": None,
        "criteria": (restriction, *policies, *goals, *interaction),
    }
    return identified(validated(content))


class _Lines:
    """Turns the lines of one rubric into criteria, each once."""

    def __init__(self, draft: Task, attempts: Sequence[Reading]) -> None:
        self._draft = draft
        self._attempts = attempts
        self._tools = {plain(tool.name): tool for tool in draft.world.tools}
        self._facts = {
            plain(name): fact for fact in draft.facts for name in (fact.label, fact.fact_id)
        }
        self._taken = {draft.restriction.criterion_id}
        self._taken |= {asked(fact).criterion_id for fact in draft.facts}
        self._known: set[str] = set()

    def of(self, section: Section, designs: Sequence[CriterionDesign]) -> list[Criterion]:
        """The criteria of one section, in order, without repetitions."""
        found = []
        for design in designs:
            check = self._check(section, design)
            if check is None and section is Section.POLICY and self._restates(design):
                continue
            criterion = check or self._judged(section, design)
            identity = f"{section}{criterion.model_dump_json()}"
            if identity not in self._known:
                self._known.add(identity)
                found.append(self._line(section, design.text, criterion))
        return found

    def _line(self, section: Section, text: str, check: Check) -> Criterion:
        return Criterion(
            criterion_id=identifier(f"{_STEMS[section]} {text}"[:40], self._taken, "line"),
            section=section,
            description=text,
            check=check,
            source_text=text,
        )

    def _restates(self, design: CriterionDesign) -> bool:
        """Whether a judged policy speaks of the restricted tool: one line holds that already."""
        restricted = self._draft.restriction.text.split(" must NOT ")[0].removeprefix("Tool ")
        return plain(restricted) in plain(design.text)

    def _judged(self, section: Section, design: CriterionDesign) -> JudgedCheck:
        """A question where YES is good; a policy's is worded by us, so that it cannot be turned."""
        if section is Section.POLICY:
            return complied(design.text)
        return JudgedCheck(question=design.question or f"Does this hold: {design.text}")

    def _check(self, section: Section, design: CriterionDesign) -> Check | None:
        """The engine's check of a line, or None where only a model can tell."""
        match section, design.check:
            case Section.POLICY, "forbidden":
                return self._forbidden(design)
            case Section.SUB_GOAL, "called":
                return self._called(design)
            case Section.SUB_GOAL, "answer":
                return self._answer(design)
            case Section.INTERACTION, "asked":
                fact = self._facts.get(plain(design.fact))
                return AskedCheck(fact_id=fact.fact_id) if fact else None
            case _:
                return None

    def _called(self, design: CriterionDesign) -> CalledCheck | None:
        matcher = self._matcher(design)
        if matcher is None or not any(self._made(matcher)):
            return None
        return CalledCheck(any_of=(matcher,))

    def _forbidden(self, design: CriterionDesign) -> ForbiddenCheck | None:
        matcher = self._matcher(design)
        if matcher is None or all(self._made(matcher)):
            return None
        return ForbiddenCheck(calls=(matcher,))

    def _made(self, matcher: CallMatcher) -> list[bool]:
        """Whether each attempt made such a call."""
        world = self._draft.world
        return [any(matches(call, matcher, world) for call in one.calls) for one in self._attempts]

    def _answer(self, design: CriterionDesign) -> AnswerCheck | None:
        values = tuple(value for value in design.values if _telling(value))
        if not values or any(contains(self._draft.instruction, value) for value in values):
            return None
        answers = [one.answer or "" for one in self._attempts]
        if not any(all(contains(answer, value) for value in values) for answer in answers):
            return None
        return AnswerCheck(values=values)

    def _matcher(self, design: CriterionDesign) -> CallMatcher | None:
        tool = self._tools.get(plain(design.tool))
        if tool is None:
            return None
        wanted = []
        for argument in design.arguments:
            matcher = self._argument(tool, argument)
            if matcher is None:
                return None
            wanted.append(matcher)
        return CallMatcher(tool=tool.name, arguments=tuple(wanted))

    def _argument(self, tool: Tool, design: ArgumentDesign) -> ArgumentMatcher | None:
        properties = tool.input_schema.get("properties")
        if not isinstance(properties, dict) or design.name not in properties:
            return None
        value = design.value
        if design.fact:
            fact = self._facts.get(plain(design.fact))
            value = fact.value if fact else None
        return None if value is None else ArgumentMatcher(name=design.name, equals=value)


def _telling(value: Scalar) -> bool:
    """Whether a value in an answer tells something: no boolean, null, or single character."""
    return not (value is None or isinstance(value, bool)) and len(str(value).strip()) >= 2
