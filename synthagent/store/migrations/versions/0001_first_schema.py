"""First schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies the change."""
    op.create_table(
        "policy",
        sa.Column("policy", sa.String(length=128), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("weights_path", sa.Text(), nullable=False),
        sa.Column("weights_sha256", sa.String(length=64), nullable=False),
        sa.Column("published_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("policy", "version"),
    )
    op.create_table(
        "request",
        sa.Column("method", sa.String(length=128), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("response", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("method", "request_id"),
    )
    op.create_table(
        "run",
        sa.Column(
            "ordinal",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("run_id", sa.String(length=48), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("spec_digest", sa.String(length=64), nullable=False),
        sa.Column("task_ids", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("ordinal"),
        sa.UniqueConstraint("run_id"),
    )
    op.create_index("ix_run_state", "run", ["state"], unique=False)

    op.create_table(
        "synthesis_item",
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("attempt", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seed", sa.String(length=20), nullable=False),
        sa.Column("task_id", sa.String(length=64), nullable=True),
        sa.Column("gate", sa.String(length=32), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("request_id", "attempt"),
    )
    op.create_table(
        "task",
        sa.Column(
            "ordinal",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("task_id", sa.String(length=64), nullable=False),
        sa.Column("split", sa.String(length=16), nullable=False),
        sa.Column("domain", sa.String(length=255), nullable=False),
        sa.Column("difficulty", sa.String(length=255), nullable=False),
        sa.Column("instruction", sa.Text(), nullable=False),
        sa.Column("tool_count", sa.Integer(), nullable=False),
        sa.Column("fact_count", sa.Integer(), nullable=False),
        sa.Column("gold_step_count", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("admitted_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("ordinal"),
        sa.UniqueConstraint("task_id"),
    )
    op.create_index("ix_task_domain", "task", ["domain"], unique=False)
    op.create_index("ix_task_split", "task", ["split"], unique=False)

    op.create_table(
        "batch",
        sa.Column("run_id", sa.String(length=48), nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("batch_id", sa.String(length=96), nullable=False),
        sa.Column("trajectory_ids", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["run.run_id"],
        ),
        sa.PrimaryKeyConstraint("run_id", "step"),
    )
    op.create_table(
        "episode_group",
        sa.Column("group_id", sa.String(length=96), nullable=False),
        sa.Column("run_id", sa.String(length=48), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["run.run_id"],
        ),
        sa.ForeignKeyConstraint(
            ["task_id"],
            ["task.task_id"],
        ),
        sa.PrimaryKeyConstraint("group_id"),
        sa.UniqueConstraint("run_id", "step", "ordinal"),
    )
    op.create_table(
        "episode",
        sa.Column("trajectory_id", sa.String(length=128), nullable=False),
        sa.Column("run_id", sa.String(length=48), nullable=False),
        sa.Column("group_id", sa.String(length=96), nullable=False),
        sa.Column("group_index", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.String(length=64), nullable=False),
        sa.Column("split", sa.String(length=16), nullable=False),
        sa.Column("agent", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("reward", sa.Float(), nullable=True),
        sa.Column("invalid_reason", sa.String(length=32), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("completion", sa.BigInteger(), nullable=True),
        sa.Column("policy_tokens", sa.BigInteger(), nullable=False),
        sa.Column("policy_version", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("lease_owner", sa.String(length=64), nullable=True),
        sa.Column("lease_expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"],
            ["episode_group.group_id"],
        ),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["run.run_id"],
        ),
        sa.ForeignKeyConstraint(
            ["task_id"],
            ["task.task_id"],
        ),
        sa.PrimaryKeyConstraint("trajectory_id"),
        sa.UniqueConstraint("group_id", "group_index"),
        sa.UniqueConstraint("run_id", "completion"),
    )
    op.create_index("ix_episode_lease", "episode", ["state", "lease_expires_at"], unique=False)
    op.create_index("ix_episode_run_id", "episode", ["run_id"], unique=False)

    op.create_table(
        "event",
        sa.Column("trajectory_id", sa.String(length=128), nullable=False),
        sa.Column("sequence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["trajectory_id"],
            ["episode.trajectory_id"],
        ),
        sa.PrimaryKeyConstraint("trajectory_id", "sequence"),
    )
    op.create_table(
        "segment",
        sa.Column("trajectory_id", sa.String(length=128), nullable=False),
        sa.Column("ordinal", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("token_ids", sa.LargeBinary(), nullable=False),
        sa.Column("logprobs", sa.LargeBinary(), nullable=False),
        sa.Column("policy_version", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["trajectory_id"],
            ["episode.trajectory_id"],
        ),
        sa.PrimaryKeyConstraint("trajectory_id", "ordinal"),
    )


def downgrade() -> None:
    """Takes the change back."""
    op.drop_table("segment")
    op.drop_table("event")
    op.drop_index("ix_episode_run_id", "episode")
    op.drop_index("ix_episode_lease", "episode")

    op.drop_table("episode")
    op.drop_table("episode_group")
    op.drop_table("batch")
    op.drop_index("ix_task_split", "task")
    op.drop_index("ix_task_domain", "task")

    op.drop_table("task")
    op.drop_table("synthesis_item")
    op.drop_index("ix_run_state", "run")

    op.drop_table("run")
    op.drop_table("request")
    op.drop_table("policy")
