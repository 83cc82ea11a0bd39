"""The one table of methods: which roles may call each, and whether its calls are audited.

A method that is not here is open to nobody. docs/security.md shows the table; a test compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a caller is there for."""

    OPERATOR = "operator"
    """Runs the system: makes tasks, starts and cancels runs, looks at everything."""
    TRAINER = "trainer"
    """Creates runs, fetches their batches, publishes weights."""
    AGENT = "agent"
    """Lives in worlds: calls tools and talks to users. Never sees a task's plans or rubric."""
    VIEWER = "viewer"
    """Looks at everything and changes nothing."""
    SERVICE = "service"
    """One of our own services, on behalf of a run or a synthesis. Limits of callers spare it."""


@dataclass(frozen=True, slots=True)
class Method:
    """Who may call a method, and whether it changes something and is therefore audited."""

    roles: frozenset[Role]
    audited: bool = False


_OPERATOR, _TRAINER, _AGENT, _VIEWER, _SERVICE = Role


def _reads(*roles: Role) -> Method:
    return Method(frozenset(roles))


def _changes(*roles: Role) -> Method:
    return Method(frozenset(roles), audited=True)


_PACKAGE = "synthagent.api.v1"

METHODS: dict[str, Method] = {
    f"/{_PACKAGE}.{name}": method
    for name, method in {
        "TaskSynthesis/SynthesizeTasks": _changes(_OPERATOR),
        "TaskSynthesis/ImportTasks": _changes(_OPERATOR),
        "TaskSynthesis/ImportPersonas": _changes(_OPERATOR),
        "TaskSynthesis/GetTask": _reads(_OPERATOR, _TRAINER, _VIEWER, _SERVICE),
        "TaskSynthesis/ListTasks": _reads(_OPERATOR, _TRAINER, _VIEWER, _SERVICE),
        "TaskSynthesis/GetSynthesis": _reads(_OPERATOR, _VIEWER),
        "TaskSynthesis/ListSynthesisItems": _reads(_OPERATOR, _VIEWER),
        "TaskSynthesis/ListPersonas": _reads(_OPERATOR, _VIEWER),
        "ToolMock/Session": _reads(_OPERATOR, _AGENT, _SERVICE),
        "ToolMock/MultiplexSessions": _reads(_OPERATOR, _AGENT, _SERVICE),
        "ToolMock/CallTool": _reads(_OPERATOR, _AGENT, _SERVICE),
        "ToolMock/ListLedgerEntries": _reads(_OPERATOR, _VIEWER),
        "UserSimulator/Reply": _changes(_OPERATOR, _AGENT, _SERVICE),
        "RubricJudge/Judge": _changes(_OPERATOR, _SERVICE),
        "RubricJudge/JudgeCriterion": _changes(_OPERATOR, _SERVICE),
        "Rollout/CreateRun": _changes(_OPERATOR, _TRAINER, _SERVICE),
        "Rollout/CancelRun": _changes(_OPERATOR, _TRAINER, _SERVICE),
        "Rollout/GetRun": _reads(_OPERATOR, _TRAINER, _VIEWER, _SERVICE),
        "Rollout/ListRuns": _reads(_OPERATOR, _TRAINER, _VIEWER),
        "Rollout/WatchRun": _reads(_OPERATOR, _TRAINER, _VIEWER, _SERVICE),
        "Rollout/GetTrajectory": _reads(_OPERATOR, _TRAINER, _VIEWER, _SERVICE),
        "Rollout/ListTrajectories": _reads(_OPERATOR, _TRAINER, _VIEWER, _SERVICE),
        # Names the batch of a step for good.
        "Rollout/StreamBatch": _changes(_TRAINER),
        "Rollout/PublishPolicy": _changes(_OPERATOR, _TRAINER),
    }.items()
}
"""Path of a method as gRPC names it -> its row."""

OPEN = ("/grpc.health.v1.Health/",)
"""Paths that need no identity: a probe has none, and learns no more than SERVING."""

KNOWN_CALLERS_ONLY = (
    "/grpc.reflection.v1alpha.ServerReflection/",
    "/grpc.reflection.v1.ServerReflection/",
)
"""Paths that any known caller may call, whatever its role."""

_ANY_ROLE = Method(frozenset(Role))
_NOBODY = Method(frozenset())


def method_of(path: str) -> Method:
    """The row of a path; one that is not in the table is open to nobody."""
    if path.startswith(KNOWN_CALLERS_ONLY):
        return _ANY_ROLE
    return METHODS.get(path, _NOBODY)


def table() -> str:
    """The table as Markdown, for docs/security.md."""
    head = "| method | " + " | ".join(Role) + " | audited |"
    rows = [head, "|---" * (len(Role) + 2) + "|"]
    for path, method in METHODS.items():
        marks = ["✓" if role in method.roles else "" for role in Role]
        name = path.removeprefix(f"/{_PACKAGE}.")
        rows.append(f"| `{name}` | " + " | ".join([*marks, "✓" if method.audited else ""]) + " |")
    return "\n".join(rows)
