"""Bodies that flow through: large ones, slow ones, broken ones, over HTTP and gRPC."""

from __future__ import annotations

import asyncio
import gzip
import os

import grpc
import grpc.aio
import pytest

from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.dataplane.settings import DataplaneSettings
from gateway.wire.fields import Fields
from gateway.wire.grpc import HEAD, status_fields
from gateway.wire.h1_client import Http1Client
from gateway.wire.h2_client import Http2Client
from gateway.wire.whole import whole
from tests.parts.fake_replica import fake_replica, running_gateway, table
from tests.parts.flowing import GRPC, PREDICT, SMALL_HOLD, Parts, framed, tensor_request
from tests.parts.wire_replica import JSON, hasher, wire_replica


@pytest.fixture
async def h1():
    client = Http1Client()
    yield client
    await client.aclose()


@pytest.fixture
async def h2():
    client = Http2Client()
    yield client
    await client.aclose()


async def test_a_large_json_body_flows_through_unchanged_with_and_without_a_length(h1):
    seen = []
    async with wire_replica("a", hasher(seen)) as a, running_gateway(SMALL_HOLD) as gw:
        gw.plane.publish(table(a))
        body = os.urandom(3 << 20)
        for length in (len(body), None):
            parts = Parts()
            parts.send(h1, gw.http, PREDICT, (JSON,), length=length)
            for at in range(0, len(body), 100_000):
                await parts.write(body[at : at + 100_000])
            parts.exchange.end()
            await parts.over.wait()
            assert (parts.head.status, bytes(parts.body)) == (200, b"%d" % len(body))
            assert parts.head.get("x-gateway-version") == "1"
        assert seen == [body, body]
        assert a.heads[0].content_length == len(body)
        assert a.heads[1].content_length is None


async def test_the_first_bytes_reach_the_replica_before_the_last_are_sent(h1):
    got = asyncio.Event()

    async def handle(request):
        async for _ in request.chunks():
            got.set()
        request.respond(200, (JSON,), b"{}")

    async with wire_replica("a", handle) as a, running_gateway(SMALL_HOLD) as gw:
        gw.plane.publish(table(a))
        parts = Parts()
        parts.send(h1, gw.http, PREDICT, (JSON,), length=200_001)
        await parts.write(b"x" * 200_000)
        async with asyncio.timeout(30):
            await got.wait()
        assert not parts.over.is_set()
        parts.exchange.write(b"x")
        parts.exchange.end()
        await parts.over.wait()
        assert parts.head.status == 200


@pytest.mark.parametrize("size", [100, 70_000, 3 << 20])
async def test_a_grpc_message_of_any_size_passes_with_its_version_pinned(size):
    seen = []
    message = tensor_request(size)
    async with wire_replica("a", hasher(seen)) as a, running_gateway(SMALL_HOLD) as gw:
        gw.plane.publish(table(a, versions=(1, 7)))
        await gw.predict(message)
        got = tfs_pb2.PredictRequest.FromString(seen[0][5:])
        assert got.model_spec.version.value == 7
        assert int.from_bytes(seen[0][1:5], "big") == len(seen[0]) - 5
        assert got.inputs["x"].tensor_content == message[-size:]


@pytest.mark.parametrize("cut", [1, 4, 5, 6, 20, 70_000])
async def test_a_message_may_be_cut_anywhere(h2, cut):
    seen = []
    body = framed(tensor_request(150_000))
    async with wire_replica("a", hasher(seen)) as a, running_gateway(SMALL_HOLD) as gw:
        gw.plane.publish(table(a))
        parts = Parts()
        parts.send(h2, gw.grpc, Method.PREDICT.path, (GRPC,))
        for at in range(0, min(len(body), 30 * cut), cut):
            parts.exchange.write(body[at : at + cut])
            await asyncio.sleep(0)
        parts.exchange.write(body[min(len(body), 30 * cut) :])
        parts.exchange.end()
        await parts.over.wait()
        assert dict(parts.trailers)["grpc-status"] == "0"
        assert len(seen[0]) > len(body)


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"", "12", "No request"),
        (b"\0\0", "13", "within a message"),
        (framed(b"\x0a\x03\x0a\x01m")[:-1], "13", "within a message"),
        (framed(b"\x0a\x03\x0a\x01m") * 2, "12", "More than one"),
        (b"\x07\0\0\0\1x", "13", "flags"),
        (framed(b"x", flag=1), "13", "Compressed-Flag"),
        (b"\0\xff\xff\xff\xff", "8", "larger than max"),
    ],
)
async def test_what_is_no_message_is_refused_in_grpcs_words(h2, body, code, words):
    async with fake_replica("a") as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        for is_whole in (True, False):
            if is_whole:
                answer = await whole(
                    h2, gw.grpc, "POST", Method.PREDICT.path, (GRPC,), body,
                    max_bytes=1000, deadline_at=None,
                )  # fmt: skip
                said = dict(answer.head.fields)
            else:
                parts = Parts()
                parts.send(h2, gw.grpc, Method.PREDICT.path, (GRPC,))
                for at in range(len(body)):
                    parts.exchange.write(body[at : at + 1])
                    await asyncio.sleep(0)
                parts.exchange.end()
                await parts.over.wait()
                said = dict(parts.head.fields)
            assert said["grpc-status"] == code
            assert words.split()[0] in said["grpc-message"].replace("%20", " ")
        assert not a.got


