"""What a model makes of a criterion: votes, and the one rule by which they decide.

A judgement is what more than half of all votes say. Where no answer has more than half (a tie, or
too many abstentions) nothing is decided, and what is not decided is never a number.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from synthagent.worlds.episode import CriterionResult, Votes
from synthagent.worlds.values import Value


class Judgement(StrEnum):
    """An answer to the question whether a criterion is satisfied."""

    YES = "YES"
    NO = "NO"
    ABSTAIN = "ABSTAIN"


class CriterionJudgement(Value):
    """A judgement with its evidence, rationale and votes; `satisfied` only where it is YES."""

    judgement: Judgement
    result: CriterionResult


def count(answers: Iterable[Judgement]) -> Votes:
    """The votes that these answers are."""
    given = list(answers)
    return Votes(
        yes=given.count(Judgement.YES),
        no=given.count(Judgement.NO),
        abstain=given.count(Judgement.ABSTAIN),
    )


def decide(votes: Votes) -> Judgement:
    """What more than half of all votes say; ABSTAIN where no answer has more than half."""
    half = (votes.yes + votes.no + votes.abstain) / 2
    if votes.yes > half:
        return Judgement.YES
    return Judgement.NO if votes.no > half else Judgement.ABSTAIN


def agreement(votes: Votes) -> float:
    """The share of the votes that the most frequent answer has, in (0, 1]. Needs a vote."""
    given = (votes.yes, votes.no, votes.abstain)
    return max(given) / sum(given)
