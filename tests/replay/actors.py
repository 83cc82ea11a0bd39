"""What the replay server says in each role. A role is told by the name of the asked-for schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.replay import reading
from tests.replay.products import Condition, FactText, Persona, ReplayProduct, Turn
from tests.replay.reading import Happened
from tests.replay.recognition import Recognition, UnknownRequestError


@dataclass(frozen=True)
class Asked:
    """A request, as far as a role reads it."""

    messages: Sequence[Mapping[str, str]]
    schema: str
    seed: int

    def said(self, role: str) -> list[str]:
        """The texts of one role, in order."""
        return [message["content"] for message in self.messages if message["role"] == role]

    @property
    def prompt(self) -> str:
        """What stood before the model's first answer."""
        roles = [message["role"] for message in self.messages]
        end = roles.index("assistant") if "assistant" in roles else len(roles)
        return "\n".join(message["content"] for message in self.messages[:end])


class Actors:
    """Answers requests. Remembers which persona got which product, and which seed which attempt."""

    def __init__(self, products: Mapping[str, ReplayProduct]) -> None:
        self._recognition = Recognition(products)
        self._attempts: dict[str, dict[int, int]] = {}
        self._roles: Mapping[str, Callable[[Asked, ReplayProduct], object]] = {
            "": self._act,
            "tool_answer": _answer_call,
            "semantic_match": _compare_calls,
            "Spoken": _speak,
            "Vote": _vote,
            "UserAudit": _audit,
        }

    def answer(self, asked: Asked) -> str:
        """The text of the answer. Raises UnknownRequestError."""
        product = self._product(asked)
        said = self._roles.get(asked.schema, _teach)(asked, product)
        return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)

    def _product(self, asked: Asked) -> ReplayProduct:
        if asked.schema not in _GENERAL:
            return self._recognition.product(asked.prompt, asked.schema)
        try:
            return self._recognition.product(asked.prompt, asked.schema, least=2)
        except UnknownRequestError:
            return _NOTHING

    def _act(self, asked: Asked, product: ReplayProduct) -> str:
        """The agent's next turn, of an attempt that begins with the turns so far."""
        made = [_unclosed(text) for text in asked.said("assistant")]
        attempts = [[_written(turn, product) for turn in a.turns] for a in product.attempts]
        if not attempts:
            raise UnknownRequestError(f"product {product.name} has no attempts")
        if not made:
            given = self._attempts.setdefault(product.name, {})
            return attempts[given.setdefault(asked.seed, len(given) % len(attempts))][0]
        for turns in attempts:
            if len(turns) > len(made) and [*map(_unclosed, turns[: len(made)])] == made:
                return turns[len(made)]
        raise UnknownRequestError(f"no attempt of {product.name} begins with {made}")


_GENERAL = ("Spoken", "Vote", "UserAudit")
"""What can be answered for any task, from the prompt alone."""

_NOTHING = ReplayProduct(
    name="", persona=Persona(name="", role="", description=""), steps={"FuzzyTask": {"facts": []}}
)


def _unclosed(text: str) -> str:
    """A turn without its closing tag, at which the server was asked to stop."""
    return re.sub(r"\s*</(?:tool_call|answer)>\s*\Z", "", text).strip()


def _written(turn: Turn, product: ReplayProduct) -> str:
    """What the agent writes for a turn of a script."""
    if turn.call:
        call = json.dumps({"name": turn.call, "arguments": turn.arguments})
        return f"<tool_call>{call}</tool_call>"
    if turn.answer:
        return f"<answer>{turn.answer}</answer>"
    questions = {fact.name: fact.question for fact in product.facts}
    return questions.get(turn.ask) or turn.ask


def _teach(asked: Asked, product: ReplayProduct) -> object:
    if asked.schema not in product.steps:
        raise UnknownRequestError(f"product {product.name} has no step {asked.schema!r}")
    return product.step(asked.schema, len(asked.said("assistant")))


