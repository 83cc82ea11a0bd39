"""The schema: one class a table, written with portable types only.

Times are integers: microseconds since 1970 UTC. Values of the kernel are stored as their canonical
JSON text, tokens as little-endian arrays (`uint32` ids, `float32` log-probabilities). Everything is
keyed by identifiers that the caller or the content gives, so that a repeat finds its first.
"""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    Text,
    UniqueConstraint,
    false,
)
from sqlmodel import Field, SQLModel

# A 64-bit key that numbers itself. SQLite numbers only columns of the exact type INTEGER, which
# holds 64 bits there.
_SERIAL = BigInteger().with_variant(Integer, "sqlite")


def _text() -> Column[str]:
    return Column(Text, nullable=False)


def _big(*, nullable: bool = False, index: bool = False) -> Column[int]:
    return Column(BigInteger, nullable=nullable, index=index)


def _counted() -> Column[int]:
    """A count that rows of an earlier schema lack; the server's default stands in for them."""
    return Column(BigInteger, nullable=False, server_default="0")


class TaskRow(SQLModel, table=True):
    """A certified task. `body` is its JSON with the certificate; the rest serves listings."""

    __tablename__: ClassVar[str] = "task"

    ordinal: int | None = Field(
        default=None, sa_column=Column(_SERIAL, primary_key=True, autoincrement=True)
    )
    task_id: str = Field(max_length=64, unique=True)
    split: str = Field(max_length=16, index=True)
    domain: str = Field(max_length=255, index=True)
    difficulty: str = Field(max_length=255)
    instruction: str = Field(sa_column=_text())
    tool_count: int
    fact_count: int
    gold_step_count: int
    digest: str = Field(max_length=64)
    body: str = Field(sa_column=_text())
    admitted_at: int = Field(sa_column=_big())
    teacher: str = Field(max_length=16, sa_column_kwargs={"server_default": "program"})
    draft: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    """Whether it is still being examined: not listed, nor drawn by a selection, until admitted."""


class SynthesisItemRow(SQLModel, table=True):
    """One attempt of a synthesis request: the task it gave, or the gate that refused it and why."""

    __tablename__: ClassVar[str] = "synthesis_item"

    request_id: str = Field(primary_key=True, max_length=64)
    attempt: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    seed: str = Field(max_length=20)
    """The seed in decimal: an unsigned 64-bit number does not fit a signed column."""
    task_id: str | None = Field(default=None, max_length=64)
    gate: str | None = Field(default=None, max_length=32)
    reason: str = Field(default="", sa_column=_text())
    route: str = Field(default="{}", sa_column=Column(Text, nullable=False, server_default="{}"))
    """Route by dimension, as a JSON object."""
    product: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    """What the teacher had made when it was settled, as JSON; None with the programmatic one."""
    calls: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    prompt_tokens: int = Field(default=0, sa_column=_counted())
    completion_tokens: int = Field(default=0, sa_column=_counted())
    cost: float = Field(default=0.0, sa_column_kwargs={"server_default": "0"})
    """By the configured prices, in their currency."""
    seconds: float = Field(default=0.0, sa_column_kwargs={"server_default": "0"})
    """Of waiting for models, summed over calls."""


class PersonaRow(SQLModel, table=True):
    """An imported persona; `body` is its JSON, `persona_id` the digest of it."""

    __tablename__: ClassVar[str] = "persona"
    __table_args__ = (UniqueConstraint("persona_set", "persona_id"),)

    ordinal: int | None = Field(
        default=None, sa_column=Column(_SERIAL, primary_key=True, autoincrement=True)
    )
    persona_set: str = Field(max_length=48)
    persona_id: str = Field(max_length=64)
    body: str = Field(sa_column=_text())


class ModelResponseRow(SQLModel, table=True):
    """An answer of a model server, so that a repeated call gives it again. Never changed."""

    __tablename__: ClassVar[str] = "model_response"

    role: str = Field(primary_key=True, max_length=16)
    key: str = Field(primary_key=True, max_length=64)
    """SHA-256 of the caller's key and of everything that was asked, in hexadecimal."""
    response: str = Field(sa_column=_text())
    """The text of the answer."""
    account: str = Field(default="", max_length=64, index=True)
    """What it was asked for first, such as a run; empty where nobody said."""
    calls: int
    """Calls that it took, repairs included."""
    prompt_tokens: int = Field(sa_column=_big())
    completion_tokens: int = Field(sa_column=_big())
    cost: float
    seconds: float
    created_at: int = Field(sa_column=_big())


class LedgerEntryRow(SQLModel, table=True):
    """An answer of a simulated tool. The first writer of a key wins; never changed."""

    __tablename__: ClassVar[str] = "ledger_entry"
    __table_args__ = (
        UniqueConstraint("task_id", "tool", "arguments_digest", "state_version"),
        Index("ix_ledger_entry_task", "task_id", "ordinal"),
    )

    ordinal: int | None = Field(
        default=None, sa_column=Column(_SERIAL, primary_key=True, autoincrement=True)
    )
    task_id: str = Field(max_length=64)
    tool: str = Field(max_length=64)
    arguments_digest: str = Field(max_length=64)
    """SHA-256 of the canonical arguments, in hexadecimal."""
    state_version: str = Field(max_length=32)
    arguments: str = Field(sa_column=_text())
    """Canonical JSON."""
    next_state_version: str = Field(max_length=32)
    ok: bool
    result: str = Field(sa_column=_text())
    error_code: str = Field(default="", max_length=64)
    source: str = Field(max_length=16)
    """"generated" or "semantic"."""
    match_reason: str = Field(default="", sa_column=_text())
    matched_arguments: str = Field(default="", sa_column=_text())
    created_at: int = Field(sa_column=_big())


