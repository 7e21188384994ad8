"""Unary calls over a scripted client: what is an answer, and what is none."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from gateway.wire.exchange import ResponseHead, WireError
from gateway.wire.grpc_client import status_of, unary
from gateway.wire.grpc_text import Code
from gateway.wire.whole import upstream_failed, whole
from tests.parts.scripted_client import ScriptedClient

GRPC = ("content-type", "application/grpc")
OK = (("grpc-status", "0"),)


def framed(message: bytes, flag: int = 0) -> bytes:
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


def answering(body: bytes, trailers=OK, fields=(GRPC,), status=200, in_pieces=False):
    def answer(asked):
        head = ResponseHead(status, fields)
        if not in_pieces:
            asked.sink.on_whole(head, memoryview(body), trailers)
            return
        asked.sink.on_head(head)
        for at in range(0, len(body), 3):
            asked.sink.on_data(memoryview(body)[at : at + 3])
        asked.sink.on_end(trailers)

    return ScriptedClient(answer)


async def call(client, **more):
    return await unary(client, "h:1", "/s/M", b"hello", **more)


@pytest.mark.parametrize("in_pieces", [True, False])
async def test_a_call(in_pieces):
    trailers = (*OK, ("x-a", "1"), ("x-b-bin", "AAE="))
    client = answering(framed(b"world"), trailers, in_pieces=in_pieces)
    answer = await call(client, metadata=(("x-m", "v"),), timeout_s=2)
    assert answer == (0, "", b"world", (("x-a", "1"), ("x-b-bin", "AAE=")))
    [asked] = client.asked
    assert (asked.address, asked.method, asked.path) == ("h:1", "POST", "/s/M")
    assert asked.body == framed(b"hello")
    assert asked.fields == (
        ("te", "trailers"), GRPC, ("user-agent", "model-gateway"), ("grpc-timeout", "2000m"),
        ("x-m", "v"),
    )  # fmt: skip
    assert not asked.is_cancelled


async def test_an_error_is_an_answer():
    trailers = (("grpc-status", "5"), ("grpc-message", "no%20such %E2%82%AC"), ("x-a", "1"))
    assert await call(answering(b"", trailers)) == (5, "no such €", b"", (("x-a", "1"),))


async def test_so_is_one_in_the_head_alone():
    fields = (GRPC, ("grpc-status", "14"), ("grpc-message", "busy"), ("x-a", "1"))
    client = answering(b"", (), fields)
    assert await call(client) == (14, "busy", b"", (("x-a", "1"),))


async def test_a_compressed_answer():
    fields = (GRPC, ("grpc-encoding", "gzip"))
    client = answering(framed(gzip.compress(b"world"), 1), fields=fields)
    assert (await call(client)).message == b"world"


@pytest.mark.parametrize(
    ("client", "words"),
    [
        (answering(framed(b"a"), ()), "without a grpc-status"),
        (answering(framed(b"a"), (("x", "y"),)), "without a grpc-status"),
        (answering(b"<html>", (), (("content-type", "text/html"),)), "instead of gRPC"),
        (answering(b"<html>", (), ()), "instead of gRPC"),
        (answering(b""), "OK with 0 messages"),
        (answering(framed(b"a") * 2), "OK with 2 messages"),
        (answering(framed(b"a") + b"\0"), "and a part"),
        (answering(framed(b"a", 2)), "flags"),
        (answering(framed(b"a", 1)), "Compressed-Flag"),
        (answering(framed(b"a", 1), fields=(GRPC, ("grpc-encoding", "br"))), "not supported"),
        (answering(framed(bytes(96)), in_pieces=True), "more than 100 bytes"),
        (answering(framed(bytes(96))), "more than 100 bytes"),
    ],
)
async def test_what_is_no_answer(client, words):
    with pytest.raises(WireError, match=words) as raised:
        await call(client, max_bytes=95)
    assert raised.value.reason == "bad_answer"
    assert raised.value.sent


@pytest.mark.parametrize(
    ("status", "code"), [(404, Code.UNIMPLEMENTED), (503, Code.UNAVAILABLE), (418, Code.UNKNOWN)]
)
def test_an_answer_of_http_alone_has_the_code_of_its_status(status, code):
    said = status_of(ResponseHead(status, (("content-type", "text/html"),)), ())
    assert (said.code, said.details) == (code, f"HTTP status {status}")


@pytest.mark.parametrize(("text", "code"), [("17", 17), ("x", 2), ("-1", 2), ("", 2), ("²", 2)])
def test_odd_codes(text, code):
    assert status_of(ResponseHead(200, (GRPC,)), (("grpc-status", text),)).code == code


async def test_a_failure_of_the_transport_is_none():
    error = WireError("reset", "RST_STREAM", sent=True)
    client = ScriptedClient(lambda asked: asked.sink.on_failed(error))
    with pytest.raises(WireError) as raised:
        await call(client)
    assert raised.value is error
    assert not client.asked[0].is_cancelled


async def test_the_deadline_cancels():
    client = ScriptedClient()
    with pytest.raises(TimeoutError):
        await call(client, deadline_at=asyncio.get_running_loop().time())
    assert client.asked[0].is_cancelled


async def test_leaving_cancels():
    client = ScriptedClient()
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(call(client))
        await asyncio.sleep(0)
        waiting.cancel()
    assert client.asked[0].is_cancelled


@pytest.mark.parametrize("is_told", [True, False])
async def test_an_answer_that_is_too_large_is_given_up(is_told):
    def answer(asked):
        asked.sink.on_head(ResponseHead(200, (), 10**9 if is_told else None))
        if not is_told:
            asked.sink.on_data(bytes(11))
            asked.sink.on_data(bytes(11))

    client = ScriptedClient(answer)
    with pytest.raises(WireError, match="more than 10 bytes"):
        await whole(client, "h:1", "GET", "/", (), b"", max_bytes=10, deadline_at=None)
    assert client.asked[0].is_cancelled


@pytest.mark.parametrize(
    ("reason", "sent", "words"),
    [
        ("connect_refused", False, "cannot be reached"),
        ("connect_timeout", False, "did not accept a connection in time"),
        ("reset", True, "broke before its answer was complete"),
        ("reset", False, "broke before its answer was complete"),
        ("bad_answer", True, "cannot be taken"),
    ],
)
def test_failures_in_the_gateways_words(reason, sent, words):
    made = upstream_failed(WireError(reason, "why", sent=sent), "h:1")
    assert (made.reason, made.sent) == (reason, sent)
    assert words in made.message
    assert "h:1" in made.message
    assert "why" in made.message
