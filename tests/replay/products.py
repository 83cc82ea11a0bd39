"""The form of a hand-written product: all that a model says in any role about one task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

FOLDER = Path(__file__).parent / "products"
JsonObject = dict[str, JsonValue]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Persona(_Part):
    """Who asks."""

    name: str
    role: str
    description: str
    voice: str = "plain"


class ToolAnswer(_Part):
    """What a tool returns for calls whose arguments hold `when`."""

    when: JsonObject = {}
    returns: JsonObject


class Turn(_Part):
    """One turn of a script: exactly one of ask, call and answer."""

    ask: str = ""
    call: str = ""
    arguments: JsonObject = {}
    answer: str = ""

    @model_validator(mode="after")
    def _check_one(self) -> Turn:
        if sum(map(bool, (self.ask, self.call, self.answer))) != 1:
            raise ValueError("a turn asks, calls or answers")
        return self


class Condition(_Part):
    """What one event of an episode must be, or what none may be (`not_called`)."""

    called: str = ""
    arguments: dict[str, str] = {}
    not_called: str = ""
    said: str = ""
    answered: str = ""
    told: str = ""


class VoteRule(_Part):
    """How a judged criterion is voted on: YES where all conditions hold."""

    about: str = Field(min_length=4)
    yes_when: tuple[Condition, ...] = Field(min_length=1)
    rationale: str


class BackgroundAnswer(_Part):
    """A question that the user's background answers."""

    asked: tuple[str, ...] = Field(min_length=1)
    quote: str
    text: str


class Attempt(_Part):
    """A script of the agent. It ends with an answer."""

    name: str
    turns: tuple[Turn, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_end(self) -> Attempt:
        if not self.turns[-1].answer:
            raise ValueError(f"attempt {self.name} does not end with an answer")
        return self


class FactText(BaseModel):
    """What the user says of a fact, as the fuzzy task has it."""

    name: str
    label: str
    value: JsonValue
    question: str = ""
    reply: str = ""

    def said(self) -> str:
        """The reply with the value in it."""
        return (self.reply or "It is {value}.").replace("{value}", str(self.value))


class ReplayProduct(_Part):
    """One product, of `products/NAME.yaml`."""

    name: str
    persona: Persona
    route: dict[str, str] = {}
    steps: dict[str, JsonObject | list[JsonObject]]
    tools: dict[str, tuple[ToolAnswer, ...]] = {}
    attempts: tuple[Attempt, ...] = ()
    violation: tuple[Condition, ...] = ()
    votes: tuple[VoteRule, ...] = ()
    background_answers: tuple[BackgroundAnswer, ...] = ()

    @property
    def is_sql(self) -> bool:
        """Whether its tools are programs."""
        return "SqlWorld" in self.steps

    def step(self, schema: str, sent_back: int = 0) -> JsonObject:
        """What the teacher writes for a schema, once it was sent back so many times."""
        tries = self.steps[schema]
        return tries if isinstance(tries, dict) else tries[min(sent_back, len(tries) - 1)]

    @property
    def told(self) -> JsonObject:
        """The step that holds instruction, facts and background, as it is in the end."""
        return self.step("SqlWorld" if self.is_sql else "FuzzyTask", sent_back=9)

    @property
    def instruction(self) -> str:
        """The visible sentence."""
        return str(self.told["instruction"])

    @property
    def facts(self) -> tuple[FactText, ...]:
        """The private facts."""
        facts = self.told["facts"]
        return tuple(map(FactText.model_validate, facts if isinstance(facts, list) else []))

    @property
    def tool_names(self) -> frozenset[str]:
        """Every tool that occurs in any try of a step."""
        tries = [self.steps.get(schema, []) for schema in ("ToolSet", "Distractors", "SqlWorld")]
        written = [
            part for tried in tries for part in (tried if isinstance(tried, list) else [tried])
        ]
        lists = [part["tools"] for part in written]
        tools = [tool for tools in lists if isinstance(tools, list) for tool in tools]
        return frozenset(str(tool["name"]) for tool in tools if isinstance(tool, dict))


def load(folder: Path = FOLDER) -> Mapping[str, ReplayProduct]:
    """Every product of a folder by its name. Raises ValueError where two cannot be told apart."""
    products: dict[str, ReplayProduct] = {}
    owners: dict[str, str] = {}
    for path in sorted(folder.glob("*.yaml")):
        content = yaml.safe_load(path.read_text("utf-8"))
        product = ReplayProduct.model_validate({"name": path.stem, **content})
        for mark in (*product.tool_names, product.instruction, product.persona.name):
            if owners.setdefault(mark, path.stem) != path.stem:
                raise ValueError(f"{path.stem} and {owners[mark]} share {mark!r}")
        products[path.stem] = product
    if not products:
        raise ValueError(f"there are no products in {folder}")
    return products
