"""The ledger's tables, as the code sees them; ``migrations`` makes them, and a test holds the two together.

    calls     one row per provider call: everything its usage record says, and what it cost
    rollups   sums over the calls of one hour that agree in every dimension
    daily     sums over the rollups of one day (UTC) that do
    rejected  records that could not be read, kept aside for a person
    contents  what was asked and answered, one row per job that asked to have it kept, until it expires

and for a day or so, to find out why a call was not served from the cache (``reasons``):

    fingerprints  of the prompts of calls with breakpoints: a hash for each boundary, never a text
    prefixes      beginnings of prompts: the latest call that had it, and how long the provider keeps it

A row of ``calls`` is the record of a fact; the sums can be made from them again. Times are Unix milliseconds, hours and
days are counted from the epoch, money is nano-dollars. What follows from other columns is computed by the database.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Computed,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

HOUR_MS: Final = 3_600_000
DAY_HOURS: Final = 24

# What rollups are split by, besides the hour. ``cache`` is the call's cache result, see ``record``; ``cache_reason``:
# why it is no better one, see ``reasons``.
DIMENSIONS: Final = (
    "tenant",
    "key_id",
    "app",
    "surface",
    "endpoint",
    "provider",
    "model",
    "target",
    "outcome",
    "cache",
    "cache_reason",
)

TOKENS: Final = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
)

# Stored; the three below are computed from them.
MONEY: Final = ("billed_input", "read_savings", "write_premium", "output_cost", "fees")
DERIVED: Final = {
    "net_saved": "read_savings - write_premium",
    "baseline": "billed_input + read_savings - write_premium",
    "cost": "billed_input + output_cost + fees",
}

DURATIONS: Final = ("queue_ms", "first_event_ms", "total_ms")

# What a rollup sums up. ``unreported``: calls without token counts. ``unpriced``: calls with tokens, without a price.
# ``first_events``: calls that had a first event, to divide ``first_event_ms`` by.
MEASURES: Final = ("calls", "unreported", "unpriced", "first_events", *TOKENS, *MONEY, *DURATIONS)

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    }
)


# SQLite counts up by itself in a column of exactly this type only.
_ROW: Final = BigInteger().with_variant(Integer, "sqlite")


def _id() -> Column[int]:
    return Column("id", _ROW, primary_key=True)


def _texts(*names: str, nullable: bool = False) -> list[Column[str]]:
    return [Column(name, Text, nullable=nullable) for name in names]


def _numbers(*names: str, nullable: bool = False) -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=nullable) for name in names]


def _derived() -> list[Column[int]]:
    return [Column(name, BigInteger, Computed(formula, persisted=True)) for name, formula in DERIVED.items()]


def _sums(name: str, period: str, *more: Column[int]) -> Table:
    return Table(
        name,
        metadata,
        _id(),
        # Of period and dimensions: an index over eleven texts would be large, and PostgreSQL bounds its rows.
        *_texts("digest"),
        *_numbers(period),
        *more,
        *_texts(*DIMENSIONS),
        *_numbers(*MEASURES),
        *_derived(),
        UniqueConstraint("digest"),
        Index(None, period),
        Index(None, "tenant", period),
    )


_NAMED: Final = text('"user" IS NOT NULL')

daily = _sums("daily", "day")

rollups = _sums("rollups", "hour", Column("daily", _ROW, ForeignKey(daily.c.id), nullable=False))

calls = Table(
    "calls",
    metadata,
    _id(),
    # Begins with the job's id; compared byte by byte, its index finds the calls of a job as well.
    Column("call", Text().with_variant(Text(collation="C"), "postgresql"), nullable=False),
    *_numbers("v"),
    Column("rollup", _ROW, ForeignKey(rollups.c.id), nullable=False),
    *_texts("job"),
    *_numbers("generation", "attempt", nullable=True),
    *_texts(*DIMENSIONS),
    *_numbers("stream", "status", nullable=True),
    *_texts("kind"),
    *_texts("error", "stop_reason", "service_tier", nullable=True),
    *_numbers("started_ms"),
    *_numbers("ended_ms", *DURATIONS, *TOKENS, *MONEY, nullable=True),
    *_derived(),
    *_texts("price_source", "price_since", nullable=True),
    *_texts("cache_control", "cache_note", "usage_first", "usage_last", "user", "metadata", nullable=True),
    *_texts("cache_reason_at", "log", nullable=True),
    UniqueConstraint("call"),
    Index(None, "started_ms", "id"),
    Index(None, "tenant", "started_ms", "id"),
    Index(None, "rollup", "started_ms", "id"),
    # Most applications name no customers, and their calls pay nothing for it.
    Index("calls_user_started_ms_id", "user", "started_ms", "id", sqlite_where=_NAMED, postgresql_where=_NAMED),
)

rejected = Table(
    "rejected",
    metadata,
    Column("stream", Text, primary_key=True),
    Column("entry", Text, primary_key=True),  # its id in the stream
    *_texts("reason"),
    *_texts("fields"),  # JSON
)

fingerprints = Table(
    "fingerprints",
    metadata,
    Column("call", Text().with_variant(Text(collation="C"), "postgresql"), primary_key=True),
    *_texts("fingerprint"),
    *_numbers("kept_until_ms"),
    Index(None, "kept_until_ms"),
)

prefixes = Table(
    "prefixes",
    metadata,
    *(Column(name, Text, primary_key=True) for name in ("hash", "tenant", "variant")),
    # The variant spelled out; the newest call that began so, how many bytes that is, and when it was sent.
    *_texts("provider", "target", "headers", "call"),
    *_numbers("size", "seen_ms"),
    # Of the cache, as far as it is to be expected there, else empty: the call that wrote it, when that was sent, from
    # when to when it can be read, and the lifetime that each read renews.
    *_texts("writer"),
    *_numbers("sent_ms", "readable_ms", "until_ms", "ttl_ms"),
    *_numbers("kept_until_ms"),
    Index(None, "kept_until_ms"),
)

# The bodies come last: SQLite reads a row from its beginning.
contents = Table(
    "contents",
    metadata,
    Column("job", Text().with_variant(Text(collation="C"), "postgresql"), primary_key=True),
    *_texts("tenant", "state"),
    *_numbers("expires_ms"),
    Column("due_ms", BigInteger),  # when to look for it; null: it has been seen to
    *_numbers("status", "request_bytes", "response_bytes", nullable=True),
    Column("request", LargeBinary),
    Column("response", LargeBinary),
    Index(None, "expires_ms"),
    Index(None, "due_ms"),
)
