"""ports.Store over SQLAlchemy Core, on SQLite or PostgreSQL.

One thread of its own runs every statement, one transaction each, so the loop never waits for a
disk and no two transactions of this process compete. A caller that is cancelled leaves its
transaction to finish: it is then committed or not, never half.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from gateway.domain.errors import GatewayError, Internal, Unavailable
from gateway.domain.models import ModelRecord, ModelSpec
from gateway.domain.names import Version
from gateway.domain.rollouts import Rollout
from gateway.domain.templates import Template
from gateway.ports import Event
from gateway.store import postgres, sqlite
from gateway.store.encoding import (
    rollout_from_json,
    rollout_to_json,
    spec_from_json,
    spec_to_json,
    template_from_json,
    template_to_json,
)
from gateway.store.memory import model_exists, model_unknown, stale, stamp, utc_now
from gateway.store.tables import (
    events,
    events_counter,
    installation,
    meta,
    migrate,
    models,
    past_generations,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """What is kept."""

    max_events: int = 10_000
    """Events kept; the oldest beyond are dropped. Some 300 bytes each: 3 MB, weeks of a quiet
    gateway, a day of a busy one. The audit log is another thing and is never dropped."""


def _json_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


class SqlStore:
    """ports.Store in a database. Make it with `open_store`."""

    def __init__(
        self, url: str, settings: StoreSettings, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._settings = settings
        self._now = now
        self._engine = sa.create_engine(
            url,
            pool_size=1,
            max_overflow=0,
            pool_pre_ping=not url.startswith("sqlite"),
            connect_args={} if url.startswith("sqlite") else postgres.connect_args(),
            json_serializer=_json_text,
            json_deserializer=msgspec.json.decode,
        )
        self._where = f"The state database {self._engine.url.render_as_string(hide_password=True)}"
        self.is_postgres = self._engine.dialect.name == "postgresql"
        if not self.is_postgres:
            sqlite.prepare(self._engine)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gateway-store")
        self._check: Callable[[sa.Connection], None] | None = None
        self._known: dict[int, Sequence[ModelRecord]] = {}
        """The models, by SQLite's data version. Touched in the store's thread only; `checked`
        stores share it."""

    def __repr__(self) -> str:
        return f"SqlStore({self._engine.url.render_as_string(hide_password=True)!r})"

    @property
    def url(self) -> sa.URL:
        """Where the database is; with its password."""
        return self._engine.url

    def checked(self, check: Callable[[sa.Connection], None]) -> SqlStore:
        """The same store; `check` is called first in each transaction, and may refuse it."""
        other = copy(self)
        other._check = check
        return other

    async def open(self) -> None:
        """Connect and migrate.

        Raises:
            Unavailable: it is locked, not writable, or does not answer.
            Conflict: a newer program wrote it.
            Internal: it is damaged.
        """

        def work(connection: sa.Connection) -> None:
            if self.is_postgres:
                postgres.lock_migration(connection)
            migrate(connection, self._where)

        await self.run(work)

    async def aclose(self) -> None:
        """Finish what has begun, then close."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._engine.dispose)
        self._thread.shutdown(wait=False)

    async def installation(self) -> str:
        """What tells this database, and with it this installation, from all others; as a name."""
        query = sa.select(meta.c.value).where(installation)
        return f"gateway-{await self.run(lambda c: c.execute(query).scalar_one()):012x}"

    async def models(self) -> Sequence[ModelRecord]:
        """All models, by name. The reconcile loop asks at every turn, so those of SQLite are read
        again only when somebody has changed them."""
        if self.is_postgres or self._check is not None:
            return await self.run(_read_models, may_change_models=False)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._models_now)

    def _models_now(self) -> Sequence[ModelRecord]:
        version = sqlite.data_version(self._engine)
        if version is None or version not in self._known:
            found = self._transaction(_read_models)
            self._known.clear()
            if version is not None:
                self._known[version] = found
            return found
        return self._known[version]

    async def put(self, spec: ModelSpec, expected_generation: int | None) -> ModelRecord:
        """See ports.Store."""
        at = stamp(self._now())
        if expected_generation is None:
            return await self.run(lambda c: _create(c, spec, at))
        return await self.run(lambda c: _replace(c, spec, expected_generation, at))

    async def set_live(self, name: str, version: Version | None) -> None:
        """See ports.Store."""
        await self._set(name, live_version=version)

    async def set_running(self, name: str, running: Template) -> None:
        """See ports.Store."""
        await self._set(name, running=template_to_json(running))

    async def set_rollout(self, name: str, rollout: Rollout | None) -> None:
        """See ports.Store."""
        await self._set(name, rollout=rollout_to_json(rollout))

    async def _set(self, name: str, **values: Any) -> None:
        def write(connection: sa.Connection) -> None:
            change = sa.update(models).where(models.c.name == name).values(**values)
            if connection.execute(change).rowcount != 1:
                raise model_unknown(name)

        await self.run(write)

    async def delete(self, name: str, expected_generation: int | None = None) -> None:
        """See ports.Store."""
        await self.run(lambda c: _delete(c, name, expected_generation))

    async def append(self, event: Event) -> Event:
        """See ports.Store."""
        kept = replace(event, at=stamp(self._now()))

        def write(connection: sa.Connection) -> Event:
            made = _append(connection, kept, self._settings.max_events)
            self.notify(connection)
            return made

        return await self.run(write, may_change_models=False)

    async def events(
        self, *, after: int = 0, model: str | None = None, limit: int = 1000
    ) -> Sequence[Event]:
        """See ports.Store."""
        query = sa.select(events).where(events.c.seq > after).limit(limit)
        if model is not None:
            query = query.where(events.c.model == model)
        query = query.order_by(events.c.seq if after else events.c.seq.desc())

        def read(connection: sa.Connection) -> Sequence[Event]:
            found = [
                Event(r.type, r.model, r.message, r.fields, seq=r.seq, at=r.at)
                for r in connection.execute(query)
            ]
            return found if after else found[::-1]

        return await self.run(read, may_change_models=False)

    def notify(self, connection: sa.Connection) -> None:
        """Wake the other gateways when this transaction is committed, where that can be done."""
        if self.is_postgres:
            postgres.notify(connection)

    async def run(self, work: Callable[[sa.Connection], T], *, may_change_models: bool = True) -> T:
        """Run one transaction in the store's thread. For sharing.py."""

        def transaction() -> T:
            if may_change_models:
                self._known.clear()
            return self._transaction(work)

        return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)

    def _transaction(self, work: Callable[[sa.Connection], T]) -> T:
        try:
            with self._engine.begin() as connection:
                if self._check is not None:
                    self._check(connection)
                return work(connection)
        except sa.exc.DBAPIError as error:
            raise self._translate(error) from error

    def _translate(self, error: sa.exc.DBAPIError) -> GatewayError:
        translate = postgres.translate if self.is_postgres else sqlite.translate
        known = translate(error, self._where)
        if known is not None:
            return known
        if isinstance(error, sa.exc.OperationalError) or error.connection_invalidated:
            return Unavailable(
                f"{self._where} does not answer: {error.orig}",
                reason="store_unreachable",
                retry_after_s=2.0,
            )
        return Internal(f"{self._where} refused a statement: {error.orig}", reason="store_refused")


