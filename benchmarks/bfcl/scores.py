"""Scores: accuracy by category with its standard error, as the checker sees the answers."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from benchmarks.bfcl.answers import Answer
from benchmarks.bfcl.process import checker


class Score(BaseModel):
    """What a category came to. Items that have no answer are in `missing` and in no figure."""

    model_config = ConfigDict(frozen=True)

    n: int
    correct: int
    accuracy: float | None
    sem: float | None
    missing: int
    stopped: dict[str, int]
    errors: dict[str, int]
    tokens: int


class Report(BaseModel):
    """A model's scores, and how they were come to."""

    model_config = ConfigDict(frozen=True)

    command: str
    bfcl_eval: str
    format: str
    model: str
    turn_tokens: int
    seed: int
    limit: int
    seconds: float
    scores: dict[str, Score]
    faults: dict[str, str]


def standard_error(correct: int, n: int) -> float | None:
    """Standard error of the mean of n right-or-wrong answers; None where there are fewer than two.

    sqrt(p (1 - p) / (n - 1)), the sample standard deviation over sqrt(n).
    """
    if n < 2:
        return None
    share = correct / n
    return math.sqrt(share * (1 - share) / (n - 1))


def summarize(answers: Sequence[Answer], wrong: Mapping[str, str], asked: int) -> Score:
    """The score of answers of one category, of which `wrong` says the errors."""
    n, correct = len(answers), len(answers) - len(wrong)
    return Score(
        n=n,
        correct=correct,
        accuracy=correct / n if n else None,
        sem=standard_error(correct, n),
        missing=asked - n,
        stopped=dict(Counter(each.stopped for each in answers if each.stopped)),
        errors=dict(Counter(wrong.values()).most_common()),
        tokens=sum(each.tokens for each in answers),
    )


async def score(answers: Sequence[Answer], folder: Path, python: Path | None) -> dict[str, str]:
    """Errors by item of one category's answers, from a process of its own. Raises BfclFault."""
    if not answers:
        return {}
    place = await asyncio.to_thread(_emptied, folder)
    results = [{"id": each.id, "result": each.result} for each in answers]
    async with checker(folder / "checker.log", python) as process:
        return await process.score(answers[0].category, results, place)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder.absolute()
