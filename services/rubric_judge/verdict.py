"""Verdicts on finished episodes.

Owns the choice of the reward preset, the order of judging, and the rule that a fault of the judge
is an invalid verdict, never a number. The order: the engine (order of the log, replay, audit of the
user, engine criteria), so that an invalid episode costs no call of a model; then a model's audit of
a user that a model played; then one question per remaining criterion. What an episode is worth is
the kernel's to say.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.rubric_judge.auditor import UserAuditor
from services.rubric_judge.record import record_of
from services.rubric_judge.votes import ModelJudge, settle
from synthagent.errors import InvalidInput, ModelFault
from synthagent.worlds.criteria import Criterion, JudgedCheck
from synthagent.worlds.engine import WorldError, WorldImage
from synthagent.worlds.episode import CriterionResult, Event, InvalidReason, Verdict
from synthagent.worlds.judgement import CriterionJudgement, Judgement
from synthagent.worlds.rewards import REWARD_PRESETS
from synthagent.worlds.rubric import judge
from synthagent.worlds.spec import Task

DEFAULT_PRESET = "paper"

_INLINE_EVENTS = 64
"""Logs up to this length are judged in about a millisecond; longer ones go to a thread."""


@dataclass(frozen=True, slots=True)
class Advisers:
    """The models that are asked after the engine; None where there is none to ask."""

    judge: ModelJudge | None = None
    """Judges the criteria that the engine cannot."""

    auditor: UserAuditor | None = None
    """Says whether the user kept to its rules, where a model played the user."""


class _Undecided(Exception):
    """There is no judgement on a criterion, or on the user; the text says on which and why."""


def choose_preset(name: str) -> str:
    """The preset of that name; the default where it is empty. Raises InvalidInput."""
    chosen = name or DEFAULT_PRESET
    if chosen not in REWARD_PRESETS:
        close = difflib.get_close_matches(chosen, REWARD_PRESETS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InvalidInput(
            f"There is no reward preset {chosen!r}; {hint}presets: {', '.join(REWARD_PRESETS)}.",
            field="reward_preset",
        )
    return chosen


async def reach_verdict(
    task: Task,
    image: WorldImage,
    events: Sequence[Event],
    preset: str,
    *,
    advisers: Advisers = Advisers(),
    key: str = "",
) -> Verdict:
    """The verdict on an episode; a judge that cannot judge gives an invalid one.

    `key` names the models' calls: the same key gives their stored answers again. Raises
    ModelUnavailable, after which the same call may succeed.
    """
    asked = [c for c in task.criteria if isinstance(c.check, JudgedCheck)]
    pending = {criterion.criterion_id: _pending(criterion) for criterion in asked}
    verdict = await _by_engine(task, image, events, preset, pending)
    if verdict.reward is None:
        return verdict
    try:
        if asked and advisers.judge is None:
            raise _Undecided(_needs_model(asked[0]))
        if problem := await _audit(advisers.auditor, task, events, key):
            return _invalid(preset, InvalidReason.USER_INFIDELITY, problem)
        if advisers.judge is None or not asked:
            return verdict
        judged = await _judged(advisers.judge, task, events, asked, key)
    except _Undecided as undecided:
        return _invalid(preset, InvalidReason.JUDGE_FAULT, str(undecided))
    return await _by_engine(task, image, events, preset, judged)


def _needs_model(criterion: Criterion) -> str:
    return (
        f"Criterion {criterion.criterion_id} needs the judgement of a model, and none is "
        "configured; set SYNTHAGENT_JUDGE__BASE_URL and SYNTHAGENT_JUDGE__MODEL."
    )


def _pending(criterion: Criterion) -> CriterionResult:
    """Stands in for a judgement until there is one; no verdict with it is ever given."""
    return CriterionResult(
        criterion_id=criterion.criterion_id, satisfied=False, explanation="Not judged yet."
    )


async def _by_engine(
    task: Task,
    image: WorldImage,
    events: Sequence[Event],
    preset: str,
    judged: Mapping[str, CriterionResult],
) -> Verdict:
    try:
        if len(events) <= _INLINE_EVENTS:
            return judge(task, image, events, preset, judged)
        return await asyncio.to_thread(judge, task, image, events, preset, judged)
    except WorldError as error:
        return _invalid(
            preset, InvalidReason.JUDGE_FAULT, f"The rubric cannot be evaluated: {error}."
        )


async def _audit(auditor: UserAuditor | None, task: Task, events: Sequence[Event], key: str) -> str:
    """What the simulated user did wrong, or "". Raises _Undecided, ModelUnavailable."""
    if auditor is None:
        return ""
    try:
        return await auditor.audit(task, events, key=f"{key}/audit")
    except ModelFault as fault:
        raise _Undecided(f"The user could not be audited: {fault.message}") from fault


async def _judged(
    model: ModelJudge,
    task: Task,
    events: Sequence[Event],
    criteria: Sequence[Criterion],
    key: str,
) -> dict[str, CriterionResult]:
    """The results of all criteria, asked at the same time. Raises _Undecided, ModelUnavailable."""

    async def ask(criterion: Criterion) -> CriterionJudgement | str:
        try:
            return await model.judge(task, record, criterion, key=f"{key}/judge")
        except ModelFault as fault:
            return f"Criterion {criterion.criterion_id} could not be judged: {fault.message}"

    record = await asyncio.to_thread(record_of, events)
    judgements = await settle(ask(criterion) for criterion in criteria)
    if reasons := [reason for judged in judgements if (reason := _undecided(judged))]:
        raise _Undecided(" ".join(reasons))
    return {
        j.result.criterion_id: j.result for j in judgements if isinstance(j, CriterionJudgement)
    }


def _undecided(judged: CriterionJudgement | str) -> str:
    """Why a criterion has no judgement, or ""."""
    if isinstance(judged, str):
        return judged
    votes = judged.result.votes
    if judged.judgement is not Judgement.ABSTAIN or votes is None:
        return ""
    return (
        f"Criterion {judged.result.criterion_id} is undecided (votes: {votes.yes} YES, "
        f"{votes.no} NO, {votes.abstain} ABSTAIN): {judged.result.explanation}"
    )


def _invalid(preset: str, reason: InvalidReason, detail: str) -> Verdict:
    return Verdict(reward=None, invalid_reason=reason, detail=detail, reward_preset=preset)
