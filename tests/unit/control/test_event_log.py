"""Readers of the event log see everything once, whatever they miss in between."""

from __future__ import annotations

import asyncio

import pytest

from gateway.control import EventLog, EventSettings
from gateway.control.events import Lagging
from gateway.domain.errors import Unavailable
from gateway.store import MemoryStore


async def drained(reader) -> list[int]:
    found: list[int] = []
    while batch := await reader.read():
        found += [e.seq for e in batch]
    return found


async def test_an_event_is_kept_before_it_is_shown():
    store = MemoryStore()
    log = EventLog(store)
    event = await log.emit("version.ready", "m", "words", version=3)
    assert list(await store.events()) == [event]
    assert event.fields == {"version": 3}
    assert await log.newest() == 1


async def test_a_reader_is_woken_by_each_event():
    log = EventLog(MemoryStore())
    reader = log.reader(0)
    seen: list[int] = []

    async def read() -> None:
        while len(seen) < 20:
            seen.extend(await drained(reader))
            await reader.wait()

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read())
        for i in range(20):
            await log.emit("t", "m", str(i))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        reading.cancel()
    assert seen == list(range(1, 21))


async def test_a_reader_that_starts_far_back_reads_the_store_and_then_the_memory():
    store = MemoryStore()
    log = EventLog(store, EventSettings(recent=4, page=3))
    for i in range(20):
        await log.emit("t", "m", str(i))
    reader = log.reader(5)
    assert await drained(reader) == list(range(6, 21))
    await log.emit("t", "m", "x")
    assert await drained(reader) == [21]


async def test_a_reader_from_zero_gets_all_that_are_kept():
    log = EventLog(MemoryStore(max_events=10), EventSettings(recent=2, page=3))
    for i in range(25):
        await log.emit("t", "m", str(i))
    assert await drained(log.reader(0)) == list(range(16, 26))


async def test_after_a_restart_the_store_is_the_memory():
    store = MemoryStore()
    await EventLog(store).emit("t", "m", "before")
    log = EventLog(store)
    assert await log.newest() == 1
    reader = log.reader(0)
    assert await drained(reader) == [1]
    await log.emit("t", "m", "after")
    assert await drained(reader) == [2]


async def test_a_reader_that_the_memory_ran_away_from_is_told_where_it_was():
    log = EventLog(MemoryStore(), EventSettings(recent=4))
    await log.emit("t", "m", "x")
    reader = log.reader(0)
    assert await drained(reader) == [1]
    for i in range(6):
        await log.emit("t", "m", str(i))
    with pytest.raises(Lagging) as caught:
        await reader.read()
    assert caught.value.after == 1
    assert await drained(log.reader(1)) == [2, 3, 4, 5, 6, 7]


async def test_an_emitter_that_was_cancelled_leaves_no_gap_for_readers():
    class SlowStore(MemoryStore):
        async def append(self, event):
            kept = await super().append(event)
            await asyncio.sleep(0)
            return kept

    log = EventLog(SlowStore())
    await log.emit("t", "m", "1")
    reader = log.reader(0)
    assert await drained(reader) == [1]
    async with asyncio.TaskGroup() as group:
        lost = group.create_task(log.emit("t", "m", "2"))
        await asyncio.sleep(0)
        lost.cancel()
    await log.emit("t", "m", "3")
    assert await drained(reader) == [2, 3]


async def test_many_emitters_keep_the_order():
    log = EventLog(MemoryStore())
    reader = log.reader(0)
    async with asyncio.TaskGroup() as group:
        for i in range(50):
            group.create_task(log.emit("t", "m", str(i)))
    assert await drained(reader) == list(range(1, 51))


# ---- several gateways on one store --------------------


async def test_what_another_gateway_stored_is_shown_in_order_and_once():
    store = MemoryStore()
    ours, theirs = EventLog(store), EventLog(store)
    await ours.emit("t", "m", "1")
    reader = ours.reader(0)
    assert await drained(reader) == [1]
    for i in (2, 3):
        await theirs.emit("t", "m", str(i))
    assert await drained(reader) == []
    growth = ours.growth()
    await ours.catch_up(3)
    assert growth.is_set()
    assert await drained(reader) == [2, 3]
    await theirs.emit("t", "m", "4")
    await ours.emit("t", "m", "5")  # brings the one before it along
    assert await drained(reader) == [4, 5]
    await ours.catch_up(5)
    assert await drained(reader) == []
    assert await ours.newest() == 5


async def test_a_gateway_that_has_just_started_begins_with_the_newest():
    store = MemoryStore()
    theirs = EventLog(store)
    for i in range(5):
        await theirs.emit("t", "m", str(i))
    ours = EventLog(store, EventSettings(recent=3, page=2))
    await ours.catch_up(5)
    assert await ours.newest() == 5
    assert await drained(ours.reader(2)) == [3, 4, 5]
    for i in range(9):
        await theirs.emit("t", "m", str(i))
    await ours.catch_up(14)
    assert await drained(ours.reader(5)) == list(range(6, 15))


async def test_events_go_through_the_door_that_is_given():
    inner, refused = MemoryStore(), MemoryStore()

    async def append(event):
        raise Unavailable("over", reason="not_leader")

    refused.append = append  # type: ignore[method-assign]
    log = EventLog(inner)
    await log.through(inner)("t", "m", "x", version=3)
    assert [e.fields for e in await inner.events()] == [{"version": 3}]
    with pytest.raises(Unavailable):
        await log.through(refused)("t", "m", "x")
    assert await drained(log.reader(0)) == [1]
