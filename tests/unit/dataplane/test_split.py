"""The split of a rollout through whole fronts, HTTP and gRPC, without sockets."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.core.route import CANARY_SIDE, Canary, RoutingTable, Target
from gateway.core.split import OVERRIDE
from gateway.dataplane import Dataplane, DataplaneSettings
from gateway.dataplane.front import GatewayFront
from gateway.domain.replicas import Endpoint
from gateway.telemetry import Metrics
from gateway.wire.exchange import RequestHead, ResponseHead, WireError
from tests.parts.fake_replica import table
from tests.parts.scripted_exchange import ScriptedExchange

A, B = (Target(n, Endpoint(f"{n}:1", f"{n}:2", "")) for n in "ab")
STICKY = "x-user"


class Call:
    """ClientExchange of a call that is answered by hand."""

    is_congested = False

    def cancel(self) -> None:
        return None


class HandUpstream:
    """DirectUpstream whose calls wait in `calls` until the test answers."""

    def __init__(self) -> None:
        self.calls = []

    def begin(self, endpoint, method, path, fields, body, timeout_s, sink, *, length=None):
        self.calls.append((endpoint, sink))
        return Call()

    def keep(self, endpoints) -> None:
        return None

    async def aclose(self) -> None:
        return None


class Gateway:
    """One gateway's data plane; `ask` goes through its front and returns who answered."""

    def __init__(self, seed: int) -> None:
        self.http, self.grpc = HandUpstream(), HandUpstream()
        self.plane = Dataplane(
            DataplaneSettings(),
            http=self.http,
            grpc=self.grpc,
            metrics=Metrics(),
            rng=Random(seed),
        )
        self.front = GatewayFront(self.plane)

    def ask(self, protocol: str, *fields: tuple[str, str], answer: int = 200) -> int:
        return self.answered(self.begun(protocol, *fields), protocol, answer)

    def begun(self, protocol: str, *fields: tuple[str, str]) -> ScriptedExchange:
        path, body = {
            "http": ("/v1/models/m:predict", b"{}"),
            "v2-http": ("/v2/models/m/infer", b"{}"),
            "http-v1": ("/v1/models/m/versions/1:predict", b"{}"),
            "http-stable": ("/v1/models/m/labels/stable:predict", b"{}"),
            "http-canary": ("/v1/models/m/labels/canary:predict", b"{}"),
            "grpc": ("/tensorflow.serving.PredictionService/Predict", TFS),
            "v2-grpc": ("/inference.GRPCInferenceService/ModelInfer", V2),
        }[protocol]
        if "grpc" in protocol:
            fields = (("content-type", "application/grpc"), ("te", "trailers"), *fields)
        head = RequestHead("POST", path, fields, content_length=len(body), is_h2=True)
        exchange = ScriptedExchange(head)
        self.front.begin(exchange, body)
        return exchange

    def answered(self, exchange: ScriptedExchange, protocol: str, status: int) -> int:
        if "grpc" in protocol:
            _, sink = self.grpc.calls.pop()
            code = "0" if status == 200 else "13"
            sink.on_whole(ResponseHead(200, ()), b"\0\0\0\0\0", (("grpc-status", code),))
            return int(dict(exchange.trailers)["x-gateway-version"])
        _, sink = self.http.calls.pop()
        sink.on_whole(ResponseHead(status, ()), b"{}", ())
        return int(dict(exchange.fields)["x-gateway-version"])


def _framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


TFS = _framed(tfs_pb2.PredictRequest(model_spec={"name": "m"}).SerializeToString())
V2 = _framed(oip_pb2.ModelInferRequest(model_name="m").SerializeToString())
PROTOCOLS = ("http", "grpc", "v2-http", "v2-grpc")


def at(weight: float, *targets: Target, window: int = 1) -> RoutingTable:
    return table(
        *(targets or (A, B)),
        versions=(1, 2),
        live=1,
        canary=Canary(2, weight, window, STICKY),
        labels={"stable": 1, "canary": 2},
    )


def sides(weight: float, *apart: Target, window: int = 1) -> RoutingTable:
    """Version 1 on A, and on these under another template."""
    made = table(
        A, live=1, canary=Canary(1, weight, window, STICKY), labels={"stable": 1, "canary": 1}
    )
    return replace(made, models={"m": replace(made.models["m"], side=apart)})


