"""Model backends: responses, ledger, personas, drafts, and the cost of synthesis."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Applies the change."""
    op.add_column(
        "task", sa.Column("teacher", sa.String(length=16), nullable=False, server_default="program")
    )
    op.add_column(
        "task", sa.Column("draft", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    for column in (
        sa.Column("route", sa.Text(), nullable=False, server_default="{}"),
        sa.Column("product", sa.Text(), nullable=True),
        sa.Column("calls", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("cost", sa.Float(), nullable=False, server_default="0"),
        sa.Column("seconds", sa.Float(), nullable=False, server_default="0"),
    ):
        op.add_column("synthesis_item", column)
    op.create_table(
        "persona",
        sa.Column("ordinal", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("persona_set", sa.String(length=48), nullable=False),
        sa.Column("persona_id", sa.String(length=64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("ordinal"),
        sa.UniqueConstraint("persona_set", "persona_id"),
    )
    op.create_table(
        "model_response",
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("calls", sa.Integer(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("role", "key"),
    )
    op.create_index("ix_model_response_account", "model_response", ["account"])
    op.create_table(
        "ledger_entry",
        sa.Column("ordinal", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("task_id", sa.String(length=64), nullable=False),
        sa.Column("tool", sa.String(length=64), nullable=False),
        sa.Column("arguments_digest", sa.String(length=64), nullable=False),
        sa.Column("state_version", sa.String(length=32), nullable=False),
        sa.Column("arguments", sa.Text(), nullable=False),
        sa.Column("next_state_version", sa.String(length=32), nullable=False),
        sa.Column("ok", sa.Boolean(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("match_reason", sa.Text(), nullable=False),
        sa.Column("matched_arguments", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("ordinal"),
        sa.UniqueConstraint("task_id", "tool", "arguments_digest", "state_version"),
    )
    op.create_index("ix_ledger_entry_task", "ledger_entry", ["task_id", "ordinal"])


def downgrade() -> None:
    """Takes the change back."""
    op.drop_index("ix_ledger_entry_task", "ledger_entry")
    op.drop_index("ix_model_response_account", "model_response")
    for table in ("ledger_entry", "model_response", "persona"):
        op.drop_table(table)
    for column in (
        "seconds",
        "cost",
        "completion_tokens",
        "prompt_tokens",
        "calls",
        "product",
        "route",
    ):
        op.drop_column("synthesis_item", column)
    op.drop_column("task", "draft")
    op.drop_column("task", "teacher")
