"""Second calls, turns and rollouts together, in virtual time: whole fronts, replicas by hand.

Whatever happens to a request, it leaves nothing behind: no call in flight, no turn taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from gateway.codecs.pb import tfs_pb2
from gateway.core.hedge import Tail
from gateway.core.limits import LimitSettings
from gateway.core.retry import RetrySettings
from gateway.core.route import Canary, RoutingTable, Target
from gateway.dataplane import Dataplane, DataplaneSettings
from gateway.dataplane.front import GatewayFront
from gateway.domain.replicas import Endpoint
from gateway.telemetry import Metrics
from gateway.wire.exchange import RequestHead, ResponseHead, WireError
from tests.parts.fake_replica import table
from tests.parts.scripted_exchange import ScriptedExchange
from tests.parts.shadowed import framed
from tests.parts.virtual_loop import VirtualLoop, virtual_loop

HEDGE_S = 0.05
TARGETS = tuple(Target(n, Endpoint(f"{n}:1", f"{n}:2", "")) for n in "abc")
TFS = framed(tfs_pb2.PredictRequest(model_spec={"name": "m"}).SerializeToString())


class Call:
    """One call to one replica; what the test does not do does not happen."""

    is_congested = False

    def __init__(self, endpoint: Endpoint, sink) -> None:
        self.replica = endpoint.http[0]
        self.sink = sink
        self.is_open = True

    def cancel(self) -> None:
        self.is_open = False

    def answer(self, status: int = 200) -> None:
        self.is_open = False
        if status == 200:
            trailers = (("grpc-status", "0"),)
            self.sink.on_whole(ResponseHead(200, ()), framed(b""), trailers)
        else:
            self.sink.on_whole(ResponseHead(200, ()), b"", (("grpc-status", "14"),))

    def fail(self) -> None:
        self.is_open = False
        self.sink.on_failed(WireError("reset", "broken", sent=True))


class Replicas:
    """DirectUpstream: all calls that were ever made."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def begin(self, endpoint, method, path, fields, body, timeout_s, sink, *, length=None):
        self.calls.append(Call(endpoint, sink))
        return self.calls[-1]

    @property
    def open(self) -> list[Call]:
        return [call for call in self.calls if call.is_open]

    def keep(self, endpoints) -> None: ...

    async def aclose(self) -> None: ...


class Known(Tail):
    """Answers that take no time in here must not teach it otherwise."""

    def wait_s(self) -> float:
        return HEDGE_S


class World:
    """A data plane whose model is hedged after HEDGE_S, with so many turns."""

    def __init__(self, loop: VirtualLoop, turns: int = 100, **retry) -> None:
        self.loop = loop
        self.replicas = Replicas()
        settings = DataplaneSettings(
            # As it is for the whole of a test: nothing is learnt.
            limit=LimitSettings(initial=turns, least=1, window_s=1e9),
            retry=RetrySettings(**retry),
        )
        self.plane = Dataplane(
            settings,
            http=self.replicas,
            grpc=self.replicas,
            metrics=Metrics(),
            rng=Random(2),
        )
        self.front = GatewayFront(self.plane)
        self.publish()
        self.ask()
        self.replicas.open[0].answer()
        self.state = self.plane.states["m"]
        self.state.tail = Known(0.9)
        self.replicas.calls.clear()

    def publish(self, *targets: Target, **fields) -> RoutingTable:
        made = table(*(targets or TARGETS), hedge=0.9, **fields)
        self.plane.publish(made)
        return made

    def ask(self, timeout_s: float = 5.0) -> ScriptedExchange:
        fields = (
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-timeout", f"{int(timeout_s * 1000)}m"),
        )
        path = "/tensorflow.serving.PredictionService/Predict"
        exchange = ScriptedExchange(
            RequestHead("POST", path, fields, content_length=len(TFS), is_h2=True)
        )
        self.front.begin(exchange, TFS)
        return exchange

    @property
    def counts(self) -> tuple[int, int, int]:
        """Calls in flight, turns that are taken, requests that wait for one."""
        return (
            sum(self.plane.in_flight.by_replica.values()),
            self.state.turns.active,
            self.state.turns.queue.size,
        )

    def hedged(self, outcome: str) -> float:
        return self.plane.metrics.hedges_total.labels("m", outcome)._value.get()

    def is_clean(self) -> bool:
        flight = self.plane.in_flight
        return (
            self.counts == (0, 0, 0)
            and not flight.by_model
            and not flight._uses
            and not self.plane.waiting
            and not self.replicas.open
            and self.plane.held_bytes == 0
        )


