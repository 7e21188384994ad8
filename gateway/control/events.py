"""What happened, kept and passed on.

An event is appended to the store first and shown to watchers afterwards, so nothing that somebody
saw can be lost. Watchers hold no queues: each has a position, and reads on from the newest events
in memory or, when it is further back, from the store. So a slow watcher costs nothing, gets no gaps
and no duplicates, and one that the memory has run away from is told so (`Lagging`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.ports import Event, Store


@dataclass(frozen=True, slots=True)
class EventSettings:
    """Bounds of the event log."""

    recent: int = 1024
    """Events held in memory for watchers, and so how far one may fall behind while it watches: 1024
    are several minutes of a fleet that is restarting. Some 300 kB."""

    page: int = 500
    """Events read from the store at a time while a watcher catches up."""


class Lagging(Exception):
    """A watcher fell further behind than the memory reaches; `after` is where it may resume."""

    def __init__(self, after: int) -> None:
        super().__init__(f"the watcher fell behind after event {after}")
        self.after = after


class EventLog:
    """Append to the store, then wake the watchers. Shared by everything that has news."""

    def __init__(self, store: Store, settings: EventSettings | None = None) -> None:
        self._store = store
        self._settings = settings or EventSettings()
        self._recent: deque[Event] = deque(maxlen=self._settings.recent)
        self._grown = asyncio.Event()
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"EventLog(newest={self._recent[-1].seq if self._recent else None})"

    async def emit(self, type: str, model: str, message: str, **fields: Any) -> Event:
        """Keep and pass on one event. `fields` are JSON-able: `version`, `replica`, `reason`, ….

        Raises:
            Unavailable: the store cannot take it; nobody has seen it then.
        """
        return await self._keep(self._store, Event(type, model, message, fields))

    def through(self, store: Store) -> Callable[..., Awaitable[Event]]:
        """`emit` for one who may write through another door of the same store only (ports.Board's
        `fenced`)."""

        async def emit(type: str, model: str, message: str, **fields: Any) -> Event:
            return await self._keep(store, Event(type, model, message, fields))

        return emit

    async def _keep(self, store: Store, event: Event) -> Event:
        async with self._lock:  # so that the memory grows in the order of the numbers
            kept = await store.append(event)
            if self._recent and self._recent[-1].seq < kept.seq - 1:
                await self._read_on(kept.seq)  # another gateway, or a caller that was cancelled
            else:
                self._recent.append(kept)
        self.wake()
        return kept

    async def catch_up(self, newest: int) -> None:
        """Show what other gateways have stored, up to this number.

        Raises:
            Unavailable: the store does not answer.
        """
        async with self._lock:
            if self._recent and newest <= self._recent[-1].seq:
                return
            if newest:
                await self._read_on(newest)
        self.wake()

    async def _read_on(self, newest: int) -> None:
        if not self._recent:
            self._recent.extend(await self._store.events(limit=1))
        while self._recent and self._recent[-1].seq < newest:
            last = self._recent[-1].seq
            later = await self._store.events(after=last, limit=self._settings.page)
            if not later:
                return
            self._recent.extend(later)

    async def events(
        self, *, after: int = 0, model: str | None = None, limit: int = 1000
    ) -> Sequence[Event]:
        """As ports.Store."""
        return await self._store.events(after=after, model=model, limit=limit)

    async def newest(self) -> int:
        """The last number given out; 0 when there is none."""
        if self._recent:
            return self._recent[-1].seq
        last = await self._store.events(limit=1)
        return last[-1].seq if last else 0

    def reader(self, after: int) -> EventReader:
        """A reader of all events after a position, as they come."""
        return EventReader(self, after)

    def wake(self) -> None:
        """Let every waiting reader look up, for there is something else to notice."""
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    def growth(self) -> asyncio.Event:
        """Set at the next event; take it before looking, so that none falls in between."""
        return self._grown

    async def read(self, position: int, *, caught_up: bool) -> Sequence[Event]:
        """The next events after a position, from memory or else the store; empty if there are none.

        Raises:
            Lagging: the memory has run away from a reader that had caught up.
        """
        batch = self._from_memory(position)
        if batch is not None:
            return batch
        if caught_up and self._overtook(position):
            raise Lagging(position)
        if position:
            return await self._store.events(after=position, limit=self._settings.page)
        # To the store, 0 means "the newest"; a reader from 0 wants all that are kept.
        newest = await self._store.events(limit=1)
        return await self._store.events(limit=newest[-1].seq) if newest else []

    def _overtook(self, position: int) -> bool:
        full = len(self._recent) == self._recent.maxlen
        return full and self._recent[0].seq > position + 1

    def _from_memory(self, position: int) -> Sequence[Event] | None:
        """What follows a position, or None where the memory does not reach back without a hole
        (an emitter that was cancelled leaves its event in the store only)."""
        later = [e for e in self._recent if e.seq > position]
        if later:
            whole = later[0].seq == position + 1 and later[-1].seq - position == len(later)
            return later if whole else None
        return [] if self._recent else None


class EventReader:
    """One watcher's place in the log. `read` until it gives nothing, `wait`, and again.

    The first batch may begin later than `after + 1` when older events have been dropped; the
    numbers show it, for they have no holes.
    """

    def __init__(self, log: EventLog, after: int) -> None:
        self.position = after
        self._log = log
        self._growth = log.growth()
        self._caught_up = False

    def __repr__(self) -> str:
        return f"EventReader(position={self.position}, caught_up={self._caught_up})"

    async def read(self) -> Sequence[Event]:
        """The next events, oldest first; empty when there are no more yet. Raises Lagging."""
        self._growth = self._log.growth()
        batch = await self._log.read(self.position, caught_up=self._caught_up)
        if batch:
            self.position = batch[-1].seq
        else:
            self._caught_up = True
        return batch

    async def wait(self) -> None:
        """Wait until there may be more than the last `read` saw."""
        await self._growth.wait()
