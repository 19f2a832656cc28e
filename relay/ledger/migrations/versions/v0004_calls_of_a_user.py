"""An application's own customers are found among a million calls."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_NAMED = sa.text('"user" IS NOT NULL')


def upgrade() -> None:
    op.create_index(
        "calls_user_started_ms_id",
        "calls",
        ["user", "started_ms", "id"],
        sqlite_where=_NAMED,
        postgresql_where=_NAMED,
    )


def downgrade() -> None:
    op.drop_index("calls_user_started_ms_id", "calls")
