"""Everything that is true of SQLite only: pragmas, transactions, what its errors mean.

WAL lets readers go on beside the writer. `synchronous=FULL`, not NORMAL: in WAL mode NORMAL keeps
the file whole but may lose the last commits when the power fails, and a deploy that was answered
with 201 must still be there. The price is one fsync per commit, in the store's own thread, for a
few commits per second at most.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from gateway.domain.errors import GatewayError, Internal, Unavailable

BUSY_TIMEOUT_S = 5.0
"""How long a commit waits for another process's lock. Longer than any transaction of ours takes."""

FILE_NAME = "gateway.db"


def url_of(state_dir: Path) -> str:
    """The database's URL inside a state directory."""
    return f"sqlite:///{state_dir / FILE_NAME}"


def prepare(engine: sa.Engine) -> None:
    """Set up every connection of this engine and let SQLAlchemy begin transactions itself."""

    @sa.event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        # The driver begins transactions late and only before writes; autocommit here, and an
        # explicit BEGIN below, make reads and schema changes part of them too.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={int(BUSY_TIMEOUT_S * 1000)}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        # IMMEDIATE: a transaction that reads and then writes must not find, halfway, that another
        # has written in between (SQLITE_BUSY without waiting).
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def data_version(engine: sa.Engine) -> int | None:
    """A number that changes when another connection has committed something. Asked of the driver:
    SQLAlchemy would begin a transaction for it, which costs fifty times as much. None where that
    fails: the next transaction finds out why."""
    raw = engine.raw_connection()
    try:
        row = raw.cursor().execute("PRAGMA data_version").fetchone()
    except sqlite3.Error:
        return None
    finally:
        raw.close()
    return int(row[0])


def translate(error: sa.exc.DBAPIError, where: str) -> GatewayError | None:
    """Our words for an error of SQLite; None where it means nothing special."""
    if not isinstance(error.orig, sqlite3.Error):
        return None
    text = str(error.orig)
    if "locked" in text or "busy" in text:
        return Unavailable(
            f"{where} is locked by another process for more than {BUSY_TIMEOUT_S:g} s. "
            "Stop that process, or give this gateway another --state directory.",
            reason="store_locked",
            retry_after_s=1.0,
        )
    if "malformed" in text or "not a database" in text or "corrupt" in text:
        return Internal(
            f"{where} is damaged ({text}). Restore it from a backup, or move it away to begin "
            "with an empty one; the models must then be deployed again.",
            reason="store_corrupt",
        )
    if "full" in text:
        return Unavailable(
            f"{where} cannot grow: the disk is full. Free some space; nothing was changed.",
            reason="store_full",
            retry_after_s=5.0,
        )
    if "readonly" in text or "unable to open" in text or "disk I/O" in text:
        return Unavailable(
            f"{where} cannot be written ({text}). Check that the directory exists and that this "
            "user may write there.",
            reason="store_unwritable",
        )
    return None
