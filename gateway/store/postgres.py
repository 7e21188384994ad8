"""Everything that is true of PostgreSQL only: how long to wait for it, what its errors mean, news.

Every wait is bounded. A database whose machine has vanished sends no reset, so without the bounds
below the store's only thread would wait for minutes, and a leader that cannot renew its lease would
learn of it too late. A write is answered with 503 instead, and the next one connects anew.

NOTIFY reaches the other gateways at the moment of the commit. It is a wake-up and nothing else: a
lost one costs the time until the next look.
"""

from __future__ import annotations

import asyncio
from typing import Any

import sqlalchemy as sa

from gateway.domain.errors import GatewayError, Unavailable

CONNECT_S = 5
STATEMENT_S = 8.0
"""Longest time of connecting and of one statement; both far above what these tables need, and below
the ten seconds after which a leader without news of its lease stands down."""

_OPTIONS: dict[str, Any] = {
    "connect_timeout": CONNECT_S,
    # A dead peer is noticed in about as long as a statement may take.
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": int(STATEMENT_S * 1000),
    "application_name": "gateway",
}
_SESSION = f"-c statement_timeout={int(STATEMENT_S * 1000)} -c lock_timeout=5000"

CHANNEL = "gateway"

_MIGRATING = 0x67617465
"""Key of the advisory lock under which one gateway at a time migrates; `gate` in ASCII."""

_ANOTHER_PRIMARY = ("25006", "57P01", "57P02", "57P03")
"""read_only_sql_transaction (it has become a standby), admin_shutdown, crash_shutdown,
cannot_connect_now: it will be there again, or another in its place. The codes are in PostgreSQL's
manual, appendix A."""

_TRY_AGAIN = ("40001", "40P01", "53300", "55P03", "57014")
"""serialization_failure, deadlock_detected, too_many_connections, lock_not_available,
query_canceled (the statement's time was over)."""


def connect_args() -> dict[str, Any]:
    """What psycopg is to be called with."""
    return {**_OPTIONS, "options": _SESSION}


def lock_migration(connection: sa.Connection) -> None:
    """Wait for other gateways that migrate now; until the end of this transaction."""
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATING)))


def notify(connection: sa.Connection) -> None:
    """Wake all gateways once this transaction is committed."""
    connection.execute(sa.select(sa.func.pg_notify(CHANNEL, "")))


def translate(error: sa.exc.DBAPIError, where: str) -> GatewayError | None:
    """Our words for an error of PostgreSQL; None where it means nothing special."""
    state = getattr(error.orig, "sqlstate", None)
    text = str(error.orig).strip()
    if state in _TRY_AGAIN:
        return Unavailable(
            f"{where} is too busy: {text}. Nothing was changed.",
            reason="store_busy",
            retry_after_s=1.0,
        )
    if state == "42501":
        return Unavailable(
            f"{where} does not let this user in: {text}. The gateway's user must own its database.",
            reason="store_unwritable",
        )
    if state in _ANOTHER_PRIMARY or (state is None and isinstance(error, sa.exc.OperationalError)):
        return Unavailable(
            f"{where} does not answer: {text}", reason="store_unreachable", retry_after_s=2.0
        )
    return None


class Listener:
    """A connection of its own that hears NOTIFY; `heard` is set by each, and after every time that
    some may have been missed."""

    def __init__(self, url: sa.URL, heard: asyncio.Event) -> None:
        self._url = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._heard = heard
        self.is_listening = False

    def __repr__(self) -> str:
        return f"Listener(is_listening={self.is_listening})"

    async def run(self, retry_s: float) -> None:
        """Listen for ever; connect again after `retry_s`."""
        import psycopg

        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    self._url, autocommit=True, **_OPTIONS
                )
                async with connection:
                    await connection.execute(f"LISTEN {CHANNEL}".encode())
                    self.is_listening = True
                    self._heard.set()
                    async for _ in connection.notifies():
                        self._heard.set()
            except psycopg.Error:
                # Whoever uses the store says so; this one has nothing to add.
                pass
            finally:
                self.is_listening = False
            await asyncio.sleep(retry_s)