def code(exchange: ScriptedExchange) -> str:
    return dict(exchange.trailers or exchange.fields)["grpc-status"]


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    with virtual_loop() as running:
        yield running


def test_a_second_call_takes_no_second_turn(loop):
    world = World(loop, turns=1)
    first, second = world.ask(), world.ask()
    assert world.counts == (1, 1, 1)
    loop.advance(HEDGE_S * 1.1)
    assert world.counts == (2, 1, 1)
    slow, fast = world.replicas.open
    fast.answer()
    assert code(first) == "0"
    assert not slow.is_open
    assert (world.hedged("won"), world.counts) == (1, (1, 1, 0))
    world.replicas.open[0].answer()
    assert code(second) == "0"
    assert world.is_clean()


def test_the_first_answer_gives_the_one_turn_back_once(loop):
    world = World(loop, turns=1)
    first = world.ask()
    loop.advance(HEDGE_S * 1.1)
    slow, _ = world.replicas.open
    slow.answer()
    assert (code(first), world.hedged("lost")) == ("0", 1)
    assert world.is_clean()


@pytest.mark.parametrize("waited_s", [0.0, HEDGE_S * 1.1])
def test_a_caller_who_leaves_ends_all_of_it_and_lets_the_next_one_in(loop, waited_s):
    world = World(loop, turns=1)
    first, second = world.ask(), world.ask()
    loop.advance(waited_s)
    before = list(world.replicas.open)
    assert len(before) == (2 if waited_s else 1)
    first.sink.on_gone("reset")
    assert not any(call.is_open for call in before)
    assert world.counts == (1, 1, 0)
    second.sink.on_gone("reset")
    assert world.is_clean()
    loop.advance(10.0)
    assert len(world.replicas.calls) == len(before) + 1, "a timer outlived its request"


def test_a_deadline_ends_both_calls(loop):
    world = World(loop, turns=1)
    first = world.ask(timeout_s=0.2)
    loop.advance(0.1)
    assert world.counts == (2, 1, 0)
    loop.advance(0.2)
    assert code(first) == "4"
    assert world.is_clean()


def test_who_waits_for_a_turn_is_not_hedged_for_it(loop):
    world = World(loop, turns=1)
    world.ask(timeout_s=60.0)
    world.publish(TARGETS[0])  # nowhere to hedge to, for now
    waiting = world.ask(timeout_s=60.0)
    loop.advance(HEDGE_S * 20)
    assert world.counts == (1, 1, 1)
    world.publish()
    world.replicas.open[0].answer()
    assert world.counts == (1, 1, 0)
    loop.advance(HEDGE_S * 0.9)
    assert world.counts == (1, 1, 0), "its time begins with its first call"
    loop.advance(HEDGE_S * 0.2)
    assert world.counts == (2, 1, 0)
    world.replicas.open[1].answer()
    assert code(waiting) == "0"
    assert world.is_clean()


def test_a_request_that_leaves_the_queue_leaves_nothing(loop):
    world = World(loop, turns=1)
    first, waiting = world.ask(), world.ask()
    waiting.sink.on_gone("reset")
    assert world.counts == (1, 1, 0)
    loop.advance(HEDGE_S * 1.1)
    for call in world.replicas.open[:1]:
        call.answer()
    assert code(first) == "0"
    assert world.is_clean()


def test_when_both_calls_break_it_is_tried_again_in_the_same_turn(loop):
    world = World(loop, turns=1)
    first, waiting = world.ask(), world.ask()
    loop.advance(HEDGE_S * 1.1)
    one, other = world.replicas.open
    one.fail()
    assert world.counts == (1, 1, 1)
    assert other.is_open
    other.fail()
    assert world.counts == (1, 1, 1)
    third = world.replicas.open[0]
    assert {one.replica, other.replica, third.replica} == set("abc")
    third.answer()
    assert code(first) == "0"
    world.replicas.open[0].answer()
    assert code(waiting) == "0"
    assert world.is_clean()


