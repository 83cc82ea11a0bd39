"""Our own personas: how many, how different, and always the same."""

from __future__ import annotations

import zlib
from collections import Counter
from random import Random

import pytest
from datasketch import MinHash, MinHashLSH

from services.task_synthesis import personas
from services.user_simulator.reply import voices
from synthagent.worlds.spec import Persona


@pytest.fixture(scope="module")
def everybody() -> list[Persona]:
    return [personas.generate(index) for index in range(personas.count())]


def test_there_are_ten_thousand_different_ones(everybody: list[Persona]) -> None:
    assert len({persona.description for persona in everybody}) == len(everybody) >= 10_000
    assert len({persona.name for persona in everybody}) > 0.9 * len(everybody)
    assert len(personas.groups()) >= 16
    sizes = Counter(personas.group_of(index) for index in range(personas.count()))
    assert max(sizes.values()) <= 2 * min(sizes.values())


def test_they_are_said_in_whole_sentences(everybody: list[Persona]) -> None:
    for persona in everybody[:500] + everybody[-500:]:
        assert persona.description.endswith(".")
        assert persona.name in persona.description
        assert persona.role in persona.description
        assert "{" not in persona.description
        assert persona.voice in voices(), "the user simulator knows how to speak so"
        assert not persona.role.startswith(("a ", "an "))


def test_near_duplicates_are_few(everybody: list[Persona]) -> None:
    """A sample of neighbours and strangers, by the words that are not the name."""
    rng = Random(0)
    start = rng.randrange(len(everybody) - 1500)
    sample = everybody[start : start + 1500] + rng.sample(everybody, 1500)
    told = {persona.description: _words(persona) for persona in sample}
    shelf = MinHashLSH(threshold=0.7, num_perm=64)
    near = 0
    for description, words in told.items():
        hashed = MinHash(num_perm=64, hashfunc=zlib.crc32)
        hashed.update_batch([word.encode() for word in words])
        found = [told[other] for other in shelf.query(hashed)]
        near += any(len(words & other) / len(words | other) >= 0.7 for other in found)
        shelf.insert(description, hashed)
    assert near <= len(told) / 500


def _words(persona: Persona) -> frozenset[str]:
    names = {*persona.name.split(), persona.name.split()[0] + ";"}
    return frozenset(word for word in persona.description.split() if word.strip(",;:") not in names)


def test_an_index_gives_the_same_persona_for_ever(everybody: list[Persona]) -> None:
    assert [personas.generate(index) for index in (0, 7, 4999)] == [
        everybody[index] for index in (0, 7, 4999)
    ]
    for index in (-1, personas.count()):
        with pytest.raises(IndexError):
            personas.generate(index)


def test_draws_stay_in_their_group_and_meet_nobody_twice() -> None:
    index_of = {personas.generate(i).description: i for i in range(personas.count())}
    for group in personas.groups()[:3]:
        size = sum(personas.group_of(i) == group for i in range(personas.count()))
        drawn = [index_of[personas.draw(group, nth, 11).description] for nth in range(size)]
        assert {personas.group_of(index) for index in drawn} == {group}
        assert len(set(drawn)) == size
    assert personas.draw("care", 0, 1) != personas.draw("care", 0, 2)
    with pytest.raises(ValueError, match="nobody"):
        personas.draw("nobody", 0, 1)


@pytest.mark.parametrize("size", [1, 2, 7919, 7907 * 7919, 600])
def test_a_walk_meets_every_position(size: int) -> None:
    steps = min(size, 2000)
    walked = {personas.spread("key", nth, size) for nth in range(steps)}
    assert len(walked) == steps
    assert all(0 <= position < size for position in walked)


def test_what_an_imported_persona_lacks_follows_from_its_description() -> None:
    bare = personas.completed("", "", "Grows moss on purpose.", "")
    assert bare == personas.completed("", "", "Grows moss on purpose.", "")
    assert bare.name
    assert bare.role
    assert bare.voice in voices()
    full = personas.completed("Ada Holm", "moss grower", "Grows moss.", "plain")
    assert (full.name, full.role, full.voice) == ("Ada Holm", "moss grower", "plain")
