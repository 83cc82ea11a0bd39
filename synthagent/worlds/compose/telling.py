"""What people say in a task: the lexicon of its world, the request, the facts, the persona.

Owns every sentence that a user reads or speaks. All draw from the data files; nothing here holds
words of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from synthagent.worlds.compose.blueprint import Blueprint, Unfit
from synthagent.worlds.compose.language import Concept, FactRecipe
from synthagent.worlds.compose.people import draw_name
from synthagent.worlds.compose.seeding import Seeds
from synthagent.worlds.compose.vocabulary import Pool
from synthagent.worlds.compose.wording import capitalised, render, words_of
from synthagent.worlds.spec import Fact, Persona
from synthagent.worlds.values import Scalar

_STOP = frozenset({"of", "the", "a", "an", "to", "for", "and", "in", "on", "new"})
_TEXTS_OF_A_FACT = 3


def lexicon(rng: Random, blueprint: Blueprint) -> dict[str, str]:
    """Nouns, verbs and names of a world: what templates may say in braces."""
    words = {verb: rng.choice(options) for verb, options in blueprint.shared.verbs.items()}
    nouns = {
        "item": blueprint.dress.item,
        "record": blueprint.dress.record,
        "client": blueprint.domain.client,
        **{key: pool.noun for key, pool in blueprint.pools.items()},
        **{key: measure.noun for key, measure in blueprint.measures.items()},
    }
    for key, options in nouns.items():
        noun = options[0] if rng.random() < 0.6 else rng.choice(options)
        words[key], words[f"{key}s"] = noun
    for key, measure in blueprint.measures.items():
        words[f"{key}.unit"] = measure.unit
    for key, table in blueprint.tables.items():
        words[f"table.{key}"] = table.noun or key
        words.setdefault(table.noun or key, (table.noun or key).replace("_", " "))
    words["org"] = rng.choice(blueprint.domain.organisations)
    words["role"] = rng.choice(blueprint.domain.roles)
    words["full_name"] = draw_name(rng, set())
    words["first"] = words["full_name"].split()[0]
    return words


class Teller:
    """Renders templates that speak of the scenario's variables."""

    def __init__(self, blueprint: Blueprint, words: Mapping[str, str], seeds: Seeds) -> None:
        self.blueprint = blueprint
        self.words = words
        self._seeds = seeds

    def text(self, template: str) -> str:
        """The template with words and variables; `{value}` stays."""
        return render(template, self.words, self._hole)

    def answer(self, template: str) -> str:
        """The template with words and variables; references to facts and results stay."""
        return render(template, self.words, lambda hole: self._hole(hole) or "{" + hole + "}")

    def _hole(self, hole: str) -> str | None:
        if not hole.startswith("$"):
            return None
        parts = hole[1:].split(".")
        form = parts.pop() if parts[-1] in {"say", "phrase", "phrases"} else ""
        value = str(self._seeds.lookup("$" + ".".join(parts)))
        if not form:
            return value
        pool = self._pool(parts)
        phrase = pool.phrase or ("{value}", "{value}")
        pattern = {"say": pool.say, "phrase": phrase[0], "phrases": phrase[1]}[form]
        return pattern.replace("{value}", value)

    def _pool(self, parts: list[str]) -> Pool:
        blueprint = self.blueprint
        if len(parts) == 1:
            recipe = blueprint.let[parts[0]]
        else:
            row = next(row for row in blueprint.rows if row.name == parts[0])
            recipe = blueprint.tables[row.table].columns[parts[1]]
        return blueprint.pools[recipe.split(":")[1]]


def tell_persona(rng: Random, blueprint: Blueprint, teller: Teller) -> Persona:
    """The asker."""
    words = teller.words
    return Persona(
        name=words["full_name"],
        role=words["role"],
        description=rng.choice(blueprint.domain.colours).replace("{name}", words["first"]),
        voice=rng.choice(blueprint.shared.voices),
    )


