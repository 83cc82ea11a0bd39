"""Whether any reading of a message asks for a fact: the question that an audit puts.

The embedded user answers by the best reading (`questions`); an audit may only object where no
reading is left. So a phrase counts as asking for a fact where it shares a word with it, where its
interrogative fits, or where it names something that none of the facts explains. Refusals ("do not
tell me the day"), greetings and reports ask for nothing.
"""

from __future__ import annotations

from synthagent.worlds.asking.language import Phrase, Sentence, lexicon, stem
from synthagent.worlds.asking.questions import Matcher, Vocabulary, interrogative

_VAGUE = frozenset((("what",), ("which",), ("how",), ("why",)))


def could_ask(matcher: Matcher, text: str, fact_id: str) -> bool:
    """Whether some reading of the text asks for the fact. Raises KeyError on an unknown fact."""
    fact = matcher.vocabularies[fact_id]
    return any(wanted.fact_id == fact_id for wanted in matcher.wanted(text)) or any(
        _sentence_could(matcher, fact, sentence) for sentence in matcher.read(text)
    )


def _sentence_could(matcher: Matcher, fact: Vocabulary, sentence: Sentence) -> bool:
    if sentence.words in fact.questions:
        return True
    if sentence.refuses:
        return any(
            phrase.certain and _phrase_could(matcher, fact, phrase) for phrase in sentence.phrases
        )
    if lexicon().everything.search(" ".join(sentence.words)):
        return True
    wanting = any(word in lexicon().words["wanting"] for word in sentence.words)
    for phrase in sentence.phrases:
        if phrase.certain and _phrase_could(matcher, fact, phrase):
            return True
        if wanting and not phrase.certain and _shares(fact, phrase.words):
            return True
    return _is_foreign(matcher, sentence)


def _phrase_could(matcher: Matcher, fact: Vocabulary, phrase: Phrase) -> bool:
    """Whether a phrase that asks can be after the fact."""
    wanted = matcher.resolve(phrase)
    if wanted is not None and wanted.fact_id == fact.fact_id:
        return True
    asked_by, _ = interrogative(phrase.words)
    if asked_by is not None and asked_by not in _VAGUE and asked_by in fact.answers:
        return True
    return _shares(fact, phrase.words) or bool(_unexplained(matcher, phrase.words))


def _shares(fact: Vocabulary, words: tuple[str, ...]) -> bool:
    known = fact.own | fact.near
    return any(stem(word) in known for word in words)


def _unexplained(matcher: Matcher, words: tuple[str, ...]) -> set[str]:
    """The words that name something, and that no fact and nothing said before accounts for."""
    known = lexicon()
    found = set()
    for word in words:
        root = stem(word)
        light = any(
            word in known.words[name] or root in known.stems[name]
            for name in ("function", "verb", "auxiliary", "wh", "modifier", "opening", "matter")
        )
        if (
            not light
            and root not in matcher.context
            and not any(root in fact.own | fact.near for fact in matcher.vocabularies.values())
        ):
            found.add(word)
    return found


def _is_foreign(matcher: Matcher, sentence: Sentence) -> bool:
    """Whether most words are none that we know: another language, or none."""
    strange = [
        word
        for word in _unexplained(matcher, sentence.words)
        if stem(word) not in lexicon().familiar
    ]
    return 2 * len(strange) > len(set(sentence.words))
