"""Votes of a model on one criterion, and the judgement that most of them make.

Owns the form of a vote (evidence, rationale and only then the answer), the check that its evidence
exists, and the count. A vote whose evidence does not exist is sent back once and then abstains. A
fault of the model is raised, never counted as a vote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.rubric_judge.question import Question, ask, ask_again
from services.rubric_judge.record import Record
from synthagent.errors import ModelUnavailable
from synthagent.llm import LanguageModel
from synthagent.metrics import ServerMetrics
from synthagent.worlds.criteria import Criterion
from synthagent.worlds.episode import CriterionResult
from synthagent.worlds.judgement import CriterionJudgement, Judgement, agreement, count, decide
from synthagent.worlds.spec import Task

T = TypeVar("T")
_TEMPERATURE = 0.7
"""Of each vote where several are cast: at 0 they would all be the same vote."""


class Vote(BaseModel):
    """One vote. The order of the fields is the order in which a model has to write them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    evidence: list[int] = Field(min_length=1, max_length=32)
    """Numbers of the events that the answer rests on."""

    rationale: str = Field(min_length=1, max_length=500)
    """What these events show about the question, in one or two sentences."""

    answer: Literal["YES", "NO", "ABSTAIN"]
    """YES, NO, or ABSTAIN where the record cannot settle it."""

    @property
    def judgement(self) -> Judgement:
        """The answer as a judgement."""
        return Judgement(self.answer)

    @model_validator(mode="before")
    @classmethod
    def _check_order(cls, value: object) -> object:
        wanted = tuple(cls.model_fields)
        if isinstance(value, dict) and set(value) == set(wanted) and tuple(value) != wanted:
            raise ValueError(f"write the fields in this order: {', '.join(wanted)}")
        return value


class ModelJudge:
    """Asks a model about criteria, `votes` times about each."""

    def __init__(self, model: LanguageModel, votes: int, metrics: ServerMetrics) -> None:
        self._model = model
        self._votes = votes
        self._counted = metrics.judge_votes
        self._agreement = metrics.judge_agreement

    async def judge(
        self, task: Task, record: Record, criterion: Criterion, *, key: str
    ) -> CriterionJudgement:
        """What most votes say. Raises ModelUnavailable and ModelFault, of whichever vote."""
        question = ask(task, record, criterion)
        name = f"{key}/{criterion.criterion_id}"
        cast = await settle(
            [self._vote(question, f"{name}/{number}", number) for number in range(self._votes)]
        )
        votes = count(vote.judgement for vote in cast)
        for vote in cast:
            self._counted.labels(vote.answer.lower()).inc()
        self._agreement.observe(agreement(votes))
        judgement = decide(votes)
        return CriterionJudgement(
            judgement=judgement,
            result=CriterionResult(
                criterion_id=criterion.criterion_id,
                satisfied=judgement is Judgement.YES,
                evidence=_evidence(cast, judgement),
                explanation=_explained(cast, judgement),
                votes=votes,
            ),
        )

    async def _vote(self, question: Question, key: str, number: int) -> Vote:
        vote = await self._ask(question, key, number)
        missing = set(vote.evidence) - question.events
        if not missing:
            return vote
        again = ask_again(question, vote.model_dump(mode="json"), missing)
        vote = await self._ask(again, f"{key}/again", number)
        return _abstaining(vote) if set(vote.evidence) - question.events else vote

    async def _ask(self, question: Question, key: str, number: int) -> Vote:
        answer = await self._model.structured(
            question.messages,
            Vote,
            key=key,
            purpose="vote",
            temperature=_TEMPERATURE if self._votes > 1 else 0.0,
            seed=number,
        )
        return answer.value


def _abstaining(vote: Vote) -> Vote:
    """The vote without its answer, since what it rests on does not exist."""
    why = f"The evidence, events {vote.evidence}, does not exist."
    return vote.model_copy(update={"answer": "ABSTAIN", "evidence": [], "rationale": why})


async def settle(asked: Iterable[Awaitable[T]]) -> list[T]:
    """All results. Where some raise, waits for the rest, whose answers a repeat then finds stored.

    Raises ModelUnavailable where one does, because that is worth a repeat; else the first error.
    """
    ended = await asyncio.gather(*asked, return_exceptions=True)
    errors = [result for result in ended if isinstance(result, BaseException)]
    for error in sorted(errors, key=lambda error: not isinstance(error, ModelUnavailable)):
        raise error
    return [result for result in ended if not isinstance(result, BaseException)]


def _evidence(cast: Sequence[Vote], judgement: Judgement) -> tuple[int, ...]:
    """Every event that a vote for the judgement names."""
    return tuple(sorted({e for vote in cast if vote.judgement is judgement for e in vote.evidence}))


def _explained(cast: Sequence[Vote], judgement: Judgement) -> str:
    """The rationale of the first vote for the judgement; of any vote where none decided."""
    return next((v.rationale for v in cast if v.judgement is judgement), cast[0].rationale)
