"""Copies to the canary through whole fronts, without sockets."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import replace

import numpy as np
import pytest

from gateway.core.ejection import Standing
from gateway.core.split import OVERRIDE
from gateway.dataplane import DataplaneSettings
from gateway.dataplane.settings import ShadowSettings
from gateway.domain.errors import DeadlineExceeded, InvalidRequest, UpstreamFailed
from gateway.ports import UpstreamAnswer, UpstreamRequest
from gateway.wire.exchange import ResponseHead
from tests.parts.fake_replica import until
from tests.parts.shadowed import FLIPPED, PROTOCOLS, SCORES, Shadowed, answer

EAGER = DataplaneSettings(shadow=ShadowSettings(busy_ratio=1.0))


def counted(gateway: Shadowed) -> dict[str, int]:
    tally = gateway.tally
    return {k: getattr(tally, k) for k in ("compared", "failed", "skipped", "dropped")}


def only(**some: int) -> dict[str, int]:
    return {"compared": 0, "failed": 0, "skipped": 0, "dropped": 0} | some


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_answers_are_compared_output_by_output_whatever_they_were_asked_in(protocol):
    gateway = Shadowed(EAGER)
    exchange = gateway.begun(protocol)
    endpoint = gateway.answered(protocol)
    assert exchange.is_complete
    assert not gateway.upstream.copies, "the caller has waited for the copy"
    assert (await gateway.settled()).compared == 1
    copied, request = gateway.upstream.copies[0]
    assert copied == endpoint, "another machine may compute otherwise"
    if "grpc" not in protocol:
        assert "/versions/2" in request.target
    same = gateway.tally.outputs["scores"]
    assert (same.compared, same.differing, same.flips, same.cosine_sum) == (1, 0.0, 0.0, 1.0)
    gateway.upstream.outputs[2] = FLIPPED
    gateway.ask(protocol)
    tally = await gateway.settled()
    assert counted(gateway) == only(compared=2)
    scores = tally.outputs["scores"]
    assert (tally.flips, scores.flips, scores.differing) == (0.5, 0.5, 0.5)
    assert scores.max_abs == pytest.approx(0.8)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_other_outputs_are_a_difference_in_everything(protocol):
    gateway = Shadowed(EAGER)
    gateway.upstream.outputs[2] = {"scores": np.array([[1, 2]], np.int64), "more": np.zeros(1, "f")}
    gateway.upstream.outputs[1] = {"scores": SCORES["scores"], "gone": np.zeros(2, "f")}
    gateway.ask(protocol)
    tally = await gateway.settled()
    assert (tally.compared, tally.flips, tally.differing) == (1, 1.0, 1.0)
    words = {name: output.mismatch for name, output in tally.outputs.items()}
    assert words["gone"] == "is missing in the canary's answer"
    assert words["more"] == "is missing in the stable version's answer"
    assert words["scores"] == "is int64[1,2] instead of float32[2,2]"


async def test_a_copy_is_counted_nowhere_that_requests_are():
    gateway = Shadowed(EAGER)
    gateway.upstream.says = gate = asyncio.Event()
    for protocol in PROTOCOLS:
        gateway.ask(protocol)
    await asyncio.sleep(0)
    plane = gateway.plane
    assert plane.shadowing.under_way == {"m": len(PROTOCOLS)}
    assert not plane.in_flight.by_model
    assert not plane.in_flight.by_replica
    assert not list(plane.busy())
    assert plane.turns()["m"][0] == 0
    assert plane.states["m"].turns.active == 0
    assert sum(plane.tallies("m")[1]) == len(PROTOCOLS)
    assert sum(plane.tallies("m")[2]) == 0
    assert plane.held_bytes == 0
    gate.set()
    await gateway.settled()
    assert sum(plane.tallies("m")[2]) == 0
    assert plane.shadowing.held_bytes == 0


NO = UpstreamFailed("no", reason="connect_refused", sent=False)
SAID = "it has no such input"


@pytest.mark.parametrize(
    ("protocol", "says", "outcome", "words"),
    [
        ("tfs-rest", UpstreamAnswer(400, b'{"error": "it has no such input"}'), "failed", SAID),
        ("v2-rest", UpstreamAnswer(500, b'{"error": "it has no such input"}'), "failed", SAID),
        ("tfs-grpc", UpstreamAnswer(3, b"", (), SAID), "failed", SAID),
        ("v2-grpc", UpstreamAnswer(13, b"", (), SAID), "failed", SAID),
        ("tfs-rest", UpstreamAnswer(200, b"{nonsense"), "failed", "JSON"),
        ("v2-rest", UpstreamAnswer(200, b"[]"), "failed", ""),
        ("tfs-grpc", UpstreamAnswer(0, b"\xff\xff"), "failed", ""),
        ("v2-grpc", UpstreamAnswer(0, b"\xff\xff"), "failed", ""),
        ("tfs-rest", InvalidRequest(SAID, reason="bad_shape"), "failed", SAID),
        ("tfs-rest", UpstreamFailed(SAID, reason="bad_answer", sent=True), "failed", SAID),
        ("tfs-rest", UpstreamAnswer(503, b""), "skipped", ""),
        ("v2-rest", UpstreamAnswer(429, b""), "skipped", ""),
        ("tfs-rest", UpstreamAnswer(404, b""), "skipped", ""),
        ("tfs-grpc", UpstreamAnswer(14, b""), "skipped", ""),
        ("v2-grpc", UpstreamAnswer(8, b""), "skipped", ""),
        ("v2-grpc", NO, "skipped", ""),
        ("tfs-rest", DeadlineExceeded("late", reason="call"), "skipped", ""),
    ],
)
async def test_what_only_the_canary_fails_at_is_told_from_what_may_happen_to_anybody(
    protocol, says, outcome, words
):
    gateway = Shadowed(EAGER)
    gateway.upstream.says = says
    gateway.ask(protocol)
    tally = await gateway.settled()
    assert counted(gateway) == only(**{outcome: 1})
    assert words in tally.failure
    assert (tally.flips, tally.differing) == ((1.0, 1.0) if outcome == "failed" else (0.0, 0.0))
    replicas = gateway.plane.replicas
    assert {replicas.standing(r) for r in "ab"} == {Standing.GOOD}


async def test_no_more_are_copied_than_may_be_at_once_and_the_rest_is_counted():
    settings = DataplaneSettings(shadow=ShadowSettings(calls=2, busy_ratio=1.0))
    gateway = Shadowed(settings)
    gateway.upstream.says = gate = asyncio.Event()
    for _ in range(7):
        assert gateway.ask("v2-grpc").is_complete
    assert counted(gateway) == only(dropped=5)
    gate.set()
    await gateway.settled()
    assert counted(gateway) == only(compared=2, dropped=5)
    total = gateway.plane.metrics.shadows_total
    assert total.labels("m", "dropped")._value.get() == 5


async def test_no_more_is_held_than_may_be():
    gateway = Shadowed(replace(EAGER, shadow=ShadowSettings(held_bytes=100)))
    gateway.upstream.says = gate = asyncio.Event()
    for _ in range(9):
        gateway.ask("tfs-rest")
    assert 0 < gateway.tally.dropped < 9
    assert gateway.plane.shadowing.held_bytes < 300
    gate.set()
    await gateway.settled()
    assert gateway.plane.shadowing.held_bytes == 0


async def test_after_comparing_it_rests_in_proportion():
    gateway = Shadowed(DataplaneSettings(shadow=ShadowSettings(busy_ratio=1e-9)))
    gateway.ask("tfs-grpc")
    await gateway.settled()
    gateway.ask("tfs-grpc")
    assert counted(gateway) == only(compared=1, dropped=1)


async def test_nothing_is_copied_while_others_wait_for_their_turn():
    gateway = Shadowed(EAGER)
    turns = gateway.begun("tfs-rest").sink._asked.state.turns
    turns.limit.value = 0
    gateway.begun("tfs-rest")
    assert turns.queue.size == 1
    gateway.answered("tfs-rest")
    assert counted(gateway) == only(dropped=1)


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ("tfs-rest", UpstreamAnswer(400, b"{}")),
        ("v2-rest", UpstreamAnswer(500, b"{}")),
        ("tfs-grpc", UpstreamAnswer(3, b"")),
    ],
)
async def test_errors_of_the_stable_version_are_not_copied(protocol, said):
    gateway = Shadowed(EAGER)
    gateway.begun(protocol)
    gateway.answered(protocol, said)
    assert not gateway.plane.shadowing.under_way
    assert counted(gateway) == only()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/models/m/versions/1:predict", ()),
        ("/v1/models/m/labels/stable:predict", ()),
        ("", ((OVERRIDE, "stable"),)),
        ("", ((OVERRIDE, "canary"),)),
    ],
)
async def test_who_chose_is_not_copied(path, fields):
    gateway = Shadowed(EAGER)
    gateway.begun("tfs-rest", *fields, path=path)
    gateway.answered("tfs-rest")
    assert not gateway.plane.shadowing.under_way


async def test_what_the_canary_answers_is_not_copied_to_it():
    gateway = Shadowed(EAGER, weight=0.999999)
    gateway.ask("tfs-rest")
    assert not gateway.plane.shadowing.under_way


async def test_what_is_no_prediction_is_not_sent():
    gateway = Shadowed(EAGER)
    gateway.begun("tfs-rest", path="/v1/models/m:classify")
    gateway.answered("tfs-rest", UpstreamAnswer(200, b'{"results": []}'))
    await gateway.settled()
    assert not gateway.upstream.copies
    assert counted(gateway) == only(skipped=1)


async def test_a_share_is_drawn():
    gateway = Shadowed(EAGER, shadow=0.25)
    for _ in range(400):
        gateway.ask("v2-grpc")
        await gateway.settled()
    assert 60 < gateway.tally.compared + gateway.tally.dropped < 140
    assert gateway.tally.compared == len(gateway.upstream.copies)


async def test_a_step_that_is_over_counts_nothing():
    gateway = Shadowed(EAGER)
    gateway.upstream.says = gate = asyncio.Event()
    gateway.ask("tfs-rest")
    gateway.publish(window=2)
    gate.set()
    await gateway.settled()
    assert counted(gateway) == only()
    gateway.ask("tfs-rest")
    await gateway.settled()
    gateway.publish(window=2)
    assert counted(gateway) == only(compared=1)
    gateway.publish(window=3, shadow=0.0)
    assert gateway.plane.agreement("m") is None


@pytest.mark.parametrize("size", [70_000, 2_000_000])
async def test_answers_in_pieces_are_compared_as_long_as_they_are_held(size):
    gateway = Shadowed(EAGER)
    large = {"y": np.zeros((1, size // 4), np.float32)}
    gateway.upstream.outputs = {1: large, 2: large}
    exchange = gateway.begun("v2-grpc")
    _, _, sink = gateway.upstream.calls.pop()
    said = answer("v2-grpc", gateway.upstream.outputs[1], 1).body
    message = b"\0" + len(said).to_bytes(4, "big") + said
    sink.on_head(ResponseHead(200, ()))
    for i in range(0, len(message), 16384):
        sink.on_data(message[i : i + 16384])
    sink.on_end((("grpc-status", "0"),))
    assert exchange.body == message
    await gateway.settled()
    assert counted(gateway) == only(compared=1 if size < 1_000_000 else 0)


async def test_a_compressed_answer_is_read():
    gateway = Shadowed(EAGER)
    said = answer("tfs-rest", SCORES, 1)
    gateway.begun("tfs-rest")
    packed = replace(said, body=gzip.compress(said.body), headers=(("content-encoding", "gzip"),))
    gateway.answered("tfs-rest", packed)
    await gateway.settled()
    assert counted(gateway) == only(compared=1)


async def test_an_answer_of_the_stable_version_that_makes_no_sense_is_its_own_affair():
    gateway = Shadowed(EAGER)
    gateway.begun("tfs-rest")
    gateway.answered("tfs-rest", UpstreamAnswer(200, b"nonsense"))
    await gateway.settled()
    assert counted(gateway) == only(skipped=1)


async def test_without_signatures_answers_that_do_not_describe_themselves_are_skipped():
    gateway = Shadowed(EAGER)
    gateway.upstream.metadata = UpstreamAnswer(200, b"nonsense")
    for protocol in ("tfs-rest", "v2-rest"):
        gateway.ask(protocol)
        await gateway.settled()
    gateway.upstream.metadata = UpstreamAnswer(404, b"")
    gateway.ask("tfs-rest")
    await gateway.settled()
    assert counted(gateway) == only(compared=1, skipped=2)


async def test_answers_that_are_awaited_are_compared_too():
    gateway = Shadowed(EAGER)
    gateway.upstream.protocol = "v2-grpc"
    made = []

    def pin(version):
        made.append(version)
        return UpstreamRequest("/inference.GRPCInferenceService/ModelInfer", b"")

    plane = gateway.plane
    await plane.ask(plane.v2_grpc, "m", None, None, 5.0, pin)
    await gateway.settled()
    assert made == [1, 2]
    assert counted(gateway) == only(compared=1)


@pytest.mark.parametrize("protocol", ["tfs-rest", "tfs-rest-columns", "tfs-grpc", "v2-rest-binary"])
async def test_callers_who_are_translated_for_are_copied_and_compared_in_their_own_words(protocol):
    gateway = Shadowed(EAGER)
    gateway.upstream.is_translated = True
    gateway.publish()
    gateway.upstream.outputs[2] = FLIPPED
    exchange = gateway.begun(protocol)
    await until(lambda: exchange.is_complete)
    tally = await gateway.settled()
    assert counted(gateway) == only(compared=1)
    assert (tally.flips, tally.outputs["scores"].flips) == (0.5, 0.5)
    assert len(gateway.upstream.copies) == 1


async def test_a_bug_in_here_costs_no_caller_an_answer(monkeypatch):
    gateway = Shadowed(EAGER)
    monkeypatch.setattr(gateway.plane.split, "agreement_in", lambda *_: 1 / 0)
    assert gateway.ask("tfs-rest").status == 200


async def test_a_plane_that_ends_waits_for_no_copy():
    gateway = Shadowed(EAGER)
    gateway.upstream.says = asyncio.Event()
    gateway.ask("tfs-rest")
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await gateway.plane.aclose()
    assert not gateway.plane.shadowing.under_way
    assert gateway.plane.shadowing.held_bytes == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_two_sides_of_one_version_are_compared_and_only_one_way(protocol):
    gateway = Shadowed(EAGER)
    gateway.publish_sides()
    gateway.begun(protocol)
    stable = gateway.answered(protocol)
    await gateway.settled()
    (copied, _), = gateway.upstream.copies  # fmt: skip
    assert (stable.http[0], copied.http[0]) == ("a", "b")
    assert counted(gateway) == only(compared=1)
    gateway.begun(protocol, (OVERRIDE, "canary"))
    assert gateway.answered(protocol).http[0] == "b"
    assert len(gateway.upstream.copies) == 1