def _answer_call(asked: Asked, product: ReplayProduct) -> object:
    tool, arguments = reading.call(asked.said("user")[0])
    for answer in product.tools.get(tool, ()):
        wanted = reading.bare(answer.when)
        if all(reading.bare(arguments.get(name)) == value for name, value in wanted.items()):
            return _filled(answer.returns, arguments)
    raise UnknownRequestError(f"product {product.name} has no answer of {tool} for {arguments}")


def _filled(value: Any, arguments: Mapping[str, Any]) -> Any:
    """The value with arguments in the place of their names in braces."""
    if isinstance(value, dict):
        return {key: _filled(part, arguments) for key, part in value.items()}
    if isinstance(value, list):
        return [_filled(part, arguments) for part in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"\{(\w+)\}", lambda match: str(arguments.get(match[1], match[0])), value)


def _compare_calls(asked: Asked, _: ReplayProduct) -> object:
    new, earlier = reading.calls_to_compare(asked.said("user")[0])
    for number, arguments in earlier.items():
        if reading.bare(arguments) == reading.bare(new):
            return {"reason": "They differ in case and punctuation only.", "entry": number}
    return {"reason": "No earlier call has the same values.", "entry": 0}


def _speak(asked: Asked, product: ReplayProduct) -> object:
    """The user's reply: the fact that the message asks for, in the words of the product."""
    message = reading.message(asked.said("user")[0])
    for rule in product.background_answers:
        if all(word.casefold() in message.casefold() for word in rule.asked):
            return _spoken("background", [], rule.text, rule.quote)
    facts = product.facts or [
        FactText(name=fact["id"], label=fact["what it is"], value=fact["value"])
        for fact in reading.facts(asked.said("system")[0])
    ]
    scores = [(reading.overlap(message, f"{fact.label} {fact.question}"), fact) for fact in facts]
    score, fact = max(scores, key=lambda pair: pair[0], default=(0, None))
    if fact is not None and score:
        return _spoken("fact", [fact.name], fact.said())
    if "?" in message:
        return _spoken("unknown", [], "I'm afraid I don't know that.")
    return _spoken("question", [], "What do you need to know from me?")


def _spoken(kind: str, facts: list[str], text: str, quote: str = "") -> object:
    return {"kind": kind, "facts": facts, "quote": quote, "text": text}


def _audit(_: Asked, __: ReplayProduct) -> object:
    rationale = "Each reply answers what was asked, from the user's facts and background."
    return {"rationale": rationale, "findings": [], "faithful": True}


def _vote(asked: Asked, product: ReplayProduct) -> object:
    prompt = asked.said("user")[0]
    events = reading.record(prompt)
    words, is_rule = reading.criterion(prompt)
    rule = next((r for r in product.votes if r.about.casefold() in words.casefold()), None)
    if rule is not None:
        yes, evidence = _hold(rule.yes_when, events)
        why = rule.rationale
    elif is_rule:
        broken, evidence = _hold(product.violation, events)
        yes = not (product.violation and broken)
        why = "Whether the rule was kept shows in these events."
    else:
        evidence = [event.number for event in events if event.what == "final_answer"]
        yes = bool(evidence)
        why = "The agent went through the whole task and told the user the result."
    return {
        "evidence": (evidence or [events[-1].number])[:32],
        "rationale": why,
        "answer": "YES" if yes else "NO",
    }


def _hold(conditions: Sequence[Condition], events: Sequence[Happened]) -> tuple[bool, list[int]]:
    """Whether all conditions hold, and the events that show it, or that one does not."""
    evidence: list[int] = []
    for condition in conditions:
        shown = [event.number for event in events if _shows(condition, event)]
        if bool(shown) == bool(condition.not_called):
            return False, shown
        evidence += shown
    return True, sorted(set(evidence))


def _shows(condition: Condition, event: Happened) -> bool:
    """Whether the event is the one that the condition is about."""
    tool = condition.called or condition.not_called
    if tool:
        parts = condition.arguments.values()
        return event.what == "tool_call" and event.tool == tool and all(map(event.holds, parts))
    if condition.told:
        return event.by == "user" and event.holds(condition.told)
    if condition.answered:
        return event.what == "final_answer" and event.holds(condition.answered)
    return event.what == "message_to_user" and event.holds(condition.said)