def test_a_second_call_that_fails_keeps_neither_turn_nor_call(loop):
    world = World(loop, turns=1)
    first = world.ask()
    loop.advance(HEDGE_S * 1.1)
    world.replicas.open[1].fail()
    assert (world.counts, world.hedged("failed")) == ((1, 1, 0), 1)
    world.replicas.open[0].answer()
    assert code(first) == "0"
    assert world.is_clean()


@pytest.mark.parametrize(("weight", "version"), [(0.999999, 2), (0.000001, 1)])
@pytest.mark.parametrize("end", ["second", "first", "broken", "gone"])
def test_a_hedged_request_stays_on_its_side_of_a_rollout_and_is_counted_once(
    loop, weight, version, end
):
    world = World(loop)
    world.publish(versions=(1, 2), live=1, canary=Canary(2, weight, 1))
    for _ in range(20):
        exchange = world.ask()
        loop.advance(HEDGE_S * 1.1)
        assert {use[1] for use in world.plane.in_flight._uses} == {version}
        assert world.counts == (2, 1, 0)
        first, second = world.replicas.open
        assert first.replica != second.replica
        if end == "gone":
            exchange.sink.on_gone("reset")
        else:
            if end == "broken":
                first.fail()
            (first if end == "first" else second).answer()
            assert dict(exchange.trailers)["x-gateway-version"] == str(version)
        assert world.is_clean()
    sums = {v: sum(t) for v, t in world.plane.tallies("m").items()}
    assert sums == {version: 20, 3 - version: 0}


def test_after_a_rollback_a_canarys_request_has_no_second_call_there(loop):
    world = World(loop)
    world.publish(versions=(1, 2), live=1, canary=Canary(2, 0.999999, 1))
    exchange = world.ask()
    world.publish(versions=(1, 2), live=1)
    loop.advance(HEDGE_S * 3)
    assert len(world.replicas.open) == 1, "another version's answer is no second chance of this one"
    world.replicas.open[0].fail()
    assert {use[1] for use in world.plane.in_flight._uses} == {1}
    world.replicas.open[0].answer()
    assert dict(exchange.trailers)["x-gateway-version"] == "1"
    assert world.is_clean()


def test_the_retry_budget_bounds_second_calls(loop):
    world = World(loop, budget_cap=2.0, budget_deposit=0.0)
    for _ in range(5):
        world.ask()
    loop.advance(HEDGE_S * 1.1)
    assert world.counts == (7, 5, 0)
    while world.replicas.open:
        world.replicas.open[0].answer()
    assert world.is_clean()


@pytest.mark.parametrize("seed", range(25))
def test_whatever_happens_nothing_is_left_behind(loop, seed):
    """Answers, failures, refusals, callers who leave, deadlines, rollouts and rollbacks."""
    rng = Random(seed)
    world = World(loop, turns=rng.randint(1, 6))
    exchanges: list[ScriptedExchange] = []
    window = 0
    for _ in range(300):
        match rng.randrange(8):
            case 0 | 1:
                exchanges.append(world.ask(timeout_s=rng.choice([0.03, 0.2, 5.0])))
            case 2 | 3 if world.replicas.open:
                rng.choice(world.replicas.open).answer()
            case 4 if world.replicas.open:
                rng.choice(world.replicas.open).fail()
            case 5 if world.replicas.open:
                rng.choice(world.replicas.open).answer(503)
            case 6 if exchanges:
                leaving = exchanges.pop(rng.randrange(len(exchanges)))
                if not leaving.is_complete:
                    leaving.sink.on_gone("reset")
            case 7:
                window += 1
                canary = rng.choice([None, Canary(2, 0.5, window)])
                world.publish(versions=(1, 2), live=1, canary=canary)
        loop.advance(rng.choice([0.0, 0.01, HEDGE_S]))
        assert world.state.turns.active <= world.state.turns.limit.value
        assert sum(world.plane.in_flight._uses.values()) == world.counts[0]
        assert len(world.replicas.open) == world.counts[0]
    loop.advance(30.0)
    assert world.is_clean()
    assert all(exchange.is_complete for exchange in exchanges)