async def test_a_compressed_message_is_sent_on_plain_with_its_version():
    async with fake_replica("a") as a, running_gateway() as gw:
        gw.plane.publish(table(a, versions=(3,)))
        message = tensor_request(10_000)
        call = gw.channel.unary_unary(Method.PREDICT.path)
        said = await call(message, compression=grpc.Compression.Gzip)
        assert said == b"answer of a v3"
        assert a.got[0].body[: len(message)] == message


async def test_a_compression_bomb_is_refused_within_the_bound(h2):
    packed = gzip.compress(b"\0" * (64 << 20))
    settings = DataplaneSettings(max_body_bytes=1 << 20, drain_s=0.2)
    gzipped = Fields((*GRPC.pairs, ("grpc-encoding", "gzip")))
    async with fake_replica("a") as a, running_gateway(settings) as gw:
        gw.plane.publish(table(a))
        answer = await whole(
            h2, gw.grpc, "POST", Method.PREDICT.path, (gzipped,), framed(packed, flag=1),
            max_bytes=1000, deadline_at=None,
        )  # fmt: skip
        assert answer.head.get("grpc-status") == "8"
        assert not a.got


async def test_a_second_model_behind_the_tensors_is_refused(h2):
    """The replica would merge the two, and answer for a model that was not admitted."""
    message = tensor_request(400_000) + b"\x0a\x08\x0a\x06secret"
    for body in (framed(message), None):
        async with wire_replica("a", hasher([])) as a, running_gateway(SMALL_HOLD) as gw:
            gw.plane.publish(table(a))
            parts = Parts()
            parts.send(h2, gw.grpc, Method.PREDICT.path, (GRPC,))
            for at in range(0, len(message) + 5, 30_000):
                await parts.write((body or framed(message))[at : at + 30_000])
                await asyncio.sleep(0)
            parts.exchange.end()
            await parts.over.wait()
            fields = dict(parts.head.fields) | dict(parts.trailers)
            assert fields["grpc-status"] == "3"
            assert fields["x-gateway-reason"] == "late_field"


async def test_a_model_named_only_behind_its_tensors_is_still_routed(h2):
    tensors = tfs_pb2.PredictRequest()
    tensors.inputs["x"].tensor_content = os.urandom(300_000)
    message = tensors.SerializeToString() + b"\x0a\x03\x0a\x01m"
    seen = []
    async with wire_replica("a", hasher(seen)) as a, running_gateway(SMALL_HOLD) as gw:
        gw.plane.publish(table(a, versions=(4,)))
        parts = Parts()
        parts.send(h2, gw.grpc, Method.PREDICT.path, (GRPC,))
        body = framed(message)
        for at in range(0, len(body), 30_000):
            await parts.write(body[at : at + 30_000])
        parts.exchange.end()
        await parts.over.wait()
        assert dict(parts.trailers)["grpc-status"] == "0"
        got = tfs_pb2.PredictRequest.FromString(seen[0][5:])
        assert (got.model_spec.name, got.model_spec.version.value) == ("m", 4)


# ---- any protocol on any port --------------------


async def test_both_ports_answer_all_protocols(h1, h2):
    async with fake_replica("a") as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        for address in (gw.http, gw.grpc):
            for client in (h1, h2):
                answer = await whole(
                    client, address, "POST", PREDICT, (JSON,), b"{}",
                    max_bytes=1000, deadline_at=None,
                )  # fmt: skip
                assert (answer.head.status, answer.body) == (200, b'{"by": "a"}')
            answer = await whole(
                h2, address, "POST", Method.PREDICT.path, (GRPC,), framed(tensor_request(10)),
                max_bytes=1000, deadline_at=None,
            )  # fmt: skip
            assert answer.body == framed(b"answer of a v1")


async def test_a_status_without_a_message_and_metadata_pass_through(h2):
    async def handle(request):
        await request.body(1000, 1e12)
        trailers = (("x-own", "1"), ("y-bin", "AAE"))
        request.respond(200, (HEAD, status_fields(9, "not now: 100%", trailers)), b"")

    async with wire_replica("a", handle) as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        answer = await whole(
            h2, gw.grpc, "POST", Method.PREDICT.path, (GRPC,), framed(tensor_request(10)),
            max_bytes=1000, deadline_at=None,
        )  # fmt: skip
        said = dict(answer.head.fields)
        assert (said["grpc-status"], said["x-own"], said["y-bin"]) == ("9", "1", "AAE")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await gw.predict(tensor_request(10))
        assert raised.value.details() == "not now: 100%"
        assert dict(raised.value.trailing_metadata())["y-bin"] == b"\0\1"


async def test_a_server_that_speaks_no_grpc_is_no_success(h2):
    async def handle(request):
        await request.body(1000, 1e12)
        request.respond(200, (JSON,), b"{}")

    async with wire_replica("a", handle) as a, running_gateway() as gw:
        gw.plane.publish(table(a))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await gw.predict(tensor_request(10))
        assert raised.value.code() is grpc.StatusCode.INTERNAL
        assert "grpc-status" in raised.value.details()


async def test_v2_messages_flow_too(h2):
    message = oip_pb2.ModelInferRequest(model_name="m", id="7")
    message.inputs.add(name="x", datatype="BYTES", shape=[1])
    message.raw_input_contents.append(os.urandom(500_000))
    seen = []
    async with wire_replica("a", hasher(seen)) as a, running_gateway(SMALL_HOLD) as gw:
        gw.plane.publish(table(a, versions=(5,)))
        infer = gw.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        await infer(message.SerializeToString())
        got = oip_pb2.ModelInferRequest.FromString(seen[0][5:])
        assert (got.model_name, got.model_version, got.id) == ("m", "5", "7")
        assert got.raw_input_contents == message.raw_input_contents
