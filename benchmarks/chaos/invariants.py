"""What must hold afterwards, of the database's own rows: one function an invariant.

Each takes the evidence and what was `Expected`, and gives its violations, one sentence each; none
means that it holds. `INVARIANTS` names them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import orjson

from benchmarks.chaos.evidence import JUDGE, REPLY, AnyRow, Evidence, LoggedEvent
from services.rollout.counterparts import request_id_of
from services.rollout.order import trajectory_id
from services.rollout.spec import RunSpec
from synthagent.api.v1 import judge_pb2, user_pb2
from synthagent.convert import user_reply_from_proto, verdict_from_proto
from synthagent.worlds.episode import UserReply, Verdict

PROBE = "probe-"
"""How a request_id begins that only asks whether a service works."""

_FOLLOWS = {"call": ("tool",), "message": ("user",), "answer": ("end",)}
"""Kinds of the event that may come after an agent's turn, by its action."""


@dataclass(frozen=True)
class Struck:
    """A fault that struck: its kind, and when it began and was over, in microseconds since 1970."""

    kind: str
    began_at: int
    ended_at: int


@dataclass(frozen=True)
class Expected:
    """What the database has to hold."""

    twins: Mapping[str, str]
    """The undisturbed run of each disturbed one."""
    named: Mapping[tuple[str, int], Sequence[str]] = field(default_factory=dict)
    """Batches as callers were told: trajectories by run and step."""
    faults: Sequence[Struck] = ()
    tasks_digest: str = ""
    """`evidence.tasks_digest` before the first fault."""


def lost(evidence: Evidence, expected: Expected) -> list[str]:
    """Every episode that the specification of a run promises has ended, and so has the run."""
    violations = []
    for run_id in expected.twins:
        run = evidence.runs.get(run_id)
        if run is None:
            violations.append(f"run {run_id} is gone")
            continue
        if run.state != "succeeded":
            violations.append(f"run {run_id} is {run.state}")
        ended = {row.trajectory_id for row in evidence.episodes[run_id] if row.state == "ended"}
        violations += [f"episode {each} has not ended" for each in _promised(run) - ended]
    return violations


def _promised(run: AnyRow) -> set[str]:
    spec = RunSpec.model_validate_json(run.spec)
    groups = range(spec.groups_total(len(orjson.loads(run.task_ids))))
    indices = range(spec.group_size)
    return {trajectory_id(run.run_id, group, index) for group in groups for index in indices}


def duplicated(evidence: Evidence, expected: Expected) -> list[str]:
    """No episode is there beside those promised, and each ended once: one end, one number."""
    violations = []
    for run_id in expected.twins.keys() & evidence.runs.keys():
        rows = evidence.episodes[run_id]
        more = {row.trajectory_id for row in rows} - _promised(evidence.runs[run_id])
        violations += [f"nobody asked for episode {each}" for each in more]
        numbers = sorted(row.completion for row in rows if row.completion is not None)
        if numbers != list(range(1, len(numbers) + 1)):
            violations.append(f"the completions of run {run_id} are not numbered one by one")
        for row in rows:
            ends = sum(event.kind == "end" for event in evidence.logs[row.trajectory_id])
            if ends > 1:
                violations.append(f"episode {row.trajectory_id} ended {ends} times")
    return violations


def complete_event_logs(evidence: Evidence, expected: Expected) -> list[str]:
    """Each log is numbered without a gap, every turn has what follows it, and the end is last."""
    return [
        f"the log of {row.trajectory_id} {what}"
        for row in _disturbed(evidence, expected)
        for what in _gaps(evidence.logs.get(row.trajectory_id, ()))
    ]


def _gaps(log: Sequence[LoggedEvent]) -> Iterator[str]:
    if not log or log[-1].kind != "end":
        yield "has no end"
    if [event.sequence for event in log] != list(range(len(log))):
        yield "has a gap"
    for turn, after in pairwise(log):
        if turn.kind != "agent":
            continue
        allowed = _FOLLOWS[orjson.loads(turn.body)["action"]]
        if after.kind not in allowed and not _is_fault(after):
            yield f"has {after.kind} after the agent's turn {turn.sequence}"


