"""Private facts: from what the model wrote to what the user simulator needs.

Ask terms, questions and replies are derived from the label, so that every fact can be asked for and
given whatever the model wrote. A question or reply of the model joins them where it is fit: one
sentence that neither states the value (the reply: only in its place) nor names a tool.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from services.task_synthesis.teacher.bounds import identifier, words
from services.task_synthesis.teacher.leak_check import names_tool
from services.task_synthesis.teacher.products import FactDesign
from services.task_synthesis.teacher.repair import Broken
from services.task_synthesis.teacher.route import Step
from synthagent.worlds.matching import contains
from synthagent.worlds.spec import Fact
from synthagent.worlds.values import normalise

MAX_VALUE = 120
"""Characters of a fact's value: one sentence must be able to hold it."""

_STOP = frozenset(
    (
        *("a", "an", "and", "at", "by", "for", "from", "her", "his", "in", "its", "my", "new"),
        *("of", "on", "or", "our", "that", "the", "their", "this", "to", "with", "your"),
        *("chosen", "desired", "exact", "needed", "preferred", "specific", "wanted"),
    )
)
_LEADING = re.compile(r"^(?:the|a|an|my|your|our|his|her|their|user's)\s+", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s+\S)")


def as_facts(
    designs: Iterable[FactDesign], tool_names: Sequence[str]
) -> tuple[tuple[Fact, ...], dict[str, str]]:
    """The facts, and the identifier of each by the name that the model gave it. Raises Broken."""
    taken: set[str] = set()
    by_name: dict[str, str] = {}
    facts: list[Fact] = []
    for design in designs:
        if design.name in by_name:
            raise Broken(Step.FUZZY_TASK, f"two facts have the name {design.name!r}")
        fact_id = identifier(design.name, taken, "fact")
        by_name[design.name] = fact_id
        facts.append(_as_fact(fact_id, design, tool_names))
    _check_values(facts)
    return tuple(facts), by_name


def _as_fact(fact_id: str, design: FactDesign, tool_names: Sequence[str]) -> Fact:
    value = design.value
    if isinstance(value, str):
        value = " ".join(value.split())
    if value is None or isinstance(value, bool) or value == "":
        raise Broken(
            Step.FUZZY_TASK,
            f"the fact {design.name!r} is {value!r}; a fact is a text or a number that nobody "
            "guesses, so make it one of several choices",
        )
    if isinstance(value, str) and len(value) > MAX_VALUE:
        raise Broken(
            Step.FUZZY_TASK,
            f"the value of the fact {design.name!r} has {len(value)} characters; at most "
            f"{MAX_VALUE} are allowed, so split it or put the rest into the background",
        )
    label = _LEADING.sub("", design.label).rstrip(".?!: ")
    if not label or contains(label, value):
        label = words(fact_id)
    if contains(label, value):
        raise Broken(
            Step.FUZZY_TASK, f"the label of the fact {design.name!r} holds its value; leave it out"
        )
    label = label.replace("{", "(").replace("}", ")")
    question, reply = design.question, _with_slot(design.reply, value)
    is_or_are = "are" if _is_plural(label) else "is"
    questions = [f"What {is_or_are} the {label}?", f"Could you tell me the {label}?"]
    if _is_question(question) and not contains(question, value):
        questions.insert(0, question)
    replies = [f"The {label} {is_or_are} {{value}}.", "That would be {value}."]
    if reply and not names_tool(reply, tool_names):
        replies.insert(0, reply)
    return Fact(
        fact_id=fact_id,
        label=label,
        value=value,
        ask_terms=ask_terms(label, fact_id),
        replies=tuple(replies),
        questions=tuple(one for one in questions if not names_tool(one, tool_names))
        or (f"What is the {words(fact_id)}?",),
    )


def ask_terms(label: str, fact_id: str) -> tuple[str, ...]:
    """Phrases by which a question is recognised: label and name, whole and by content word."""
    spoken = words(label) or words(fact_id)
    single = [
        word
        for word in (*spoken.split(), *words(fact_id).split())
        if word not in _STOP and not word.isdigit()
    ]
    return tuple(dict.fromkeys((spoken, words(fact_id), *single)))


def _is_plural(label: str) -> bool:
    """Whether the head of a noun phrase looks plural: "dates of the stay", not "class"."""
    head = re.split(r"\s(?:of|for|in|on|at|from|to)\s", label)[0].casefold()
    return head.endswith("s") and not head.endswith(("ss", "us", "is", "'s"))


def _is_question(text: str) -> bool:
    return text.endswith("?") and len(text) > 5 and not _SENTENCE_END.search(text)


def _with_slot(reply: str, value: str | float) -> str:
    """The reply with exactly one slot, or nothing where it cannot have one."""
    spoken = str(value)
    if "{value}" not in reply and isinstance(value, str):
        reply = reply.replace(spoken, "{value}", 1)
    frame = reply.replace("{value}", " ")
    if reply.count("{value}") != 1 or "{" in frame or "}" in frame or contains(frame, value):
        return ""
    return "" if _SENTENCE_END.search(reply) else reply


def _check_values(facts: Sequence[Fact]) -> None:
    """No two facts have one value, so that a value tells which fact was given. Raises Broken."""
    seen: dict[str, str] = {}
    for fact in facts:
        other = seen.setdefault(normalise(fact.spoken), fact.fact_id)
        if other != fact.fact_id:
            raise Broken(
                Step.FUZZY_TASK,
                f"the facts {other} and {fact.fact_id} have the same value {fact.spoken!r}",
            )
