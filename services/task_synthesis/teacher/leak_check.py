"""The information gap of a fuzzy task: what the visible sentence must not give away.

Deterministic: no value of a fact, no name of a tool, no step of the workflow. The background, which
only the user reads, names no tool either and does not recite the workflow. What words alone cannot
show is one question to the model, asked by the step after these checks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from services.task_synthesis.teacher.bounds import words
from services.task_synthesis.teacher.repair import Broken
from services.task_synthesis.teacher.route import Step
from synthagent.worlds.asking.language import stem
from synthagent.worlds.matching import contains
from synthagent.worlds.spec import Fact

RUN = 5
"""Words in a row of a sub-goal that give it away."""

COVERED = 0.65
"""Share of a sub-goal's content words that tells it."""

MAX_TOLD = 2
"""Sub-goals that the visible sentence may touch so far: the request itself is one of them."""

_TOOL_LIKE = re.compile(r"[_.\-0-9]|[a-z][A-Z]|[A-Z]{2}[a-z]")
_WORD = re.compile(r"[^\W_]+")
_LIGHT = frozenset(
    (
        *("a", "about", "all", "an", "and", "any", "are", "as", "at", "be", "by", "do", "each"),
        *("for", "from", "get", "has", "have", "how", "i", "in", "into", "is", "it", "its", "me"),
        *("my", "need", "needs", "of", "on", "one", "or", "our", "please", "some", "than", "that"),
        *("the", "their", "them", "then", "these", "this", "to", "user", "want", "we", "what"),
        *("when", "which", "who", "will", "with", "would", "you", "your"),
    )
)


def names_tool(text: str, tool_names: Sequence[str]) -> str:
    """The first tool that a text names, or an empty string.

    A name of several words is found however it is written; one that is an ordinary word only as it
    stands, because "calendar" may well be spoken of where a tool is called Calendar.
    """
    spoken = words(text)
    for name in tool_names:
        phrase = words(name)
        if _TOOL_LIKE.search(name):
            if contains(text, name) or (" " in phrase and f" {phrase} " in f" {spoken} "):
                return name
        elif re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) and not name.islower():
            return name
    return ""


def leaks(
    instruction: str,
    background: str,
    *,
    facts: Sequence[Fact],
    tool_names: Sequence[str],
    workflow: Sequence[str],
) -> Iterator[str]:
    """What is given away, one sentence each."""
    for fact in facts:
        if contains(instruction, fact.value):
            yield f"the visible sentence holds the private fact {fact.fact_id} ({fact.spoken})"
        if any(contains(goal, fact.value) for goal in workflow):
            yield f"the workflow holds the private fact {fact.fact_id} ({fact.spoken})"
    for what, text in (("visible sentence", instruction), ("background", background)):
        if name := names_tool(text, tool_names):
            yield f"the {what} names the tool {name}"
    told = [goal for goal in workflow if _tells(instruction, goal)]
    for goal in workflow:
        if _recites(instruction, goal):
            yield f"the visible sentence gives the sub-goal {goal!r} word for word"
    if len(told) > MAX_TOLD:
        yield (
            f"the visible sentence tells {len(told)} sub-goals of the workflow; "
            "say only what is wanted"
        )
    recited = [goal for goal in workflow if _recites(background, goal)]
    if len(recited) > 1:
        yield f"the background recites the workflow ({recited[0]!r}); give circumstances only"


def check(
    instruction: str,
    background: str,
    *,
    facts: Sequence[Fact],
    tool_names: Sequence[str],
    workflow: Sequence[str],
) -> None:
    """Raises Broken with everything that is given away."""
    found = list(
        leaks(instruction, background, facts=facts, tool_names=tool_names, workflow=workflow)
    )
    if found:
        raise Broken(Step.LEAK_CHECK, "; ".join(found[:4]))


def _recites(text: str, goal: str) -> bool:
    """Whether a run of a goal's words stands in the text; of a short goal, all of them."""
    goal_words = _words(goal)
    heard = f" {' '.join(_words(text))} "
    length = min(RUN, len(goal_words))
    for start in range(len(goal_words) - length + 1):
        run = goal_words[start : start + length]
        if len(_content(run)) >= 3 and f" {' '.join(run)} " in heard:
            return True
    return False


def _tells(text: str, goal: str) -> bool:
    """Whether most content words of a goal stand in the text, whatever their order and form."""
    wanted = _content(_words(goal))
    return len(wanted) >= 2 and len(wanted & _content(_words(text))) >= COVERED * len(wanted)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _content(spoken: Sequence[str]) -> set[str]:
    return {stem(word) for word in spoken if word not in _LIGHT}