def _record(row: sa.Row[Any]) -> ModelRecord:
    return ModelRecord(
        spec_from_json(row.spec),
        row.generation,
        row.created_at,
        row.updated_at,
        row.live_version,
        rollout_from_json(row.rollout),
        template_from_json(row.running),
    )


def _read_models(connection: sa.Connection) -> Sequence[ModelRecord]:
    return [_record(r) for r in connection.execute(sa.select(models).order_by(models.c.name))]


def _generation(connection: sa.Connection, name: str) -> int | None:
    query = sa.select(models.c.generation).where(models.c.name == name)
    return connection.execute(query).scalar_one_or_none()


def _create(connection: sa.Connection, spec: ModelSpec, at: str) -> ModelRecord:
    if _generation(connection, spec.name) is not None:
        raise model_exists(spec.name)
    ended = connection.execute(
        sa.select(past_generations.c.generation).where(past_generations.c.name == spec.name)
    ).scalar_one_or_none()
    first, stored = (ended or 0) + 1, spec_to_json(spec)
    row = {
        "name": spec.name,
        "spec": stored,
        "generation": first,
        "created_at": at,
        "updated_at": at,
    }
    try:
        connection.execute(sa.insert(models), row)
    except sa.exc.IntegrityError as error:  # another gateway was a moment earlier
        raise model_exists(spec.name) from error
    return ModelRecord(spec_from_json(stored), first, at, at)


def _replace(connection: sa.Connection, spec: ModelSpec, expected: int, at: str) -> ModelRecord:
    change = (
        sa.update(models)
        .where(models.c.name == spec.name, models.c.generation == expected)
        .values(spec=spec_to_json(spec), generation=expected + 1, updated_at=at)
    )
    if connection.execute(change).rowcount != 1:
        raise stale(spec.name, expected, _generation(connection, spec.name) or 0)
    return _record(connection.execute(sa.select(models).where(models.c.name == spec.name)).one())


def _delete(connection: sa.Connection, name: str, expected: int | None) -> None:
    found = _generation(connection, name)
    if found is None:
        raise model_unknown(name)
    wanted = found if expected is None else expected
    gone = connection.execute(
        sa.delete(models).where(models.c.name == name, models.c.generation == wanted)
    )
    if gone.rowcount != 1:
        raise stale(name, wanted, _generation(connection, name) or 0)
    connection.execute(sa.delete(past_generations).where(past_generations.c.name == name))
    connection.execute(sa.insert(past_generations), {"name": name, "generation": found})


def _append(connection: sa.Connection, event: Event, keep: int) -> Event:
    connection.execute(sa.update(meta).where(events_counter).values(value=meta.c.value + 1))
    seq = connection.execute(sa.select(meta.c.value).where(events_counter)).scalar_one()
    row = {
        "seq": seq,
        "at": event.at,
        "type": event.type,
        "model": event.model,
        "message": event.message,
        "fields": dict(event.fields),
    }
    connection.execute(sa.insert(events), row)
    connection.execute(sa.delete(events).where(events.c.seq <= seq - keep))
    return replace(event, seq=seq)
