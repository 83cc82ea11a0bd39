"""Judging an episode: from its event log to a verdict.

`judge` trusts nothing that it can compute: it checks the order of the log, makes every call again
and compares results and state, audits the simulated user, and only then evaluates the criteria. A
fault that is not the agent's gives a verdict without a reward, never a 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from synthagent.worlds.checks import JudgementMissing, evaluate
from synthagent.worlds.engine import WorldImage
from synthagent.worlds.episode import (
    AgentTurn,
    CriterionResult,
    EpisodeEnd,
    EpisodeOutcome,
    Event,
    InvalidReason,
    ToolResult,
    Verdict,
)
from synthagent.worlds.fidelity import disorder, infidelity
from synthagent.worlds.rewards import (
    REWARD_PRESETS,
    RewardPreset,
    fractions,
    outcome_gate,
    reward,
)
from synthagent.worlds.session import NOT_AVAILABLE, EngineFault, Session
from synthagent.worlds.spec import BuiltinBehaviour, SimulatedBehaviour, Task
from synthagent.worlds.versions import canonical, next_version, session_hash

__all__ = [
    "REWARD_PRESETS",
    "JudgementMissing",
    "RewardPreset",
    "evaluate",
    "judge",
    "outcome_gate",
]


class _Invalid(Exception):
    """Ends the judging with a verdict without a reward."""

    def __init__(self, reason: InvalidReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def judge(
    task: Task,
    image: WorldImage,
    events: Sequence[Event],
    preset: str,
    judged: Mapping[str, CriterionResult] | None = None,
) -> Verdict:
    """The verdict on a finished episode. A pure function of its arguments.

    `judged` holds the results of criteria that only a model can judge; a missing one makes the
    verdict invalid. Raises KeyError on an unknown preset, WorldError where a predicate of the task
    does not compile (a certified task's do).
    """
    chosen = REWARD_PRESETS[preset]
    try:
        results = _results(task, image, events, judged)
    except _Invalid as invalid:
        return Verdict(
            reward=None,
            invalid_reason=invalid.reason,
            detail=invalid.detail,
            reward_preset=preset,
        )
    shares = fractions(task, results)
    return Verdict(
        reward=reward(chosen, shares),
        reward_preset=preset,
        policy_fraction=_or_one(shares.policy),
        sub_goal_fraction=_or_one(shares.sub_goal),
        interaction_fraction=_or_one(shares.interaction),
        results=results,
    )


def _or_one(fraction: float | None) -> float:
    return 1.0 if fraction is None else fraction


def _results(
    task: Task,
    image: WorldImage,
    events: Sequence[Event],
    judged: Mapping[str, CriterionResult] | None,
) -> tuple[CriterionResult, ...]:
    end = events[-1].body if events else None
    if isinstance(end, EpisodeEnd) and end.outcome is EpisodeOutcome.FAULT:
        raise _Invalid(
            end.invalid_reason or InvalidReason.MALFORMED_LOG,
            end.detail or "The episode ended in a fault without a detail.",
        )
    if problem := disorder(events):
        raise _Invalid(InvalidReason.MALFORMED_LOG, problem)
    if problem := infidelity(task, events):
        raise _Invalid(InvalidReason.USER_INFIDELITY, problem)
    try:
        with image.open() as session:
            _replay(task, image, session, events)
            return evaluate(task, events, session, judged)
    except EngineFault as fault:
        raise _Invalid(InvalidReason.TOOL_FAULT, str(fault)) from fault
    except JudgementMissing as missing:
        raise _Invalid(InvalidReason.JUDGE_FAULT, str(missing)) from missing


def _replay(task: Task, image: WorldImage, session: Session, events: Sequence[Event]) -> None:
    """Makes every call again and compares results and states.

    Of a simulated tool's answer only the state can be compared; of a builtin's, nothing.
    """
    answered_by_model = {
        tool.name: tool.changes_state
        for tool in task.world.tools
        if isinstance(tool.behaviour, SimulatedBehaviour)
    }
    builtin = {t.name for t in task.world.tools if isinstance(t.behaviour, BuiltinBehaviour)}
    version = image.root_version
    last: AgentTurn | None = None
    for event in events:
        body = event.body
        if isinstance(body, AgentTurn):
            last = body
        elif isinstance(body, ToolResult) and last is not None and last.tool not in builtin:
            before = session.state_hash
            replayed = session.call(last.tool, last.arguments)
            changed = session.state_hash != before
            if last.tool in answered_by_model and replayed.error_code == NOT_AVAILABLE:
                changed = body.ok and answered_by_model[last.tool]  # a valid call, so a model's
                replayed = body
            if version:
                if changed:
                    version = next_version(version, last.tool, canonical(last.arguments))
                state = session_hash(session.state_hash, version)
                replayed = replayed.model_copy(update={"state_hash": state})
            if replayed != body:
                raise _Invalid(
                    InvalidReason.REPLAY_MISMATCH,
                    f"Event {event.sequence} is not what {last.tool or 'the call'} gives.",
                )
