"""What people say in a task: the lexicon of its world, the request, the facts, the persona.

Owns every sentence that a user reads or speaks. All draw from the data files; nothing here holds
words of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from synthagent.worlds.compose.blueprint import Blueprint
from synthagent.worlds.compose.language import Concept, FactRecipe, Level, Pool, Words
from synthagent.worlds.compose.people import draw_name
from synthagent.worlds.compose.seeding import Seeds
from synthagent.worlds.compose.wording import capitalised, render, words_of
from synthagent.worlds.spec import Fact, Persona

_STOP = frozenset({"of", "the", "a", "an", "to", "for", "and", "in", "on", "new"})
_TEXTS_OF_A_FACT = 3


def lexicon(rng: Random, blueprint: Blueprint, shared: Words) -> dict[str, str]:
    """Nouns, verbs and names of a world: what templates may say in braces."""
    words = {verb: rng.choice(options) for verb, options in shared.verbs.items()}
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
    return words


class Teller:
    """Renders templates that speak of the scenario's variables."""

    def __init__(self, blueprint: Blueprint, words: Mapping[str, str], seeds: Seeds) -> None:
        self._blueprint = blueprint
        self._seeds = seeds
        self.words = words

    def text(self, template: str) -> str:
        """The template with words and variables; `{value}` stays."""
        return render(template, self.words, self._hole)

    def answer(self, template: str) -> str:
        """The template with words and variables; references to facts and results stay."""
        return render(
            template, self.words, lambda hole: self._hole(hole) or "{" + hole + "}"
        )

    def _hole(self, hole: str) -> str | None:
        if not hole.startswith("$"):
            return None
        parts = hole[1:].split(".")
        form = parts.pop() if parts[-1] in {"say", "phrase", "phrases"} else ""
        value = str(self._seeds.lookup("$" + ".".join(parts)))
        if not form:
            return value
        pool = self._pool(parts)
        pattern = pool.say if form == "say" else (pool.phrase or ("{value}", "{value}"))[form[-1] == "s"]
        return pattern.replace("{value}", value)

    def _pool(self, parts: list[str]) -> Pool:
        blueprint = self._blueprint
        if len(parts) == 1:
            recipe = blueprint.let[parts[0]]
        else:
            row = next(row for row in blueprint.rows if row.name == parts[0])
            recipe = blueprint.tables[row.table].columns[parts[1]]
        return blueprint.pools[recipe.split(":")[1]]


def persona(rng: Random, blueprint: Blueprint, words: dict[str, str], shared: Words) -> Persona:
    """The asker; also puts the first name into the words."""
    name = draw_name(rng, set())
    words["first"] = name.split()[0]
    colour = rng.choice(blueprint.domain.colours).replace("{name}", words["first"])
    return Persona(
        name=name, role=words["role"], description=colour, voice=rng.choice(shared.voices)
    )


def instruction(
    rng: Random, blueprint: Blueprint, teller: Teller, level: Level, shared: Words
) -> str:
    """The request, with an opening and a motive where the level has room for them."""
    ask, _, rest = teller.text(rng.choice(blueprint.scenario.asks)).partition("; ")
    sentence = capitalised(rng.choice(shared.wrappers).replace("{ask}", ask))
    if rest:
        sentence += f" {capitalised(rest)}."
    also = [teller.text(rng.choice(module.ask)) for module in blueprint.modules if module.ask]
    if also:
        joined = " and ".join([", ".join(also[:-1]), also[-1]] if also[:-1] else also)
        sentence += f" {rng.choice(shared.also).replace('{ask}', joined)}"
    if not level.prose:
        return sentence
    parts = [sentence]
    if rng.random() < 0.55:
        parts.insert(0, teller.text(rng.choice(shared.openings)))
    if rng.random() < 0.6:
        parts.insert(rng.choice([len(parts) - 1, len(parts)]), rng.choice(blueprint.domain.motives))
    return " ".join(parts)


def fact(rng: Random, recipe: FactRecipe, blueprint: Blueprint, teller: Teller, shared: Words, value: str | int) -> Fact:
    """The fact with its texts: the scenario's own, else the concept's, the pool's, the shared ones."""
    concept = blueprint.concepts[recipe.concept]
    pool = blueprint.pools.get(concept.pool)
    measure = blueprint.measures.get(concept.measure)
    key = concept.pool or concept.measure
    noun = teller.words[key] if key else teller.text(concept.label or recipe.label)
    unit = measure.unit if measure else ""
    shared_questions = shared.measure_questions if measure else shared.questions
    shared_replies = shared.measure_replies if measure else shared.replies
    questions = recipe.questions or concept.questions or (pool.questions if pool else ()) or shared_questions
    replies = recipe.replies or concept.replies or (pool.replies if pool else ()) or shared_replies

    def told(template: str) -> str:
        text = template.replace("{say}", pool.say if pool else "{value}")
        text = text.replace("{noun}", noun).replace("{unit}", unit)
        text = text.replace("{Noun}", capitalised(noun))
        return capitalised(teller.text(text)) if not text.startswith("{value}") else teller.text(text)

    return Fact(
        fact_id=recipe.id,
        label=teller.text(recipe.label or concept.label or noun),
        value=value,
        ask_terms=_ask_terms(recipe, concept, pool, noun, teller),
        replies=tuple(told(one) for one in _some(rng, replies)),
        questions=tuple(told(one) for one in _some(rng, questions)),
    )


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
