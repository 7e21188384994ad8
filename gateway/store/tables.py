"""Tables, and how an older database becomes a current one.

Migrations are functions, run in order inside one transaction with the bump of `schema_version`, so
a crash leaves the old schema or the new one. A database newer than this program is refused: an
older program could only lose what it does not know.
"""

from __future__ import annotations

import secrets
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
"""`schema_version`; `installation`, a random number that tells this database from all others; and
`event_seq`: the last sequence number given out. The counter is a row that
each writer updates, and so locks until it commits: numbers have no holes and become visible in
their order, which a database sequence would not promise to readers that resume after one."""

events_counter = meta.c.key == "event_seq"
installation = meta.c.key == "installation"

INSTALLATION_BITS = 48
"""Enough that no two of a cluster are ever the same, and short as a name."""

models = sa.Table(
    "models",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("updated_at", sa.String(40), nullable=False),
    sa.Column("live_version", sa.BigInteger),
    sa.Column("rollout", sa.JSON(none_as_null=True)),
    sa.Column("running", sa.JSON(none_as_null=True)),
)
"""`running`: the template of the model's own replicas (core/templates.py); null: the spec's own."""

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

LEASE = "reconcile"
"""The only one: who runs the reconcile loops."""

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(200), nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("address", sa.String(300), nullable=False),
    sa.Column("since", sa.String(40), nullable=False),
    sa.Column("ends_at", sa.Double, nullable=False),
)
"""One row, which is there from the beginning. Times here and in `gateways` are seconds of the
database's clock."""

gateways = sa.Table(
    "gateways",
    metadata,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("beat", sa.LargeBinary, nullable=False),
)

postings = sa.Table(
    "postings",
    metadata,
    sa.Column("model", sa.String(128), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("posting", sa.LargeBinary, nullable=False),
    sa.Index("postings_number", "number"),
)
"""What the leader makes known, a row for each model; that of a deleted one stays, empty, so that
whoever has missed its end still learns of it."""

orders = sa.Table(
    "orders",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("given_at", sa.Double, nullable=False),
    sa.Column("model", sa.String(128), nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("version", sa.BigInteger),
    sa.Column("taken_in", sa.BigInteger),
    sa.Column("outcome", sa.LargeBinary),
)
"""`taken_in`: the term of the leader who took it."""


def _first_schema(connection: sa.Connection) -> None:
    """Version 1. What later versions added is made with it; they then find it there."""
    metadata.create_all(connection)


def _with_rollouts(connection: sa.Connection) -> None:
    """Version 2: each model's newest rollout, beside its live version. `canary` in a spec, too,
    whose loss by an older gateway would send a new version to everybody at once."""
    _add_to_models(connection, "rollout")


def _add_to_models(connection: sa.Connection, column: str) -> None:
    if column not in {c["name"] for c in sa.inspect(connection).get_columns("models")}:
        connection.exec_driver_sql(f"ALTER TABLE models ADD COLUMN {column} JSON")


def _with_gateways(connection: sa.Connection) -> None:
    """Version 3: what several gateways tell each other. A gateway that knows nothing of a lease
    must not run beside others."""
    for table in (leases, gateways, postings, orders):
        table.create(connection, checkfirst=True)
    if connection.execute(sa.select(leases.c.name)).first() is None:
        nobody = {"holder": "", "epoch": 0, "address": "", "since": "", "ends_at": 0.0}
        connection.execute(sa.insert(leases), {"name": LEASE, **nobody})


def _with_a_number(connection: sa.Connection) -> None:
    """Version 4: by which what runs elsewhere for this database is known. A gateway that did not
    know it would take all that for another's."""
    if connection.execute(sa.select(meta.c.value).where(installation)).first() is None:
        number = secrets.randbits(INSTALLATION_BITS)
        connection.execute(sa.insert(meta), {"key": "installation", "value": number})


def _with_templates(connection: sa.Connection) -> None:
    """Version 5: what a model's own replicas run with, beside what was deployed. A gateway that did
    not know it would start them with what a rollout has yet to prove, or has taken back."""
    _add_to_models(connection, "running")


MIGRATIONS: tuple[Callable[[sa.Connection], None], ...] = (
    _first_schema,
    _with_rollouts,
    _with_gateways,
    _with_a_number,
    _with_templates,
)
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