MANY = pytest.param(100_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])


@pytest.mark.slow
@pytest.mark.parametrize("users", [4000, MANY])
async def test_no_user_flips_back_over_three_gateways_and_all_protocols(users):
    gateways, rng = [Gateway(seed) for seed in range(3)], Random(9)
    had_canary, shares = set(), []
    for step, weight in enumerate((0.05, 0.25, 0.50)):
        for gateway in gateways:
            gateway.plane.publish(at(weight, window=step))
        now = {
            user
            for user in range(users)
            if rng.choice(gateways).ask(rng.choice(PROTOCOLS), (STICKY, f"user-{user}")) == 2
        }
        assert had_canary <= now, "somebody was sent back"
        had_canary = now
        shares.append(len(now) / users)
    assert shares == pytest.approx([0.05, 0.25, 0.50], abs=0.03)


async def test_the_same_key_is_on_the_same_side_everywhere_again_and_again():
    gateways = [Gateway(seed) for seed in range(3)]
    for gateway in gateways:
        gateway.plane.publish(at(0.3))
    for user in range(50):
        field = (STICKY, f"u{user}")
        assert len({g.ask(p, field) for g in gateways for p in PROTOCOLS for _ in range(2)}) == 1


async def test_another_sticky_field_of_the_table_is_read_at_once():
    gateway = Gateway(1)
    fields = [(STICKY, "same-for-all"), ("x-other", "")]
    gateway.plane.publish(at(0.5))
    assert len({gateway.ask("http", *fields) for _ in range(20)}) == 1
    model = at(0.5).models["m"]
    other = Canary(2, 0.5, 1, "x-other")
    gateway.plane.publish(RoutingTable(2, {"m": type(model)(
        "m", live=1, canary=other, targets=model.targets)}))  # fmt: skip
    assert len({gateway.ask("http", *fields) for _ in range(40)}) == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_testers_choose_a_side_and_are_not_counted(protocol):
    gateway = Gateway(1)
    gateway.plane.publish(at(0.05))
    for side, version in (("canary", 2), ("stable", 1)):
        for user in range(10):
            assert gateway.ask(protocol, (OVERRIDE, side), (STICKY, str(user))) == version
    assert {v: sum(t) for v, t in gateway.plane.tallies("m").items()} == {1: 0, 2: 0}


@pytest.mark.parametrize(("asked", "version"), [("v1", 1), ("stable", 1), ("canary", 2)])
async def test_who_names_a_version_or_label_gets_it_and_is_not_counted(asked, version):
    gateway = Gateway(1)
    gateway.plane.publish(at(0.999))
    assert {gateway.ask(f"http-{asked}", (STICKY, str(i))) for i in range(20)} == {version}
    assert {v: sum(t) for v, t in gateway.plane.tallies("m").items()} == {1: 0, 2: 0}


async def test_answers_are_counted_by_version_and_window():
    gateway = Gateway(1)
    gateway.plane.publish(at(0.5))
    by = {1: 0, 2: 0}
    for i in range(60):
        by[gateway.ask(PROTOCOLS[i % 4], answer=500 if i % 3 == 0 else 200)] += 1
    tallies = gateway.plane.tallies("m")
    assert {v: sum(t) for v, t in tallies.items()} == by
    assert tallies[1][0] + tallies[2][0] == 20
    gateway.plane.publish(at(0.5))
    assert gateway.plane.tallies("m") == tallies
    gateway.plane.publish(at(0.5, window=2))
    assert sum(map(sum, gateway.plane.tallies("m").values())) == 0
    gateway.plane.publish(table(A, B))
    assert gateway.plane.tallies("m") == {}


async def test_a_canary_that_answers_nobody_is_counted_as_failing_and_leavers_as_waiting():
    gateway = Gateway(1)
    gateway.plane.publish(at(0.999))
    exchange = gateway.begun("http")
    gateway.http.calls.pop()
    exchange.sink._asked._too_late()
    assert exchange.status == 504
    assert gateway.plane.tallies("m")[2][0] == 1
    exchange = gateway.begun("http")
    exchange.sink.on_gone("reset")
    tally = gateway.plane.tallies("m")[2]
    assert (tally[0], sum(tally)) == (1, 2)


