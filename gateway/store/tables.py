"""Tables, and how an older database becomes a current one.

Migrations are functions, run in order inside one transaction with the bump of `schema_version`, so
a crash leaves the old schema or the new one. A database newer than this program is refused: an
older program could only lose what it does not know.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from gateway.domain.errors import Conflict

metadata = sa.MetaData()

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
"""`schema_version`, and `event_seq`: the last sequence number given out. The counter is a row that
each writer updates, and so locks until it commits: numbers have no holes and become visible in
their order, which a database sequence would not promise to readers that resume after one."""

models = sa.Table(
    "models",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("updated_at", sa.String(40), nullable=False),
    sa.Column("live_version", sa.BigInteger),
)

past_generations = sa.Table(
    "past_generations",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("generation", sa.BigInteger, nullable=False),
)
"""Where a deleted model's generations ended, so that a new model of that name goes on counting and
a writer who read the old one cannot take the new one for it."""

events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("model", sa.String(128), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("fields", sa.JSON, nullable=False),
    sa.Index("events_model_seq", "model", "seq"),
)


def _first_schema(connection: sa.Connection) -> None:
    """Version 1. Frozen once released; a later shape is a later migration."""
    metadata.create_all(connection)


MIGRATIONS: tuple[Callable[[sa.Connection], None], ...] = (_first_schema,)
SCHEMA_VERSION = len(MIGRATIONS)


def migrate(connection: sa.Connection, where: str) -> None:
    """Bring the database to SCHEMA_VERSION; call inside a transaction.

    Raises:
        Conflict: it was written by a newer program (`store_newer`), or has tables that are not ours
            (`store_foreign`).
    """
    names = set(sa.inspect(connection).get_table_names())
    if "meta" not in names:
        foreign = names & {t.name for t in metadata.sorted_tables}
        if foreign:
            raise Conflict(
                f"{where} already holds tables of something else ({', '.join(sorted(foreign))}). "
                "Give the gateway a database of its own.",
                reason="store_foreign",
            )
        found = 0
    else:
        row = connection.execute(
            sa.select(meta.c.value).where(meta.c.key == "schema_version")
        ).scalar_one_or_none()
        found = row or 0
    if found > SCHEMA_VERSION:
        raise Conflict(
            f"{where} was written by a newer gateway (schema {found}; this one knows "
            f"{SCHEMA_VERSION}). Run that version, or give this one another --state directory.",
            reason="store_newer",
        )
    for step in MIGRATIONS[found:]:
        step(connection)
    if found == 0:
        connection.execute(
            sa.insert(meta),
            [{"key": "schema_version", "value": SCHEMA_VERSION}, {"key": "event_seq", "value": 0}],
        )
    elif found < SCHEMA_VERSION:
        connection.execute(
            sa.update(meta).where(meta.c.key == "schema_version").values(value=SCHEMA_VERSION)
        )
