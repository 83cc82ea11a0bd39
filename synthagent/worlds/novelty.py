"""Near-duplicates: of admitted tasks, and of listed evaluation items.

Tasks are compared by the MinHash of three-word shingles of everything that makes them what they
are: instruction, facts, tool names, parameters and descriptions. Two tasks whose estimated Jaccard
similarity reaches TASK_THRESHOLD are near-duplicates. Evaluation items are bare texts, so they are
compared with what a task says (instruction and facts) by two-word shingles and ITEM_THRESHOLD. An
index lives in memory; its owner adds the admitted tasks again after a restart. The hashes depend on
nothing but the text, so every process finds the same duplicates.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import orjson
from datasketch import MinHash, MinHashLSH

from synthagent.worlds.spec import Task
from synthagent.worlds.values import normalise

TASK_THRESHOLD = 0.8
ITEM_THRESHOLD = 0.6
_PERMUTATIONS = 128


class NoveltyError(ValueError):
    """A list of evaluation items that cannot be read: which line, and what is wrong."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The most similar thing in an index: its name and the estimated similarity in [0, 1]."""

    name: str
    similarity: float
    is_item: bool


class NoveltyIndex:
    """Finds near-duplicates among what was added. Not safe for use by several threads."""

    def __init__(self) -> None:
        self._tasks = _Shelf(TASK_THRESHOLD, words=3, bands=(16, 8))
        self._items = _Shelf(ITEM_THRESHOLD, words=2, bands=(32, 4))

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: Task) -> None:
        """Adds an admitted task; one of the same id is added once."""
        self._tasks.add(task.task_id, _surface(task))

    def add_item(self, name: str, text: str) -> None:
        """Adds a listed evaluation item."""
        self._items.add(name, text)

    def load_items(self, path: Path) -> int:
        """Adds the items of a JSONL file of {"id", "text"} objects and returns their number.

        Raises NoveltyError, which names the line.
        """
        number = 0
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                item = orjson.loads(line)
                self.add_item(str(item["id"]), str(item["text"]))
            except (orjson.JSONDecodeError, KeyError, TypeError) as error:
                raise NoveltyError(
                    f"{path}, line {number}: expected an object with id and text ({error})"
                ) from error
        return number

    def nearest(self, task: Task) -> Neighbour | None:
        """The nearest near-duplicate of a task, or None where it is new.

        A task of the same id does not count: certifying a task again gives the same result.
        """
        found = [
            *self._tasks.near(_surface(task), task.task_id, is_item=False),
            *self._items.near(_said(task), "", is_item=True),
        ]
        return max(found, key=lambda n: (n.similarity, n.name), default=None)


class _Shelf:
    """MinHashes of one kind of text.

    `bands` (bands, rows) make candidates of more than 95% of the pairs at the threshold; each
    candidate is then compared by all permutations.
    """

    def __init__(self, threshold: float, *, words: int, bands: tuple[int, int]) -> None:
        self._threshold = threshold
        self._words = words
        self._lsh = MinHashLSH(num_perm=_PERMUTATIONS, params=bands)
        self._hashes: dict[str, MinHash] = {}

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, name: str, text: str) -> None:
        if name not in self._hashes:
            self._hashes[name] = _min_hash(text, self._words)
            self._lsh.insert(name, self._hashes[name])

    def near(self, text: str, but: str, *, is_item: bool) -> Iterable[Neighbour]:
        if not self._hashes:
            return
        wanted = _min_hash(text, self._words)
        for name in self._lsh.query(wanted):
            similarity = float(wanted.jaccard(self._hashes[name]))
            if name != but and similarity >= self._threshold:
                yield Neighbour(name, similarity, is_item)


_WORD = re.compile(r"\w+")
_BLANK = MinHash(num_perm=_PERMUTATIONS, hashfunc=zlib.crc32)


def _min_hash(text: str, words: int) -> MinHash:
    parts = _WORD.findall(normalise(text))
    shingles = {" ".join(parts[i : i + words]) for i in range(max(len(parts) - words + 1, 1))}
    result = _BLANK.copy()
    result.update_batch([shingle.encode() for shingle in sorted(shingles)])
    return result


def _said(task: Task) -> str:
    facts = " ".join(f"{fact.label} {fact.spoken}" for fact in task.facts)
    return f"{task.instruction} {facts}"


def _surface(task: Task) -> str:
    parts = [_said(task), task.restriction.text]
    for tool in task.world.tools:
        properties = tool.input_schema.get("properties")
        names = " ".join(properties) if isinstance(properties, dict) else ""
        parts.append(f"{tool.name} {tool.description} {names}")
    return " ".join(parts)