def _is_fault(event: LoggedEvent) -> bool:
    return event.kind == "end" and orjson.loads(event.body)["outcome"] == "fault"


def one_verdict(evidence: Evidence, expected: Expected) -> list[str]:
    """Each episode has a verdict, and row and verdict tell the same reward or the same reason."""
    violations = []
    for row in _disturbed(evidence, expected):
        if row.verdict is None:
            violations.append(f"episode {row.trajectory_id} has no verdict")
            continue
        verdict = Verdict.model_validate_json(row.verdict)
        if (verdict.reward is None) is (verdict.invalid_reason is None):
            violations.append(f"the verdict on {row.trajectory_id} is neither valid nor INVALID")
        if (verdict.reward, verdict.invalid_reason) != (row.reward, row.invalid_reason):
            violations.append(f"the verdict on {row.trajectory_id} differs from its row")
    return violations


def wrong_reward(evidence: Evidence, expected: Expected) -> list[str]:
    """Every reward is that of the undisturbed twin."""
    return [
        f"episode {row.trajectory_id} has the reward {row.reward}, "
        f"and {twin.reward if twin else 'no twin'} undisturbed{_why(row)}"
        for row, twin in _pairs(evidence, expected)
        if twin is None or row.reward is None or row.reward != twin.reward
    ]


def _why(row: AnyRow) -> str:
    detail = orjson.loads(row.verdict).get("detail") if row.verdict else ""
    return f": {row.invalid_reason}, {detail}" if row.invalid_reason else ""


def same_as_undisturbed(evidence: Evidence, expected: Expected) -> list[str]:
    """Every verdict and every event, state hashes included, are those of the undisturbed twin."""
    return [
        f"the log or verdict of {row.trajectory_id} is not that of its twin"
        for row, twin in _pairs(evidence, expected)
        if twin is None
        or row.verdict != twin.verdict
        or evidence.logs[row.trajectory_id] != evidence.logs[twin.trajectory_id]
    ]


def invalid_only_by_faults(evidence: Evidence, expected: Expected) -> list[str]:
    """An INVALID episode has its reason in its log, and ran while a recorded fault struck."""
    violations = []
    for row in _disturbed(evidence, expected):
        if row.invalid_reason is None:
            continue
        log = evidence.logs.get(row.trajectory_id, ())
        if not log or orjson.loads(log[-1].body).get("invalid_reason") != row.invalid_reason:
            violations.append(f"the log of {row.trajectory_id} does not say why it is INVALID")
        if not any(
            fault.began_at <= row.ended_at and fault.ended_at >= row.started_at
            for fault in expected.faults
        ):
            violations.append(f"{row.trajectory_id} is INVALID and nothing struck meanwhile")
    return violations


def batches_unchanged(evidence: Evidence, expected: Expected) -> list[str]:
    """Each batch is the one that callers were told, and holds its step's groups, in order."""
    violations = []
    for (run_id, step), ids in expected.named.items():
        if list(evidence.batches.get((run_id, step), ())) != list(ids):
            violations.append(f"the batch of run {run_id}, step {step} has changed")
    for run_id in expected.twins:
        group_of: dict[str, list[AnyRow]] = {}
        for row in sorted(evidence.episodes[run_id], key=lambda row: row.group_index):
            group_of.setdefault(row.group_id, []).append(row)
        steps: dict[int, list[str]] = {}
        for group in evidence.groups[run_id]:
            ids = [row.trajectory_id for row in group_of.get(group.group_id, ())]
            steps.setdefault(group.step, []).extend(ids)
        for step, whole in steps.items():
            stored = evidence.batches.get((run_id, step))
            if stored is not None and list(stored) != whole:
                violations.append(f"the batch of run {run_id}, step {step} is not its groups")
    return violations


