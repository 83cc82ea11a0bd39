"""One trajectory as a row: of a table, and of a JSON document."""

from __future__ import annotations

from synthagent.api.v1 import trajectory_pb2
from synthagent.convert import OUTCOME, verdict_from_proto
from synthagent.interchange.findings import one_line
from synthagent.worlds.episode import Verdict

HEADS = ("trajectory", "task", "agent", "outcome", "reward", "seconds", "INVALID because")


def json_row(trajectory: trajectory_pb2.Trajectory) -> dict[str, object]:
    """What a script wants to know; the reward is null where there is none."""
    verdict = _verdict(trajectory)
    outcome = OUTCOME.from_optional(trajectory.outcome, "outcome")
    reason = verdict.invalid_reason if verdict else None
    return {
        "trajectory_id": trajectory.trajectory_id,
        "run_id": trajectory.run_id,
        "task_id": trajectory.task_id,
        "agent": trajectory.agent,
        "outcome": outcome.value if outcome else None,
        "reward": verdict.reward if verdict else None,
        "invalid_reason": reason.value if reason else None,
        "detail": verdict.detail if verdict else "",
    }


def table_row(trajectory: trajectory_pb2.Trajectory) -> tuple[str, ...]:
    """The same for a person."""
    row = json_row(trajectory)
    reward = row["reward"]
    seconds = ""
    if trajectory.HasField("ended_at"):
        spent = trajectory.ended_at.ToDatetime() - trajectory.started_at.ToDatetime()
        seconds = f"{spent.total_seconds():.1f}"
    reason = f"{row['invalid_reason']}: {row['detail']}" if row["invalid_reason"] else ""
    return (
        trajectory.trajectory_id,
        trajectory.task_id,
        trajectory.agent,
        str(row["outcome"] or "running"),
        f"{reward:.3f}" if isinstance(reward, float) else "",
        seconds,
        one_line(reason, 120),
    )


def _verdict(trajectory: trajectory_pb2.Trajectory) -> Verdict | None:
    has = trajectory.HasField("verdict")
    return verdict_from_proto(trajectory.verdict) if has else None
