"""What gateways tell each other, without a database: the fake of gateway/store/sharing.py.

One `Hub` is the database; each gateway has a `MemorySharing` of its own, which can be cut off from
it. It passes the same conformance suite (tests/conformance/test_sharing.py). Time is the loop's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.core.leadership import granted
from gateway.domain.errors import Unavailable
from gateway.domain.gateways import Beat, Heard, Lease, Order, Outcome
from gateway.ports import Posting, Pulse, Store
from gateway.store import MemoryStore
from gateway.store.sharing import not_leader


def _now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Hub:
    """What all gateways share."""

    store: MemoryStore = field(default_factory=MemoryStore)
    lease: Lease = field(default_factory=lambda: Lease("", 0))
    ends_at: float = 0.0
    beats: dict[str, tuple[Beat, float]] = field(default_factory=dict)
    postings: dict[str, tuple[int, Posting]] = field(default_factory=dict)
    posts: list[tuple[int, int, Mapping[str, Posting]]] = field(default_factory=list)
    """Each post with its epoch and number, in order."""
    orders: dict[int, Order] = field(default_factory=dict)
    taken: dict[int, int] = field(default_factory=dict)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    writes: list[tuple[int, str]] = field(default_factory=list)
    """Each fenced write that was let through, with its epoch."""
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def notify(self) -> None:
        news, self.news = self.news, asyncio.Event()
        news.set()

    def check(self, epoch: int) -> None:
        if self.lease.epoch != epoch:
            raise not_leader()


class _Fenced:
    """The store through a term's door."""

    def __init__(self, sharing: MemorySharing, epoch: int) -> None:
        self._sharing = sharing
        self._epoch = epoch

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            self._sharing.reach()
            hub = self._sharing.hub
            hub.check(self._epoch)
            if name not in ("models", "events"):
                hub.writes.append((self._epoch, name))
            return await getattr(hub.store, name)(*args, **kwargs)

        return call


class MemorySharing:
    """ports.Leases, Board and Orders of one gateway."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.is_cut = False

    def reach(self) -> None:
        if self.is_cut:
            raise Unavailable("cut off", reason="store_unreachable", retry_after_s=1.0)

    async def changed(self) -> None:
        try:
            async with asyncio.timeout(1.0):
                await self.hub.news.wait()
        except TimeoutError:
            return

    # ---- ports.Leases --------------------

    def _lease(self) -> Lease:
        return replace(self.hub.lease, remaining_s=self.hub.ends_at - _now())

    async def take(self, me: str, address: str, epoch: int | None, lease_s: float) -> Lease:
        self.reach()
        mine = granted(self._lease(), me, address, epoch, f"at {_now():.3f}")
        if mine is not None:
            self.hub.lease, self.hub.ends_at = mine, _now() + lease_s
        return self._lease()

    async def release(self, me: str, epoch: int) -> None:
        self.reach()
        if (self.hub.lease.holder, self.hub.lease.epoch) == (me, epoch):
            self.hub.lease, self.hub.ends_at = replace(self.hub.lease, holder=""), 0.0
            self.hub.notify()

    # ---- ports.Board --------------------

    async def beat(self, beat: Beat) -> Pulse:
        self.reach()
        hub = self.hub
        hub.beats[beat.gateway] = (beat, _now())
        if beat.has_left:
            hub.notify()
        new = {m: (n, p) for m, (n, p) in hub.postings.items() if n > beat.number}
        newest = await hub.store.events(limit=1)
        return Pulse(
            number=max((n for n, _ in new.values()), default=beat.number),
            postings={m: p for m, (_, p) in new.items()},
            gateways=[
                Heard(other, _now() - at)
                for name, (other, at) in sorted(hub.beats.items())
                if name != beat.gateway
            ],
            lease=self._lease(),
            newest_event=newest[-1].seq if newest else 0,
            has_orders=bool(hub.orders.keys() - hub.taken.keys()),
        )

    async def post(self, epoch: int, number: int, postings: Mapping[str, Posting]) -> None:
        self.reach()
        self.hub.check(epoch)
        self.hub.postings.update({m: (number, p) for m, p in postings.items()})
        self.hub.posts.append((epoch, number, dict(postings)))
        self.hub.notify()

    def fenced(self, epoch: int) -> Store:
        return _Fenced(self, epoch)  # type: ignore[return-value]

    # ---- ports.Orders --------------------

    async def give(self, order: Order) -> int:
        self.reach()
        number = max(self.hub.orders, default=0) + 1
        self.hub.orders[number] = replace(order, number=number)
        self.hub.notify()
        return number

    async def take_orders(self, epoch: int) -> Sequence[Order]:
        self.reach()
        self.hub.check(epoch)
        found = [o for n, o in sorted(self.hub.orders.items()) if n not in self.hub.taken]
        self.hub.taken.update({o.number: epoch for o in found})
        return found

    async def reply(self, epoch: int, number: int, outcome: Outcome) -> None:
        self.reach()
        if self.hub.taken.get(number) == epoch:
            self.hub.outcomes[number] = outcome
            self.hub.notify()

    async def outcome(self, number: int) -> Outcome | None:
        self.reach()
        return self.hub.outcomes.get(number)

    async def withdraw(self, number: int) -> bool:
        self.reach()
        is_free = number in self.hub.orders and number not in self.hub.taken
        if is_free:
            del self.hub.orders[number]
        return is_free
