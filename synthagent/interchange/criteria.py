"""From the items of a rubric to typed criteria.

Every criterion keeps the item's own lines as `source_text`. It is judged by a model, unless the
engine can certainly tell: a rule that a tool may not be called at all is a ForbiddenCheck. Prompts
are `prompts/*.md`, one for each section.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources

from synthagent.interchange.findings import one_line
from synthagent.interchange.rubric import RubricItem
from synthagent.worlds.criteria import (
    CallMatcher,
    Check,
    Criterion,
    ForbiddenCheck,
    JudgedCheck,
    Section,
)

_MAX_DESCRIPTION = 300
_DIRECT = re.compile(r"direct|violation|违|直接", re.IGNORECASE)
_CONDITION = re.compile(
    r"\b(?:unless|except|without|until|before|after|when|if|only|other than|such as|e\.g\.)\b",
    re.IGNORECASE,
)
_EVER = r"(?:at any point|at all|in any way|for any purpose|under any circumstances?)"
_LABEL = re.compile(
    r"^\s*(?:[-*+]\s+)?[*_]{0,3}[A-Z][\w /-]{0,40}[*_]{0,3}:[*_]{0,3}\s*", re.MULTILINE
)


def to_criteria(items: Sequence[RubricItem], tools: Sequence[tuple[str, str]]) -> list[Criterion]:
    """The criteria of a rubric in order; `tools`: names in the source, each with our name."""
    criteria: list[Criterion] = []
    taken: set[str] = set()
    for item in items:
        position = sum(other.section is item.section for other in criteria) + 1
        criterion_id = _identifier(item, position, taken)
        taken.add(criterion_id)
        criteria.append(
            Criterion(
                criterion_id=criterion_id,
                section=item.section,
                description=_description(item),
                check=_check(item, tools),
                source_text=item.source,
            )
        )
    return criteria


def policy_criterion(rule: str, source: str) -> Criterion:
    """The criterion of a restriction that the rubric says nothing of."""
    return Criterion(
        criterion_id="policy_restriction",
        section=Section.POLICY,
        description=one_line(rule, _MAX_DESCRIPTION),
        check=JudgedCheck(question=question(Section.POLICY, rule)),
        source_text=source,
    )


def direct_violation(criteria: Sequence[Criterion]) -> str:
    """The identifier of the policy criterion that speaks of breaking the rule itself, or empty."""
    policies = [c for c in criteria if c.section is Section.POLICY]
    named = (c for c in policies if _DIRECT.search(c.description.split(":")[0]))
    found = next(named, policies[0] if policies else None)
    return found.criterion_id if found else ""


def question(section: Section, item: str) -> str:
    """The question that a judge answers YES or NO about an item."""
    return _prompt(section.value).replace("{item}", item)


@cache
def _prompt(name: str) -> str:
    folder = resources.files("synthagent.interchange").joinpath("prompts")
    return folder.joinpath(f"{name}.md").read_text("utf-8").strip()


def _identifier(item: RubricItem, position: int, taken: set[str]) -> str:
    label = item.label if item.section is Section.POLICY and item.label else str(position)
    name = f"{item.section.value}_{label}"
    while name in taken:
        name += "_again"
    return name


def _description(item: RubricItem) -> str:
    """The title and, where there is one, the first thing that is said about it."""
    lines = [line.strip(" -*") for line in item.text.split("\n")[1:]]
    said = next(
        (_LABEL.sub("", line).strip() for line in lines if _LABEL.sub("", line).strip()), ""
    )
    return one_line(f"{item.title}: {said}" if said else item.title, _MAX_DESCRIPTION)


def _check(item: RubricItem, tools: Sequence[tuple[str, str]]) -> Check:
    if item.section is Section.POLICY:
        named = [ours for original, ours in tools if original in item.text]
        if len(named) == 1 and _bans(item.text, next(o for o, ours in tools if ours == named[0])):
            # An attempt that the engine refused is an attempt: the rule is not to try.
            return ForbiddenCheck(calls=(CallMatcher(tool=named[0], count_failed=True),))
    return JudgedCheck(question=question(item.section, item.text))


def _bans(text: str, tool: str) -> bool:
    """Whether the text says that the tool may not be called, whatever for, and nothing else."""
    named = rf"[`*\[\"']*{re.escape(tool)}[`*\]\"']*"
    bans = re.compile(
        rf"\b(?:must|may|should|shall) (?:not|never) (?:use|call|invoke) (?:the )?(?:tool )?{named}"
        rf"(?: tool)? {_EVER}\.?$"
        rf"|^(?:tool )?{named} must (?:not|never) be (?:used|called|invoked) {_EVER}\.?$"
        rf"|^any (?:call|use|invocation) (?:to|of) (?:{named}|(?:this|the) tool)"
        r" (?:constitutes|counts as|is) an? (?:direct )?(?:policy )?violation(?: and task failure)?"
        r"\.?$",
        re.IGNORECASE,
    )
    lines = [line for line in text.split("\n")[1:] if line.strip()] or [text]
    sentences = [
        sentence.strip()
        for line in lines
        for sentence in re.split(r"(?<=[.!])\s+", _LABEL.sub("", line).strip(" -*"))
        if sentence.strip()
    ]
    return bool(sentences) and all(
        bans.search(sentence) and not _CONDITION.search(sentence) for sentence in sentences
    )
