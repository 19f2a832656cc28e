"""Alembic's way in: runs the migrations on the connection it is handed. ``relay.ledger.database.migrate`` calls it."""

from __future__ import annotations

from alembic import context

from relay.ledger.tables import metadata

# SQLite too can take a table change back, as long as the transaction is ours.
context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
