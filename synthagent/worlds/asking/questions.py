"""Which facts of a task a message asks for.

Owns the vocabulary of each fact (label, identifier, ask terms, questions) and the comparison of an
asking phrase with it. A phrase asks for a fact where the noun that it asks about belongs to the
fact and no foreign noun turns it into something else ("number of guests" is not "passport
number"). Where two facts fit, the better overlap wins. Pure and deterministic.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from rapidfuzz.distance import OSA

from synthagent.worlds.asking.language import (
    Form,
    Phrase,
    Sentence,
    lexicon,
    read_sentences,
    read_words,
    stem,
)
from synthagent.worlds.spec import Fact, Task

_DETERMINERS = lexicon().words["determiner"]
_ASK_FOR_NOUN = frozenset((("what",), ("which",), ("whose",), ("how", "many"), ("how", "much")))
_BOUNDARIES = frozenset().union(
    *(lexicon().words[name] for name in ("function", "auxiliary", "wh"))
)
_HOLDERS = frozenset(map(stem, ("have", "want", "need", "prefer", "like", "wish", "know", "use")))


@dataclass(frozen=True, slots=True)
class Wanted:
    """One thing that a message asks for; `fact_id` is None where the user does not hold it."""

    fact_id: str | None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words of one fact, as stems."""

    fact_id: str
    own: frozenset[str]
    near: frozenset[str]
    loose: frozenset[str]
    asked_by: frozenset[tuple[str, ...]]
    """Words that ask for it by its own terms or questions."""
    answers: frozenset[tuple[str, ...]]
    """Words that ask for a thing of its kind; holds `asked_by`."""
    phrases: tuple[tuple[str, ...], ...]
    questions: frozenset[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Noun:
    """A noun phrase: its own words, the words after "of", and whether an article opens it."""

    words: tuple[str, ...]
    complement: tuple[str, ...]
    subject: bool
    definite: bool


class Matcher:
    """Finds what messages to the user of one task ask for. Immutable after construction."""

    def __init__(self, task: Task) -> None:
        self._facts = tuple(_vocabulary(fact) for fact in task.facts)
        self.vocabularies = {fact.fact_id: fact for fact in self._facts}
        self._own = frozenset[str]().union(*(fact.own for fact in self._facts))
        self.context = _context(task) | lexicon().stems["matter"]
        self._familiar = lexicon().familiar | self._own | self.context
        names = (
            re.escape(tool.name)
            for tool in task.world.tools
            if not tool.name.islower() or not tool.name.isalpha()
        )
        self._tools = re.compile("|".join(sorted(names, key=len, reverse=True)) or r"(?!)")

    def wanted(self, text: str, revealed: Collection[str] = ()) -> tuple[Wanted, ...]:
        """What the text asks for, in text order; of equally good facts an unrevealed one first.

        The name of a tool (`find_member`) asks for nothing, whatever words it is made of.
        """
        sentences = self.read(text)
        whole = tuple(word for sentence in sentences for word in sentence.words)
        if (exact := self._quoted(whole, revealed)) is not None:
            return (Wanted(exact),)
        found: list[Wanted] = []
        for sentence in sentences:
            exact = self._quoted(sentence.words, revealed)
            if exact is not None:
                found.append(Wanted(exact))
                continue
            for phrase in sentence.phrases:
                wanted = self.resolve(phrase, revealed)
                if wanted is not None:
                    found.append(wanted)
        return tuple(dict.fromkeys(found))

    def _quoted(self, words: tuple[str, ...], revealed: Collection[str]) -> str | None:
        """The fact of which the words are one of the listed questions."""
        fitting = [fact.fact_id for fact in self._facts if words in fact.questions]
        return next((fact for fact in fitting if fact not in revealed), next(iter(fitting), None))

    def read(self, text: str) -> tuple[Sentence, ...]:
        """The sentences of a text without names of tools."""
        return read_sentences(self._tools.sub(" ", text))

    def resolve(self, phrase: Phrase, revealed: Collection[str] = ()) -> Wanted | None:
        """What one phrase asks for; None where it asks for nothing in particular."""
        words = self._corrected(phrase.words)
        asked_by, rest = interrogative(words)
        nouns = self._nouns(rest)
        focus = _focus(asked_by, nouns)
        stems = {stem(word) for word in words}
        fitting = []
        for fact in self._facts:
            if phrase.certain:
                fits = self._fits(fact, asked_by, focus, nouns, stems)
            else:
                fits = self._covers(fact, words)
            if fits:
                score = self._score(fact, asked_by, words)
                fitting.append((score, fact.fact_id not in revealed, fact.fact_id))
        if fitting:
            # max keeps the first of equals, so the order of the facts breaks the last tie
            return Wanted(max(fitting, key=lambda each: each[:2])[2])
        if phrase.certain and self._asks_something(phrase, words, asked_by, nouns):
            return Wanted(None)
        return None

    def _corrected(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """The words, each unfamiliar one replaced by a fact's word that it misspells."""
        return tuple(
            word if stem(word) in self._familiar else self._nearest(word) for word in words
        )

    def _nearest(self, word: str) -> str:
        """The fact's stem that the word is a misspelling of, or the word itself."""
        if len(word) < 3 or not word.isalpha():
            return word
        for known in sorted(self._own):
            if len(known) >= 3 and _misspells(word, known):
                return known
        return word

    def _nouns(self, words: tuple[str, ...]) -> tuple[_Noun, ...]:
        """The noun phrases in order."""
        verbs, modifiers = lexicon().stems["verb"], lexicon().words["modifier"]
        nouns: list[_Noun] = []
        current: list[str] = []
        complement: list[str] | None = None
        definite = False
        previous = ""

        def close(following: str) -> None:
            nonlocal complement, definite
            subject = stem(following) in _HOLDERS
            if current:
                nouns.append(_Noun(tuple(current), tuple(complement or ()), subject, definite))
            current.clear()
            complement, definite = None, False

        for word in words:
            root = stem(word)
            nominal = previous in _DETERMINERS or previous in modifiers
            if word == "of" and current:
                complement = [] if complement is None else complement
            elif word in _DETERMINERS and complement is not None and not complement:
                pass
            elif word in _BOUNDARIES:
                close(word)
                definite = word in _DETERMINERS
            elif word in modifiers and root not in self._own:
                pass
            elif root in verbs and not (
                nominal or (root in self._own and root not in _HOLDERS and not current)
            ):
                close(word)
            else:
                (current if complement is None else complement).append(root)
            previous = word
        close("")
        return tuple(nouns)

    def _fits(
        self,
        fact: Vocabulary,
        asked_by: tuple[str, ...] | None,
        focus: tuple[_Noun, ...],
        nouns: tuple[_Noun, ...],
        stems: set[str],
    ) -> bool:
        """Whether a phrase with a cue can ask for the fact."""
        answers = asked_by in fact.answers
        kind = lexicon().asking.get(asked_by, frozenset()) if asked_by and answers else frozenset()
        for noun in focus:
            if self._names(fact, noun) or (noun.words[-1] in kind and not noun.complement):
                return True
            if not self._incidental(noun):
                return False
        if asked_by == ("how",):
            named = bool(stems & fact.own)
            return named and not any(noun.definite and self._foreign(fact, noun) for noun in nouns)
        if answers and asked_by not in {("what",), ("which",)}:
            if asked_by in {("how", "many"), ("how", "much")} and focus:
                return False
            return not any(noun.definite and self._foreign(fact, noun) for noun in nouns)
        return not focus and not nouns and bool(stems & fact.own - lexicon().stems["function"])

    def _names(self, fact: Vocabulary, noun: _Noun) -> bool:
        """Whether the noun phrase names the fact: its head does, and no foreign word is in it."""
        vague = lexicon().stems["transparent"]
        words = noun.words
        if words[-1] in vague and words[-1] not in fact.own:
            words = tuple(w for w in (*words[:-1], *noun.complement) if w not in vague)
            complement: tuple[str, ...] = ()
        else:
            complement = noun.complement
        while len(words) > 1 and words[-1] not in self._familiar:
            words = words[:-1]  # a name or value behind the noun: "the member Ann"
        if not words or words[-1] not in fact.own | fact.near:
            return False
        around = (*words[:-1], *complement)
        if words[-1] not in fact.own and not any(word in fact.own for word in around):
            # a synonym alone is enough only where no other fact has the word itself
            return words[-1] not in self._own and not self._strange(fact, around)
        return not self._strange(fact, around)

    def _strange(self, fact: Vocabulary, words: Iterable[str]) -> bool:
        """Whether a word belongs neither to the fact nor to the matter in hand."""
        known = fact.own | fact.near | fact.loose | self.context
        return any(word not in known for word in words)

    def _foreign(self, fact: Vocabulary, noun: _Noun) -> bool:
        return self._strange(fact, (noun.words[-1],))

    def _incidental(self, noun: _Noun) -> bool:
        """Whether the noun phrase only speaks of the matter in hand and nothing of it is asked."""
        matter = lexicon().stems["matter"] | lexicon().stems["transparent"]
        return all(word in matter for word in (*noun.words, *noun.complement))

    def _covers(self, fact: Vocabulary, words: tuple[str, ...]) -> bool:
        """Whether words without any cue are nothing but the fact's name ("arrival day, please")."""
        light = lexicon().words["function"] - _SUBJECT_WORDS
        content = [w for w in words if w not in light | lexicon().words["modifier"]]
        roots = [stem(word) for word in content]
        return (
            0 < len(roots) <= 6
            and words[0] not in {"thank", "thanks", "sorry"}
            and all(root in fact.own for root in roots)
            and not set(content) <= lexicon().words["requesting"] - {"name", "type"}
        )

    def _score(
        self, fact: Vocabulary, asked_by: tuple[str, ...] | None, words: tuple[str, ...]
    ) -> float:
        """How well the words overlap with the fact: most by its own words, least by loose ones."""
        roots = tuple(stem(word) for word in words)
        light = lexicon().stems["function"]
        score = 0.0
        for root in dict.fromkeys(roots):
            if root in light:
                continue
            if root in fact.own:
                score += 1.0
            elif root in fact.near:
                score += 0.6
            elif root in fact.loose:
                score += 0.2
        if asked_by in fact.answers:
            score += 0.9 if asked_by in fact.asked_by else 0.5
        for phrase in fact.phrases:
            if any(roots[i : i + len(phrase)] == phrase for i in range(len(roots))):
                score += 0.5
        # ties between long and short names go to the name that is covered more fully
        named = fact.own - light
        return score + 0.1 * len(named & set(roots)) / max(1, len(named))

    def _asks_something(
        self,
        phrase: Phrase,
        words: tuple[str, ...],
        asked_by: tuple[str, ...] | None,
        nouns: tuple[_Noun, ...],
    ) -> bool:
        """Whether the phrase asks for something in particular, held or not."""
        topics = {word for noun in nouns for word in (*noun.words, *noun.complement)}
        topics -= lexicon().stems["transparent"] | lexicon().stems["matter"]
        if not topics:
            return asked_by is not None and asked_by in lexicon().asking and bool(nouns)
        if phrase.form is Form.CLOSED and topics <= self.context:
            return any(word in lexicon().words["knowing"] for word in words)
        return asked_by is not None or any(
            stem(word) in lexicon().familiar for word in phrase.words
        )


_MATCHERS_KEPT = 1024
_matchers: OrderedDict[int, tuple[Task, Matcher]] = OrderedDict()


def matcher_of(task: Task) -> Matcher:
    """The matcher of a task, kept while the task is among the recent ones.

    The task is kept beside it so that its id() stays its own.
    """
    kept = _matchers.pop(id(task), None) or (task, Matcher(task))
    _matchers[id(task)] = kept
    while len(_matchers) > _MATCHERS_KEPT:
        _matchers.popitem(last=False)
    return kept[1]


_SUBJECT_WORDS = frozenset(("i", "you", "he", "she", "we", "they", "it", "not"))


def _vocabulary(fact: Fact) -> Vocabulary:
    """The words of a fact."""
    known = lexicon()
    light = known.stems["function"] | known.stems["auxiliary"] | known.stems["wh"]
    names = [read_words(text) for text in (fact.label, fact.fact_id, *fact.ask_terms)]
    questions = [read_words(question) for question in fact.questions]
    own = {stem(word) for words in names for word in words} - light
    loose = {stem(word) for words in questions for word in words} - light - own
    near = frozenset[str]().union(*(group for group in known.synonyms if group & own)) - own
    asked_by = {phrase for words in (*names, *questions) if (phrase := interrogative(words)[0])}
    answers = asked_by | {phrase for phrase, words in known.asking.items() if words & own}
    if ("who",) in answers:
        answers.add(("whose",))
    phrases = {tuple(map(stem, words)) for words in names if len(words) > 1}
    return Vocabulary(
        fact.fact_id,
        frozenset(own),
        near,
        frozenset(loose),
        frozenset(asked_by),
        frozenset(answers),
        tuple(sorted(phrases)),
        frozenset(questions),
    )


def _context(task: Task) -> frozenset[str]:
    """Stems of what the agent was told and of the tools that it sees."""
    texts = [task.instruction, task.restriction.text, task.domain]
    for tool in task.world.tools:
        texts += [tool.name, tool.description]
    light = lexicon().stems["function"]
    return frozenset(stem(word) for text in texts for word in read_words(text)) - light


def interrogative(words: tuple[str, ...]) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The word or words that ask ("when", "how many") and what follows them."""
    for index, word in enumerate(words):
        if word not in lexicon().words["wh"]:
            continue
        pair = words[index : index + 2]
        if pair in lexicon().asking or pair in {("how", "many"), ("how", "much")}:
            return pair, words[index + 2 :]
        asks = {"whom": "who", "whose": "whose"}.get(word, word)
        return (asks,), words[index + 1 :]
    return None, words


def _focus(asked_by: tuple[str, ...] | None, nouns: tuple[_Noun, ...]) -> tuple[_Noun, ...]:
    """The noun phrases that may be what is asked for; none where the wh-word alone asks."""
    if asked_by is not None and asked_by not in _ASK_FOR_NOUN:
        return ()
    return tuple(noun for noun in nouns if not noun.subject)


def _misspells(word: str, known: str) -> bool:
    """Whether a word is a slip of the finger away from a stem or its plural."""
    if len(known) <= 4 or len(word) <= 4:
        return sorted(word) == sorted(known) and OSA.distance(word, known) == 1
    allowed = 2 if len(known) >= 8 else 1
    return OSA.distance(stem(word), known, score_cutoff=allowed) <= allowed or (
        OSA.distance(word, known, score_cutoff=allowed) <= allowed
    )
