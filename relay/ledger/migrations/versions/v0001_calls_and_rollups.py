"""Calls, rollups and what could not be read.

Written out and not taken from ``tables``: a migration says what was made on its day.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
DIMENSIONS = "tenant key_id app surface endpoint provider model target outcome cache"
TOKENS = "input_tokens cache_read_tokens cache_write_5m_tokens cache_write_1h_tokens output_tokens reasoning_tokens"
MONEY = "billed_input read_savings write_premium output_cost fees"
DURATIONS = "queue_ms first_event_ms total_ms"
DERIVED = {
    "net_saved": "read_savings - write_premium",
    "baseline": "billed_input + read_savings - write_premium",
    "cost": "billed_input + output_cost + fees",
}


def texts(names: str, *, null: bool = False) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=null) for name in names.split()]


def numbers(names: str, *, null: bool = False) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=null) for name in names.split()]


def derived() -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, sa.Computed(formula, persisted=True)) for name, formula in DERIVED.items()]


def create_sums(name: str, period: str, *more: sa.Column[int]) -> None:
    op.create_table(
        name,
        sa.Column("id", ID, primary_key=True),
        *texts("digest"),
        *numbers(period),
        *more,
        *texts(DIMENSIONS),
        *numbers(f"calls unreported unpriced first_events {TOKENS} {MONEY} {DURATIONS}"),
        *derived(),
        sa.UniqueConstraint("digest", name=f"{name}_digest_key"),
    )
    op.create_index(f"{name}_{period}", name, [period])
    op.create_index(f"{name}_tenant_{period}", name, ["tenant", period])


def upgrade() -> None:
    create_sums("daily", "day")
    parent = sa.Column("daily", ID, sa.ForeignKey("daily.id", name="rollups_daily_fkey"), nullable=False)
    create_sums("rollups", "hour", parent)
    op.create_table(
        "calls",
        sa.Column("id", ID, primary_key=True),
        sa.Column("call", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False),
        *numbers("v"),
        sa.Column("rollup", ID, sa.ForeignKey("rollups.id", name="calls_rollup_fkey"), nullable=False),
        *texts("job"),
        *numbers("generation attempt", null=True),
        *texts(DIMENSIONS),
        *numbers("stream status", null=True),
        *texts("kind"),
        *texts("error stop_reason service_tier", null=True),
        *numbers("started_ms"),
        *numbers(f"ended_ms {DURATIONS} {TOKENS} {MONEY}", null=True),
        *derived(),
        *texts("price_source price_since", null=True),
        *texts("cache_control cache_note usage_first usage_last user metadata", null=True),
        sa.UniqueConstraint("call", name="calls_call_key"),
    )
    op.create_index("calls_started_ms_id", "calls", ["started_ms", "id"])
    op.create_index("calls_tenant_started_ms_id", "calls", ["tenant", "started_ms", "id"])
    op.create_index("calls_rollup_started_ms_id", "calls", ["rollup", "started_ms", "id"])
    op.create_table(
        "rejected",
        sa.Column("stream", sa.Text, primary_key=True),
        sa.Column("entry", sa.Text, primary_key=True),
        *texts("reason fields"),
    )


def downgrade() -> None:
    for table in ("rejected", "calls", "rollups", "daily"):
        op.drop_table(table)