@pytest.mark.parametrize("weight", [0.001, 0.999])
async def test_a_retry_stays_on_its_side(weight):
    gateway = Gateway(4)
    gateway.plane.publish(at(weight))
    for _ in range(20):
        exchange = gateway.begun("http")
        first, sink = gateway.http.calls.pop()
        sink.on_failed(WireError("reset", "broken", sent=True))
        second, _ = gateway.http.calls[-1]
        assert first != second
        assert gateway.answered(exchange, "http", 200) == (1 if weight < 0.5 else 2)


async def test_a_retry_follows_a_rollback():
    gateway = Gateway(4)
    gateway.plane.publish(at(0.999))
    exchange = gateway.begun("http")
    _, sink = gateway.http.calls.pop()
    gateway.plane.publish(table(A, B))
    sink.on_failed(WireError("reset", "broken", sent=True))
    assert gateway.answered(exchange, "http", 200) == 1


# ---- two sides of one version --------------------


def asked(gateway: Gateway, protocol: str, *fields: tuple[str, str], status: int = 200) -> str:
    """The replica that was asked."""
    exchange = gateway.begun(protocol, *fields)
    calls = gateway.grpc.calls if "grpc" in protocol else gateway.http.calls
    endpoint = calls[-1][0]
    assert gateway.answered(exchange, protocol, status) == 1
    return endpoint.http[0]


async def test_a_caller_keeps_its_side_of_one_version_everywhere_as_weight_grows():
    gateways, had = [Gateway(seed) for seed in range(3)], set()
    for step, weight in enumerate((0.05, 0.25, 0.5)):
        for gateway in gateways:
            gateway.plane.publish(sides(weight, B, window=step))
        now = set()
        for user in range(200):
            found = {asked(g, p, (STICKY, f"u{user}")) for g in gateways for p in PROTOCOLS}
            assert len(found) == 1
            now |= {user} if found == {"b"} else set()
        assert had <= now
        had = now
    assert 60 < len(had) < 140


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_answers_are_counted_by_the_replica_that_gave_them(protocol):
    gateway = Gateway(1)
    gateway.plane.publish(sides(0.5, B))
    by = {"a": 0, "b": 0}
    for i in range(60):
        by[asked(gateway, protocol, status=500 if i % 3 == 0 else 200)] += 1
    for side in ("canary", "stable"):
        assert asked(gateway, protocol, (OVERRIDE, side)) == ("b" if side == "canary" else "a")
    tallies = gateway.plane.tallies("m")
    assert {v: sum(t) for v, t in tallies.items()} == {1: by["a"], CANARY_SIDE: by["b"]}
    assert tallies[1][0] + tallies[CANARY_SIDE][0] == 20


async def test_a_canary_that_is_replaced_keeps_its_count_and_one_that_is_gone_leaves_its_share():
    gateway = Gateway(1)
    gateway.plane.publish(sides(0.999, B))
    exchange = gateway.begun("http")
    gateway.plane.publish(sides(0.999))
    assert gateway.answered(exchange, "http", 200) == 1
    assert gateway.plane.busy() == set()
    assert asked(gateway, "http") == "a"
    other = Target("c", Endpoint("c:1", "c:2", ""))
    gateway.plane.publish(sides(0.999, other))
    assert asked(gateway, "http") == "c"
    assert {v: sum(t) for v, t in gateway.plane.tallies("m").items()} == {1: 1, CANARY_SIDE: 2}


async def test_what_is_under_way_at_a_side_that_was_taken_back_is_busy_until_it_ends():
    gateway = Gateway(1)
    gateway.plane.publish(sides(0.999, B))
    exchange = gateway.begun("http")
    gateway.plane.publish(table(A, live=1))
    assert gateway.plane.busy() == {("m", 1, "b")}
    assert gateway.answered(exchange, "http", 200) == 1
    assert gateway.plane.busy() == set()


@pytest.mark.parametrize("path", ["http-v1", "http-stable", "http-canary"])
async def test_who_names_a_label_gets_that_side_and_who_names_the_version_what_is_proven(path):
    gateway = Gateway(1)
    gateway.plane.publish(sides(0.999, B))
    assert {asked(gateway, path) for _ in range(5)} == {"b" if path == "http-canary" else "a"}
