"""What the gateways of one database tell each other: ports.Leases, Board and Orders.

Everything is a row that is written and read in one short transaction. The database's clock alone
decides when a lease ends and how long a gateway has been silent. Fencing: each write of a leader
locks the lease's row against a change of hands until it is committed, and is refused if there has
been one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from gateway.core.leadership import granted
from gateway.domain.errors import Unavailable
from gateway.domain.gateways import Beat, Heard, Lease, Order, Outcome
from gateway.ports import Posting, Pulse, Store
from gateway.store.memory import stamp, utc_now
from gateway.store.postgres import Listener
from gateway.store.sql import SqlStore
from gateway.store.tables import LEASE, events_counter, gateways, leases, meta, orders, postings

HEARD_S = 1.0
"""Between two looks where NOTIFY tells of everything."""
POLL_S = 0.25
"""The same where it does not: a rollback that is found is on every gateway in a second all the
same."""
FORGOTTEN_S = 24 * 3600.0
"""After which the row of a gateway that is gone is deleted. What it had counted of a rollout's step
belongs to that step until then."""
ORDER_KEPT_S = 600.0

_pack = msgspec.msgpack.encode  # not JSON: views have infinities, and versions as keys
_beat = msgspec.msgpack.Decoder(Beat).decode
_posting = msgspec.msgpack.Decoder(Posting).decode
_outcome = msgspec.msgpack.Decoder(Outcome).decode


def not_leader() -> Unavailable:
    """Another gateway leads by now."""
    return Unavailable(
        "Another gateway leads by now; nothing was changed. Try again.",
        reason="not_leader",
        retry_after_s=1.0,
    )


class SqlSharing:
    """ports.Leases, ports.Board and ports.Orders in the database of a SqlStore."""

    def __init__(self, store: SqlStore, now: Callable[[], datetime] = utc_now) -> None:
        self._store = store
        self._now = now
        self._clock = _postgres_clock() if store.is_postgres else _sqlite_clock()
        self._news = asyncio.Event()
        self._listener = Listener(store.url, self._news) if store.is_postgres else None

    def __repr__(self) -> str:
        return f"SqlSharing({self._store!r})"

    async def listen(self) -> None:
        """Hear the others' news for ever. Without it everything is noticed a little later."""
        if self._listener is not None:
            await self._listener.run(retry_s=1.0)

    async def changed(self) -> None:
        """See ports.Board."""
        is_told = self._listener is not None and self._listener.is_listening
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARD_S if is_told else POLL_S):
                await self._news.wait()
        self._news.clear()

    # ---- ports.Leases --------------------

    async def take(self, me: str, address: str, epoch: int | None, lease_s: float) -> Lease:
        """See ports.Leases."""
        at = stamp(self._now())

        def work(connection: sa.Connection) -> Lease:
            row = connection.execute(
                sa.select(leases, self._clock).where(leases.c.name == LEASE).with_for_update()
            ).one()
            known = _lease(row)
            mine = granted(known, me, address, epoch, at)
            if mine is None:
                return known
            self._keep(connection, mine, lease_s)
            return Lease(mine.holder, mine.epoch, mine.address, mine.since, lease_s)

        return await self._store.run(work)

    def _keep(self, connection: sa.Connection, lease: Lease, lease_s: float) -> None:
        values = {
            "holder": lease.holder,
            "epoch": lease.epoch,
            "address": lease.address,
            "since": lease.since,
            "ends_at": self._clock + lease_s,
        }
        connection.execute(sa.update(leases).where(leases.c.name == LEASE).values(**values))

    async def release(self, me: str, epoch: int) -> None:
        """See ports.Leases."""

        def work(connection: sa.Connection) -> None:
            mine = (leases.c.name == LEASE, leases.c.holder == me, leases.c.epoch == epoch)
            connection.execute(sa.update(leases).where(*mine).values(holder="", ends_at=0.0))
            self._store.notify(connection)

        await self._store.run(work)

    # ---- ports.Board --------------------

    async def beat(self, beat: Beat) -> Pulse:
        """See ports.Board."""

        def work(connection: sa.Connection) -> Pulse:
            _upsert(
                connection,
                gateways,
                gateways.c.id == beat.gateway,
                {"id": beat.gateway},
                {"seen_at": self._clock, "beat": _pack(beat)},
            )
            if beat.has_left:
                self._store.notify(connection)
            return self._pulse(connection, beat)

        return await self._store.run(work)

    def _pulse(self, connection: sa.Connection, beat: Beat) -> Pulse:
        others = connection.execute(
            sa.select(gateways.c.beat, (self._clock - gateways.c.seen_at).label("silent_s"))
            .where(gateways.c.id != beat.gateway)
            .order_by(gateways.c.id)
        )
        new = connection.execute(sa.select(postings).where(postings.c.number > beat.number)).all()
        lease = connection.execute(
            sa.select(leases, self._clock).where(leases.c.name == LEASE)
        ).one()
        waiting = sa.select(orders.c.number).where(orders.c.taken_in.is_(None)).limit(1)
        return Pulse(
            number=max((row.number for row in new), default=beat.number),
            postings={row.model: _posting(row.posting) for row in new},
            gateways=[Heard(_beat(row.beat), row.silent_s) for row in others],
            lease=_lease(lease),
            newest_event=connection.execute(
                sa.select(meta.c.value).where(events_counter)
            ).scalar_one(),
            has_orders=connection.execute(waiting).first() is not None,
        )

    async def post(self, epoch: int, number: int, changes: Mapping[str, Posting]) -> None:
        """See ports.Board."""

        def work(connection: sa.Connection) -> None:
            _check(connection, epoch)
            for model, one in changes.items():
                values = {"number": number, "posting": _pack(one)}
                same = postings.c.model == model
                _upsert(connection, postings, same, {"model": model}, values)
            connection.execute(
                sa.delete(gateways).where(gateways.c.seen_at < self._clock - FORGOTTEN_S)
            )
            self._store.notify(connection)

        await self._store.run(work)

    def fenced(self, epoch: int) -> Store:
        """See ports.Board."""
        return self._store.checked(lambda c: _check(c, epoch))

    # ---- ports.Orders --------------------

    async def give(self, order: Order) -> int:
        """See ports.Orders."""

        def work(connection: sa.Connection) -> int:
            row = {"model": order.model, "action": order.action, "version": order.version}
            made = connection.execute(sa.insert(orders).values(given_at=self._clock, **row))
            self._store.notify(connection)
            return int(made.inserted_primary_key[0])  # type: ignore[index]

        return await self._store.run(work)

    async def take_orders(self, epoch: int) -> Sequence[Order]:
        """See ports.Orders."""

        def work(connection: sa.Connection) -> Sequence[Order]:
            _check(connection, epoch)
            old = orders.c.given_at < self._clock - ORDER_KEPT_S
            connection.execute(sa.delete(orders).where(old))
            untaken = orders.c.taken_in.is_(None)
            found = connection.execute(
                sa.select(orders).where(untaken).order_by(orders.c.number).with_for_update()
            ).all()
            numbers = [row.number for row in found]
            taken = sa.update(orders).where(orders.c.number.in_(numbers)).values(taken_in=epoch)
            connection.execute(taken)
            return [Order(r.model, r.action, r.version, r.number) for r in found]

        return await self._store.run(work)

    async def reply(self, epoch: int, number: int, outcome: Outcome) -> None:
        """See ports.Orders."""

        def work(connection: sa.Connection) -> None:
            mine = (orders.c.number == number, orders.c.taken_in == epoch)
            connection.execute(sa.update(orders).where(*mine).values(outcome=_pack(outcome)))
            self._store.notify(connection)

        await self._store.run(work)

    async def outcome(self, number: int) -> Outcome | None:
        """See ports.Orders."""
        query = sa.select(orders.c.outcome).where(orders.c.number == number)
        found = await self._store.run(lambda c: c.execute(query).scalar_one_or_none())
        return None if found is None else _outcome(found)

    async def withdraw(self, number: int) -> bool:
        """See ports.Orders."""
        untaken = sa.delete(orders).where(orders.c.number == number, orders.c.taken_in.is_(None))
        return await self._store.run(lambda c: c.execute(untaken).rowcount == 1)


def _check(connection: sa.Connection, epoch: int) -> None:
    """Refuse what a leader of another term wants."""
    query = sa.select(leases.c.epoch).where(leases.c.name == LEASE).with_for_update(read=True)
    if connection.execute(query).scalar_one() != epoch:
        raise not_leader()


def _upsert(
    connection: sa.Connection,
    table: sa.Table,
    same: sa.ColumnElement[bool],
    key: Mapping[str, Any],
    values: Mapping[str, Any],
) -> None:
    """For rows that one gateway at a time writes."""
    if connection.execute(sa.update(table).where(same).values(**values)).rowcount == 0:
        connection.execute(sa.insert(table).values(**key, **values))


def _lease(row: sa.Row[Any]) -> Lease:
    return Lease(row.holder, row.epoch, row.address, row.since, row.ends_at - row.clock)


def _postgres_clock() -> sa.Label[float]:
    return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double).label("clock")


def _sqlite_clock() -> sa.Label[float]:
    days = sa.func.julianday("now", type_=sa.Double)
    return ((days - 2440587.5) * 86400.0).label("clock")
