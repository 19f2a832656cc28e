"""Why a call was not served from the cache: the reason, which the sums are split by, and what it is found out from.

There is no way back: sums that were split would have to be made anew.
"""

from __future__ import annotations

from hashlib import blake2b

import orjson
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

DIMENSIONS = "tenant key_id app surface endpoint provider model target outcome cache cache_reason"
NUMBERS = "size seen_ms sent_ms readable_ms until_ms ttl_ms"


def upgrade() -> None:
    for table, period in (("daily", "day"), ("rollups", "hour")):
        op.add_column(table, reason())
        rename_groups(table, period)
    op.add_column("calls", reason())
    op.add_column("calls", sa.Column("cache_reason_at", sa.Text))
    op.create_table(
        "fingerprints",
        sa.Column("call", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("kept_until_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "prefixes",
        *(sa.Column(name, sa.Text, primary_key=True) for name in ("hash", "tenant", "variant")),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("provider", "target", "headers", "call", "writer")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in NUMBERS.split()),
        sa.Column("kept_until_ms", sa.BigInteger, nullable=False),
    )
    for table in ("fingerprints", "prefixes"):
        op.create_index(f"{table}_kept_until_ms", table, ["kept_until_ms"])


def reason() -> sa.Column[str]:
    return sa.Column("cache_reason", sa.Text, nullable=False, server_default="")


def rename_groups(table: str, period: str) -> None:
    """A sum is found by the digest of all it is split by, which is one thing more from now on."""
    names = (period, *DIMENSIONS.split())
    sums = sa.table(table, *(sa.column(name) for name in ("id", "digest", *names)))
    connection = op.get_bind()
    digests = [
        {"of_id": id_, "new": blake2b(orjson.dumps(tuple(group)), digest_size=16).hexdigest()}
        for id_, *group in connection.execute(sa.select(sums.c.id, *(sums.c[name] for name in names)))
    ]
    if digests:
        statement = sa.update(sums).where(sums.c.id == sa.bindparam("of_id")).values(digest=sa.bindparam("new"))
        connection.execute(statement, digests)
