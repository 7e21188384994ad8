"""Other gateways' data planes, through what is heard of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
import pytest

from gateway.core.analysis import empty
from gateway.core.route import CANARY_SIDE, Canary, ModelRoute, RoutingTable, Target
from gateway.domain.agreement import AgreementTally, OutputTally
from gateway.domain.gateways import Beat, Heard
from gateway.domain.replicas import CANARY_GROUP, Endpoint
from gateway.lifecycle import SharedPlanes
from gateway.lifecycle.inherited import InheritingScheduler
from gateway.ports import Posting
from tests.parts.fakes_lifecycle import FakePlanes, FakeScheduler

pytestmark = pytest.mark.virtual_time

AT = Endpoint("h:1", "h:2", "h:3")


def route(*versions: int, live: int = 1, canary: Canary | None = None, replica: str = "m-aaaaa"):
    targets = {v: (Target(replica, AT),) for v in versions}
    return ModelRoute("m", live=live, targets=targets, canary=canary)


def table(*versions: int, **more) -> RoutingTable:
    return RoutingTable(1, {"m": route(*versions, **more)})


def heard(number: int, *, silent_s: float = 0.1, **more) -> Heard:
    return Heard(Beat(more.pop("name", "b"), "", "", number, **more), silent_s)


def shared() -> tuple[SharedPlanes, FakePlanes]:
    own = FakePlanes()
    return SharedPlanes(own, gone_s=15.0), own


USE = ("m", 1, "m-aaaaa")


def test_what_left_the_table_is_busy_until_every_gateway_took_a_later_one():
    planes, own = shared()
    planes.publish(table(1, 2))
    planes.heard([heard(1), heard(1, name="c")], confirmed=1)
    assert planes.busy() == set()
    planes.publish(table(2, live=2))
    assert own.table.models["m"].live == 2
    assert planes.busy() == {USE}
    planes.heard([heard(2), heard(1, name="c")], confirmed=2)
    assert planes.busy() == {USE}
    planes.heard([heard(2), heard(2, name="c")], confirmed=2)
    assert planes.busy() == set()


def test_it_is_busy_until_those_who_are_new_by_then_must_have_read_the_later_table():
    planes, _ = shared()
    planes.publish(table(1))
    planes.publish(table(2, live=2))
    # Nobody else is known; but who has joined since this pulse was sent may have read the first.
    planes.heard([], confirmed=1)
    assert planes.busy() == {USE}
    planes.heard([], confirmed=2)
    assert planes.busy() == set()


def test_requests_in_flight_anywhere_are_busy():
    planes, own = shared()
    planes.publish(table(1))
    planes.publish(table(2, live=2))
    planes.heard([heard(2, busy=(USE,))], confirmed=2)
    assert planes.busy() == {USE}
    own.hold("m", 1, "m-bbbbb")
    assert planes.busy() == {USE, ("m", 1, "m-bbbbb")}
    assert planes.used_replicas() == {"m-aaaaa", "m-bbbbb"}


def test_what_the_newest_table_names_again_is_not_busy():
    planes, _ = shared()
    planes.publish(table(1))
    planes.publish(table(2, live=2))
    planes.publish(table(1, 2))
    planes.heard([heard(0, busy=(USE,))], confirmed=0)
    assert planes.busy() == set()


def test_a_gateway_that_is_silent_or_has_left_is_not_waited_for():
    planes, _ = shared()
    planes.publish(table(1))
    planes.publish(table(2, live=2))
    planes.heard([heard(1, silent_s=14.0)], confirmed=2)
    assert planes.busy() == {USE}
    planes.heard([heard(1, silent_s=15.0), heard(0, name="c", has_left=True)], confirmed=2)
    assert planes.busy() == set()
    assert planes.living() == []


def test_a_gateway_that_joins_is_waited_for_before_it_has_read_anything():
    planes, _ = shared()
    planes.publish(table(1))
    planes.publish(table(2, live=2))
    planes.heard([heard(0)], confirmed=1)
    assert planes.busy() == {USE}


def test_tallies_are_of_all_gateways_in_the_window_of_the_table():
    planes, own = shared()
    canary = Canary(2, 0.5, window=7)
    planes.publish(table(1, 2, canary=canary))
    own.counted = {1: [1, *empty()[1:]]}
    theirs = {1: [2, *empty()[1:]], 2: [3, *empty()[1:]]}
    planes.heard(
        [
            heard(1, counted={"m": (7, theirs)}),
            heard(1, name="c", counted={"m": (6, theirs)}),
            # One that is gone has seen what it has seen.
            heard(1, name="d", silent_s=99.0, counted={"m": (7, theirs)}),
        ],
        confirmed=1,
    )
    found = planes.tallies("m")
    assert (found[1][0], found[2][0]) == (5, 6)
    assert planes.counted() == {"m": (7, {1: [1, *empty()[1:]]})}
    assert planes.tallies("n") == {}
    assert own.counted[1][0] == 1


def test_what_copies_have_shown_is_of_all_gateways_in_the_window_of_the_table():
    planes, own = shared()
    planes.publish(table(1, 2, canary=Canary(2, 0.5, window=7)))
    assert (planes.agreement("m"), planes.agreed()) == (None, {})
    theirs = AgreementTally(compared=2, outputs={"y": OutputTally(compared=2, flips=1.0)})
    planes.heard([heard(1, agreed={"m": (7, theirs)})], confirmed=1)
    assert planes.agreement("m") == theirs
    own.agreed = AgreementTally(compared=1, failed=1)
    planes.heard(
        [heard(1, agreed={"m": (7, theirs)}), heard(1, name="c", agreed={"m": (6, theirs)})],
        confirmed=1,
    )
    found = planes.agreement("m")
    assert (found.compared, found.failed, found.outputs["y"].flips) == (3, 1, 1.0)
    assert planes.agreed() == {"m": (7, AgreementTally(compared=1, failed=1))}
    assert planes.agreement("n") is None


def test_a_follower_answers_by_posts_and_keeps_what_they_do_not_name():
    planes, own = shared()
    assert planes.take({"m": Posting(route(1)), "n": Posting(route(3))}, 4)
    assert set(own.table.models) == {"m", "n"}
    assert planes.take({"n": Posting()}, 6)
    assert set(own.table.models) == {"m"}
    assert planes.number == 6
    assert not planes.take({}, 6)
    assert not planes.take({"m": Posting()}, 5)
    assert [t.generation for t in own.tables] == [1, 2]


def test_posts_of_views_alone_replace_no_table():
    planes, own = shared()
    planes.take({"m": Posting(route(1))}, 1)
    planes.take({"m": Posting(route(1))}, 2)
    assert (len(own.tables), planes.number) == (1, 2)


def test_after_a_term_everything_is_read_anew():
    planes, own = shared()
    planes.take({"m": Posting(route(1)), "n": Posting(route(3))}, 4)
    planes.publish(table(9, live=9))  # never stored: the term was over
    assert planes.number == 5
    planes.rewind()
    assert planes.number == 0
    assert own.table.models["m"].live == 9
    planes.take({"m": Posting(route(1)), "n": Posting(route(3))}, 5)
    assert own.table.models["m"].live == 1
    assert set(own.table.models) == {"m", "n"}


def test_a_post_is_numbered_after_every_table_that_it_shows():
    planes, _ = shared()
    planes.publish(table(1))
    planes.publish(table(1, 2))
    assert planes.numbered() == 3
    assert planes.published.is_set()


async def test_drained_returns_when_another_gateway_lets_go():
    planes, _ = shared()
    planes.publish(table(1))
    planes.publish(table(2, live=2))
    planes.heard([heard(1)], confirmed=2)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(planes.drained())
        await asyncio.sleep(0)
        planes.heard([heard(1)], confirmed=2)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        planes.heard([heard(2)], confirmed=2)
        await waiting


async def test_drained_returns_when_our_own_planes_let_go():
    planes, own = shared()
    planes.publish(table(1))
    own.hold("m", 5, "m-ccccc")
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(planes.drained())
        await asyncio.sleep(0)
        own.let_go()
        await waiting


# ---- autoscaling --------------------


def scaled() -> RoutingTable:
    return RoutingTable(1, {"m": replace(route(1), is_scaled=True)})


async def test_demand_is_of_all_gateways_and_never_falls():
    planes, own = shared()
    planes.publish(scaled())
    planes.heard([heard(1, demand={"m": (5.0, 3)}), heard(1, name="c", demand={"m": (1.0, 1)})], 1)
    first = planes.demand("m")
    assert (first.request_s, first.came) == (6.0, 4)
    # One is gone, the other was started anew and counts from nothing.
    planes.heard([heard(1, demand={"m": (0.5, 1)})], 1)
    second = planes.demand("m")
    assert (second.request_s, second.came) == (6.5, 5)
    planes.heard([heard(1, demand={})], 1)
    planes.heard([heard(1, demand={"m": (0.25, 1)})], 1)
    assert planes.demand("m").request_s == 6.75
    own.ask(2.0)
    assert planes.asked()["m"][1] == 1
    planes.publish(table(1))
    assert planes.asked() == {}


async def test_calls_of_our_own_planes_and_of_others_come_together():
    planes, own = shared()
    own.call("m")
    await planes.hear_calls()
    planes.call({"n"})
    assert set(await planes.called()) == {"m", "n"}
    assert planes.calls() == set()


APART = Target("m-ccccc", AT)


def sides(side: tuple[Target, ...] | None = (APART,)) -> RoutingTable:
    """A rollout of another template of version 1."""
    made = route(1, canary=Canary(1, 0.25, 7))
    return RoutingTable(1, {"m": replace(made, side=side)})


def test_followers_are_told_which_replicas_are_the_canarys_side():
    posting = Posting(sides().models["m"])
    told = msgspec.msgpack.Decoder(Posting).decode(msgspec.msgpack.encode(posting))
    planes, own = shared()
    assert planes.take({"m": told}, 3)
    assert own.table.models["m"] == sides().models["m"]
    assert planes.used_replicas() == {"m-aaaaa", "m-ccccc"}


def test_a_side_that_was_taken_back_is_busy_until_every_gateway_knows():
    planes, _ = shared()
    planes.publish(sides())
    planes.publish(table(1))
    planes.heard([heard(1)], confirmed=2)
    assert planes.busy() == {("m", 1, "m-ccccc")}
    planes.heard([heard(2)], confirmed=2)
    assert planes.busy() == set()


def test_counts_of_both_sides_are_of_all_gateways():
    planes, own = shared()
    planes.publish(sides())
    one = empty()
    one[1] = 1
    own.counted = {1: one, CANARY_SIDE: one}
    told = heard(1, counted={"m": (7, {1: one, CANARY_SIDE: one})})
    beat = msgspec.msgpack.Decoder(Beat).decode(msgspec.msgpack.encode(told.beat))
    planes.heard([replace(told, beat=beat)], confirmed=1)
    assert {v: sum(t) for v, t in planes.tallies("m").items()} == {1: 2, CANARY_SIDE: 2}


def test_a_successor_takes_what_is_not_proven_for_a_canarys_and_nothing_else():
    inherited = InheritingScheduler(FakeScheduler(), sides()).replicas()
    assert {r.id: r.group for r in inherited} == {"m-aaaaa": "", "m-ccccc": CANARY_GROUP}
