"""What gateways tell each other: the definition of ports.Leases, Board and Orders, run on the fake
and on both databases. `a` and `b` are two gateways on one database."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.core.route import Canary, ModelRoute, Target
from gateway.domain.agreement import AgreementTally, OutputTally
from gateway.domain.errors import FailedPrecondition, Unavailable, UpstreamFailed
from gateway.domain.gateways import Beat, Lease, Order, Outcome
from gateway.domain.models import Backend, ModelSpec, VersionState, VersionStatus
from gateway.domain.observed import ModelView, ReplicaView, VersionView
from gateway.domain.replicas import Endpoint, Replica, ReplicaState
from gateway.domain.rollouts import Finding, Phase, Rollout, RolloutView
from gateway.ports import Event, Posting, Store
from gateway.store import SqlSharing, open_store
from tests.parts.memory_sharing import Hub, MemorySharing

KINDS = ["memory", "sqlite", "postgres"]
LEASE_S = 30.0
"""Far longer than any test: what must end is given a short one."""

AT = Endpoint("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", speaks=("tfs-rest",))
FULL = Posting(
    ModelRoute(
        "m",
        live=2**63 - 1,
        targets={2**63 - 1: (Target("m-abcde", AT),), 3: ()},
        labels={"stable": 3},
        statuses=(VersionStatus(3, VersionState.FAILED, "é", 3),),
        hedge=0.95,
        canary=Canary(3, 0.05, 7 << 32, "x-user"),
    ),
    ModelView(
        "m",
        4,
        3,
        (VersionView(3, VersionState.READY, live=True, fetched_bytes=5),),
        (ReplicaView(Replica("m-abcde", "m", ReplicaState.LOADING, AT), ReplicaState.READY, (3,)),),
        rollout=RolloutView(Rollout(3, 2, Phase.PAUSED, (5.0,)), Finding(limit=math.inf)),
    ),
)
ROUTE = Posting(ModelRoute("m", live=1))


@dataclass
class Two:
    """Two gateways' doors to one database, and its store."""

    a: Any
    b: Any
    store: Store


@pytest.fixture(params=KINDS)
async def two(request, tmp_path) -> AsyncIterator[Two]:
    if request.param == "memory":
        hub = Hub()
        yield Two(MemorySharing(hub), MemorySharing(hub), hub.store)
        return
    is_sqlite = request.param == "sqlite"
    where = tmp_path if is_sqlite else request.getfixturevalue("postgres").database()
    first, second = await open_store(where), await open_store(where)
    yield Two(SqlSharing(first), SqlSharing(second), first)
    await first.aclose()
    await second.aclose()


def beat(gateway: str, number: int = 0, **more: Any) -> Beat:
    return Beat(gateway, f"{gateway}:8080", "", number, **more)


# ---- the lease --------------------


async def test_the_first_to_ask_gets_the_lease_and_the_second_hears_who_has_it(two):
    mine = await two.a.take("a", "a:8080", None, LEASE_S)
    assert (mine.holder, mine.epoch, mine.address) == ("a", 1, "a:8080")
    assert 0 < mine.remaining_s <= LEASE_S
    other = await two.b.take("b", "b:8080", None, LEASE_S)
    assert (other.holder, other.epoch, other.address, other.since) == (
        *("a", 1, "a:8080"),
        mine.since,
    )
    assert LEASE_S - 20 < other.remaining_s <= LEASE_S


async def test_a_renewal_keeps_the_term_and_its_beginning(two):
    first = await two.a.take("a", "x", None, LEASE_S)
    again = await two.a.take("a", "x", first.epoch, LEASE_S + 60)
    assert (again.epoch, again.since) == (first.epoch, first.since)
    assert (await two.b.take("b", "", None, LEASE_S)).remaining_s > LEASE_S