def tell_instruction(rng: Random, blueprint: Blueprint, teller: Teller) -> str:
    """The request, with an opening and a motive where the level has room for them."""
    shared = blueprint.shared
    ask, _, rest = teller.text(rng.choice(blueprint.scenario.asks)).partition("; ")
    sentence = capitalised(rng.choice(shared.wrappers).replace("{ask}", ask))
    if rest:
        sentence += f" {capitalised(rest)}."
    also = [teller.text(rng.choice(module.ask)) for module in blueprint.modules if module.ask]
    if also:
        sentence += f" {rng.choice(shared.also).replace('{ask}', _listed(also))}"
    if not blueprint.level.prose:
        return sentence
    parts = [sentence]
    if rng.random() < 0.55:
        parts.insert(0, teller.text(rng.choice(shared.openings)))
    if rng.random() < 0.6:
        parts.insert(rng.choice([len(parts) - 1, len(parts)]), rng.choice(blueprint.domain.motives))
    return " ".join(parts)


def _listed(texts: list[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if texts[1:] else texts)


def tell_fact(rng: Random, teller: Teller, recipe: FactRecipe, value: Scalar) -> Fact:
    """The fact; its texts are the scenario's, else the concept's, the pool's, the shared ones."""
    blueprint = teller.blueprint
    concept = blueprint.concepts[recipe.concept]
    pool = blueprint.pools.get(concept.pool)
    measure = blueprint.measures.get(concept.measure)
    if not isinstance(value, str | int):
        raise Unfit(f"fact {recipe.id} cannot be {value!r}")
    key = concept.pool or concept.measure
    noun = teller.words[key] if key else teller.text(concept.label or recipe.label)
    questions, replies = _texts(blueprint, recipe, concept)
    says = _Sayings(teller, noun, pool.say if pool else "{value}", measure.unit if measure else "")
    return Fact(
        fact_id=recipe.id,
        label=teller.text(recipe.label or concept.label or noun),
        value=value,
        ask_terms=_ask_terms(recipe, concept, pool, noun, teller),
        replies=tuple(says(one) for one in _some(rng, replies)),
        questions=tuple(says(one) for one in _some(rng, questions)),
    )


def _texts(
    blueprint: Blueprint, recipe: FactRecipe, concept: Concept
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The questions for a fact and the replies to them, from the first that has any."""
    shared = blueprint.shared
    sources: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
        (recipe.questions, recipe.replies),
        (concept.questions, concept.replies),
    ]
    if concept.pool:
        pool = blueprint.pools[concept.pool]
        sources += [(pool.questions, pool.replies), (shared.questions, shared.replies)]
    sources.append((shared.measure_questions, shared.measure_replies))
    return (
        next(questions for questions, _ in sources if questions),
        next(replies for _, replies in sources if replies),
    )


@dataclass(frozen=True)
class _Sayings:
    """Makes a sentence about a fact of its template."""

    teller: Teller
    noun: str
    say: str
    unit: str

    def __call__(self, template: str) -> str:
        text = template.replace("{say}", self.say).replace("{unit}", self.unit)
        text = text.replace("{noun}", self.noun).replace("{Noun}", capitalised(self.noun))
        text = self.teller.text(text)
        return text if text.startswith("{") else capitalised(text)


def _some(rng: Random, texts: tuple[str, ...]) -> list[str]:
    return rng.sample(texts, min(len(texts), _TEXTS_OF_A_FACT))


def _ask_terms(
    recipe: FactRecipe, concept: Concept, pool: Pool | None, noun: str, teller: Teller
) -> tuple[str, ...]:
    given = recipe.ask or concept.ask or (pool.ask if pool else ())
    if given:
        return tuple(dict.fromkeys(teller.text(one) for one in given))
    terms = [noun, *(word for word in words_of(noun) if word not in _STOP)]
    return tuple(dict.fromkeys(terms))
