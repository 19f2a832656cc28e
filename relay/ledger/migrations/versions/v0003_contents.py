"""What calls asked to have kept of their content."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("calls", sa.Column("log", sa.Text))
    op.create_table(
        "contents",
        sa.Column("job", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sa.Column("due_ms", sa.BigInteger),
        *(sa.Column(name, sa.BigInteger) for name in ("status", "request_bytes", "response_bytes")),
        *(sa.Column(name, sa.LargeBinary) for name in ("request", "response")),
    )
    for name in ("expires_ms", "due_ms"):
        op.create_index(f"contents_{name}", "contents", [name])


def downgrade() -> None:
    op.drop_table("contents")
    op.drop_column("calls", "log")