async def test_a_lease_that_ended_is_the_next_ones_with_a_higher_epoch(two):
    await two.a.take("a", "", None, 0.0)
    assert (await two.b.take("b", "", None, LEASE_S)).epoch == 2
    late = await two.a.take("a", "", 1, LEASE_S)
    assert (late.holder, late.epoch) == ("b", 2)


async def test_a_lease_that_ended_and_was_nobody_elses_is_renewed(two):
    await two.a.take("a", "", None, 0.0)
    again = await two.a.take("a", "", 1, LEASE_S)
    assert (again.holder, again.epoch) == ("a", 1)


async def test_a_late_renewal_of_a_released_term_takes_nothing(two):
    await two.a.take("a", "", None, LEASE_S)
    await two.a.release("a", 1)
    late = await two.a.take("a", "", 1, LEASE_S)
    assert late.holder == ""
    assert late.remaining_s <= 0


async def test_the_holder_after_a_restart_begins_a_new_term_at_once(two):
    await two.a.take("a", "", None, LEASE_S)
    again = await two.b.take("a", "", None, LEASE_S)
    assert (again.holder, again.epoch) == ("a", 2)


async def test_a_released_lease_is_free_and_only_its_holder_can_release_it(two):
    await two.a.take("a", "", None, LEASE_S)
    await two.b.release("b", 1)
    await two.b.release("a", 7)
    assert (await two.b.take("b", "", None, LEASE_S)).holder == "a"
    await two.a.release("a", 1)
    taken = await two.b.take("b", "", None, LEASE_S)
    assert (taken.holder, taken.epoch) == ("b", 2)


async def test_of_many_that_ask_at_once_one_gets_it(two):
    answers: list[Lease] = []

    async def ask(door: Any, name: str) -> None:
        answers.append(await door.take(name, "", None, LEASE_S))

    async with asyncio.TaskGroup() as tasks:
        for i in range(8):
            tasks.create_task(ask((two.a, two.b)[i % 2], f"g{i}"))
    assert len({(lease.holder, lease.epoch) for lease in answers}) == 1
    assert answers[0].epoch == 1


# ---- beats and posts --------------------


async def test_everybody_hears_what_the_others_said_last(two):
    use = ("m", 3, "m-abcde")
    counted = {"m": (7, {3: [0, 1], 2**63 - 1: [2]})}
    agreed = {"m": (7, AgreementTally(compared=2, outputs={"y": OutputTally(compared=2)}))}
    said = beat("a", 5, busy=(use,), counted=counted, agreed=agreed, has_left=True)
    await two.a.beat(beat("a", 1))
    await two.a.beat(said)
    (heard,) = (await two.b.beat(beat("b"))).gateways
    assert heard.beat == said
    assert 0 <= heard.silent_s < 20
    assert [h.beat.gateway for h in (await two.a.beat(said)).gateways] == ["b"]


async def test_what_was_posted_is_heard_whole_by_those_who_have_not_taken_it(two):
    await two.a.take("a", "", None, LEASE_S)
    await two.a.post(1, 1, {"m": FULL, "n": ROUTE})
    pulse = await two.b.beat(beat("b"))
    assert (pulse.number, dict(pulse.postings)) == (1, {"m": FULL, "n": ROUTE})
    await two.a.post(1, 4, {"n": Posting()})
    pulse = await two.b.beat(beat("b", 1))
    assert (pulse.number, dict(pulse.postings)) == (4, {"n": Posting()})
    pulse = await two.b.beat(beat("b", 4))
    assert (pulse.number, dict(pulse.postings)) == (4, {})
    assert pulse.lease.holder == "a"


async def test_a_pulse_tells_the_newest_event_and_whether_there_are_orders(two):
    pulse = await two.b.beat(beat("b"))
    assert (pulse.newest_event, pulse.has_orders, pulse.lease.holder) == (0, False, "")
    await two.store.append(Event("t", "m", "x"))
    await two.a.give(Order("m", "refresh"))
    pulse = await two.b.beat(beat("b"))
    assert (pulse.newest_event, pulse.has_orders) == (1, True)


