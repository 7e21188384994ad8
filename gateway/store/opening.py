"""From a state directory or a database URL to an open store."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from gateway.domain.errors import InvalidRequest, Unavailable
from gateway.store import sqlite
from gateway.store.memory import utc_now
from gateway.store.sql import SqlStore, StoreSettings


async def open_store(
    where: Path | str,
    settings: StoreSettings | None = None,
    now: Callable[[], datetime] = utc_now,
) -> SqlStore:
    """Open the store in a state directory (made if it is missing) or at a database URL.

    `sqlite:///PATH` and `postgresql+psycopg://…` are the URLs; a plain `postgresql://` means
    psycopg as well.

    Raises:
        InvalidRequest: a URL of a kind that is not offered (`bad_database_url`).
        Unavailable: the directory or the database cannot be written or reached.
        Conflict: a newer gateway wrote it.
        Internal: it is damaged.
    """
    if isinstance(where, str) and "://" in where:
        url = _checked(where)
    else:
        directory = Path(where)
        await asyncio.to_thread(_make, directory)
        url = sqlite.url_of(directory)
    store = SqlStore(url, settings or StoreSettings(), now)
    try:
        await store.open()
    except BaseException:
        await store.aclose()
        raise
    return store


def _make(directory: Path) -> None:
    try:
        # Sources and hooks of models are nobody else's business on a shared machine.
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(
            f"The state directory {directory} cannot be made ({error.strerror}). "
            "Give another one with --state.",
            reason="store_unwritable",
        ) from error


def _checked(url: str) -> str:
    scheme = url.partition("://")[0]
    if scheme == "postgresql":
        url = "postgresql+psycopg" + url[len(scheme) :]
    elif scheme not in ("sqlite", "postgresql+psycopg"):
        raise InvalidRequest(
            f"A database URL begins with sqlite:// or postgresql://, not {scheme}://.",
            reason="bad_database_url",
        )
    try:
        sa.make_url(url)
    except sa.exc.ArgumentError as error:
        # The URL itself is not repeated: it may hold a password.
        raise InvalidRequest(
            "The database URL cannot be read; it looks like postgresql://user@host:5432/database.",
            reason="bad_database_url",
        ) from error
    if not url.startswith("sqlite") and importlib.util.find_spec("psycopg") is None:
        raise InvalidRequest(
            "PostgreSQL needs its driver: pip install 'model-gateway[postgres]'.",
            reason="driver_missing",
        )
    return url