class RequestRow(SQLModel, table=True):
    """A mutation that was answered: what was asked, by digest, and the answer's bytes."""

    __tablename__: ClassVar[str] = "request"

    method: str = Field(primary_key=True, max_length=128)
    request_id: str = Field(primary_key=True, max_length=64)
    request_digest: str = Field(max_length=64)
    response: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    """The response message. None where the answer is a stream that is stored elsewhere."""
    created_at: int = Field(sa_column=_big())


class RunRow(SQLModel, table=True):
    """A run: its specification and its tasks as JSON, and its state by lower-case name."""

    __tablename__: ClassVar[str] = "run"

    ordinal: int | None = Field(
        default=None, sa_column=Column(_SERIAL, primary_key=True, autoincrement=True)
    )
    run_id: str = Field(max_length=48, unique=True)
    spec: str = Field(sa_column=_text())
    spec_digest: str = Field(max_length=64)
    task_ids: str = Field(sa_column=_text())
    """The tasks that the selection gave when the run was created, in order, as a JSON array."""
    state: str = Field(max_length=16, index=True)
    created_at: int = Field(sa_column=_big())
    ended_at: int | None = Field(default=None, sa_column=_big(nullable=True))


class GroupRow(SQLModel, table=True):
    """The episodes of one task at one step. `step` is 0 in a run without steps."""

    __tablename__: ClassVar[str] = "episode_group"
    __table_args__ = (UniqueConstraint("run_id", "step", "ordinal"),)

    group_id: str = Field(primary_key=True, max_length=96)
    run_id: str = Field(foreign_key="run.run_id", max_length=48)
    step: int
    ordinal: int
    task_id: str = Field(foreign_key="task.task_id", max_length=64)


class EpisodeRow(SQLModel, table=True):
    """An episode: who acts on what, who holds its lease, and what came of it.

    `completion` numbers the ended episodes of a run from 1 in the order in which they ended.
    """

    __tablename__: ClassVar[str] = "episode"
    __table_args__ = (
        UniqueConstraint("run_id", "completion"),
        UniqueConstraint("group_id", "group_index"),
        Index("ix_episode_lease", "state", "lease_expires_at"),
    )

    trajectory_id: str = Field(primary_key=True, max_length=128)
    run_id: str = Field(foreign_key="run.run_id", max_length=48, index=True)
    group_id: str = Field(foreign_key="episode_group.group_id", max_length=96)
    group_index: int
    task_id: str = Field(foreign_key="task.task_id", max_length=64)
    split: str = Field(max_length=16)
    agent: str = Field(max_length=128)
    state: str = Field(max_length=16)
    """"pending", "running", "ended" or "cancelled"."""
    outcome: str | None = Field(default=None, max_length=16)
    """None until the episode has ended."""
    reward: float | None = None
    invalid_reason: str | None = Field(default=None, max_length=32)
    verdict: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    completion: int | None = Field(default=None, sa_column=_big(nullable=True))
    policy_tokens: int = Field(default=0, sa_column=_big())
    policy_version: int | None = Field(default=None, sa_column=_big(nullable=True))
    """Version that sampled first; None until a policy acted."""
    started_at: int | None = Field(default=None, sa_column=_big(nullable=True))
    ended_at: int | None = Field(default=None, sa_column=_big(nullable=True))
    lease_owner: str | None = Field(default=None, max_length=64)
    lease_expires_at: int = Field(sa_column=_big())
    """When it may be taken: a pending episode since it was admitted, a running one after its lease
    has ended. Episodes are taken in this order."""


class EventRow(SQLModel, table=True):
    """One event; `body` is its JSON. Written when it happens and never changed."""

    __tablename__: ClassVar[str] = "event"
    __table_args__ = (ForeignKeyConstraint(["trajectory_id"], ["episode.trajectory_id"]),)

    trajectory_id: str = Field(primary_key=True, max_length=128)
    sequence: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    kind: str = Field(max_length=8)
    body: str = Field(sa_column=_text())
    recorded_at: int = Field(sa_column=_big())


class SegmentRow(SQLModel, table=True):
    """A run of tokens from one source, in order."""

    __tablename__: ClassVar[str] = "segment"
    __table_args__ = (ForeignKeyConstraint(["trajectory_id"], ["episode.trajectory_id"]),)

    trajectory_id: str = Field(primary_key=True, max_length=128)
    ordinal: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    source: str = Field(max_length=16)
    token_ids: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    logprobs: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    policy_version: int = Field(default=0, sa_column=_big())


class BatchRow(SQLModel, table=True):
    """What a step trains on: trajectory ids as a JSON array, in batch order."""

    __tablename__: ClassVar[str] = "batch"

    run_id: str = Field(primary_key=True, foreign_key="run.run_id", max_length=48)
    step: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    batch_id: str = Field(max_length=96)
    trajectory_ids: str = Field(sa_column=_text())
    created_at: int = Field(sa_column=_big())


class PolicyRow(SQLModel, table=True):
    """A published version of a policy's weights."""

    __tablename__: ClassVar[str] = "policy"

    policy: str = Field(primary_key=True, max_length=128)
    version: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    weights_path: str = Field(sa_column=_text())
    weights_sha256: str = Field(max_length=64)
    published_at: int = Field(sa_column=_big())