async def test_news_wake_the_others(two):
    async def until_posted() -> None:
        while not (await two.b.beat(beat("b"))).postings:
            await two.b.changed()

    await two.a.take("a", "", None, LEASE_S)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(until_posted())
        await asyncio.sleep(0)
        await two.a.post(1, 1, {"m": ROUTE})
        await waiting


# ---- fencing --------------------


async def test_a_term_that_is_over_writes_and_reads_nothing(two):
    await two.a.take("a", "", None, LEASE_S)
    old = two.a.fenced(1)
    await old.put(ModelSpec("m", "s3://m", Backend.ONNX), None)
    await old.set_live("m", 1)
    await two.a.release("a", 1)
    await two.b.take("b", "", None, LEASE_S)
    for late in (
        lambda: old.set_live("m", 2),
        lambda: old.set_rollout("m", Rollout(2, 1)),
        lambda: old.append(Event("t", "m", "x")),
        lambda: old.models(),
        lambda: two.a.post(1, 9, {"m": ROUTE}),
        lambda: two.a.take_orders(1),
    ):
        with pytest.raises(Unavailable) as refused:
            await late()
        assert refused.value.reason == "not_leader"
    new = two.b.fenced(2)
    (record,) = await new.models()
    assert (record.live_version, record.rollout) == (1, None)
    assert list(await two.store.events()) == []
    await new.set_live("m", 3)
    assert (await two.store.models())[0].live_version == 3


async def test_what_people_want_needs_no_lease(two):
    await two.store.put(ModelSpec("m", "s3://m", Backend.ONNX), None)
    await two.store.append(Event("t", "m", "x"))
    assert len(await two.store.models()) == 1


# ---- orders --------------------


async def test_an_order_is_taken_once_and_its_outcome_is_told(two):
    await two.a.take("a", "", None, LEASE_S)
    first = await two.b.give(Order("m", "start", 2**63 - 1))
    second = await two.b.give(Order("m", "undo"))
    taken = await two.a.take_orders(1)
    assert [(o.model, o.action, o.version, o.number) for o in taken] == [
        ("m", "start", 2**63 - 1, first),
        ("m", "undo", None, second),
    ]
    assert list(await two.a.take_orders(1)) == []
    assert await two.b.outcome(first) is None
    rollout = Rollout(3, 2, Phase.PROGRESSING, (5.0, 25.0), 1, "é", rejected=(1,))
    await two.a.reply(1, first, Outcome(rollout))
    assert await two.b.outcome(first) == Outcome(rollout)
    error = FailedPrecondition("no", reason="no_rollout")
    await two.a.reply(1, second, Outcome.of_error(error))
    raised = (await two.b.outcome(second)).raised()
    assert (type(raised), raised.message, raised.reason) == (FailedPrecondition, "no", "no_rollout")


async def test_an_order_that_nobody_took_is_withdrawn_and_no_other(two):
    await two.a.take("a", "", None, LEASE_S)
    free, taken = await two.b.give(Order("m", "pause")), None
    assert await two.b.withdraw(free)
    assert not await two.b.withdraw(free)
    taken = await two.b.give(Order("m", "pause"))
    await two.a.take_orders(1)
    assert not await two.b.withdraw(taken)


async def test_a_reply_of_another_term_does_not_count(two):
    await two.a.take("a", "", None, 0.0)
    number = await two.b.give(Order("m", "pause"))
    await two.a.take_orders(1)
    await two.a.reply(2, number, Outcome(Rollout(2, 1)))
    assert await two.b.outcome(number) is None


def test_every_error_comes_out_as_it_went_in():
    error = UpstreamFailed("broken", reason="reset", sent=True)
    raised = Outcome.of_error(error).raised()
    assert (type(raised), raised.reason) == (UpstreamFailed, "reset")
    assert Outcome().raised() is None