def executed_once(evidence: Evidence, expected: Expected) -> list[str]:
    """What users and judges were asked was answered once, and that answer is in the log.

    A synthesis admitted each of its tasks once. That a tool's call was executed once, its state
    hash says: `same_as_undisturbed`.
    """
    violations = []
    asked: set[tuple[str, str]] = set()
    for row in (row for rows in evidence.episodes.values() for row in rows):
        for key, told in _told(row, evidence.logs.get(row.trajectory_id, ())):
            asked.add(key)
            if key not in evidence.answers:
                violations.append(f"{row.trajectory_id} has an answer of {key[0]} that none gave")
            elif _said(key[0], evidence.answers[key]) != told:
                violations.append(f"{key[0]} answered {row.trajectory_id} twice, and differently")
    more = {key for key in evidence.answers.keys() - asked if not key[1].startswith(PROBE)}
    violations += [f"{method} answered {request}, which no log has" for method, request in more]
    twice = [each for each, count in Counter(evidence.synthesized).items() if count > 1]
    violations += [f"synthesis {request} admitted {task} twice" for request, task in twice]
    return violations


def _told(
    row: AnyRow, log: Sequence[LoggedEvent]
) -> Iterator[tuple[tuple[str, str], UserReply | Verdict]]:
    """What the episode was told, by method and request_id."""
    for event in log:
        if event.kind == "user":
            request_id = request_id_of(row.trajectory_id, event.sequence - 1)
            yield (REPLY, request_id), UserReply.model_validate_json(event.body)
        elif event.kind == "end" and row.verdict is not None and not _is_fault(event):
            request_id = request_id_of(row.trajectory_id, event.sequence)
            yield (JUDGE, request_id), Verdict.model_validate_json(row.verdict)


def _said(method: str, answer: bytes) -> UserReply | Verdict:
    if method == REPLY:
        return user_reply_from_proto(user_pb2.ReplyResponse.FromString(answer).reply, "reply")
    return verdict_from_proto(judge_pb2.JudgeResponse.FromString(answer).verdict)


def no_orphan_leases(evidence: Evidence, expected: Expected) -> list[str]:
    """Nothing runs or waits any more, in any run, and every group has its episodes."""
    return [
        f"episode {row.trajectory_id} is still {row.state}, held by {row.lease_owner!r}"
        for rows in evidence.episodes.values()
        for row in rows
        if row.state in ("pending", "running")
    ] + [
        f"group {group.group_id} has no episodes"
        for run_id in expected.twins
        for group in evidence.groups[run_id]
        if group.group_id not in {row.group_id for row in evidence.episodes[run_id]}
    ]


def tasks_unchanged(evidence: Evidence, expected: Expected) -> list[str]:
    """The tasks are those of before: nothing of a corrupt import was stored."""
    return [] if evidence.tasks_digest == expected.tasks_digest else ["the tasks have changed"]


Invariant = Callable[[Evidence, Expected], list[str]]
INVARIANTS: tuple[Invariant, ...] = (
    lost,
    duplicated,
    complete_event_logs,
    one_verdict,
    wrong_reward,
    same_as_undisturbed,
    invalid_only_by_faults,
    batches_unchanged,
    executed_once,
    no_orphan_leases,
    tasks_unchanged,
)


def _disturbed(evidence: Evidence, expected: Expected) -> Iterator[AnyRow]:
    """The episodes of disturbed runs."""
    for run_id in expected.twins:
        yield from evidence.episodes[run_id]


def _pairs(evidence: Evidence, expected: Expected) -> Iterator[tuple[AnyRow, AnyRow | None]]:
    """Each disturbed episode that has ended, and its undisturbed twin."""
    for run_id, twin in expected.twins.items():
        calm = {row.trajectory_id.removeprefix(twin): row for row in evidence.episodes[twin]}
        for row in evidence.episodes[run_id]:
            if row.state == "ended":
                yield row, calm.get(row.trajectory_id.removeprefix(run_id))
