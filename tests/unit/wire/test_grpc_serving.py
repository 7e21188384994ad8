"""Calls served over a scripted exchange: what each caller is answered, to the field."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from gateway.wire.exchange import RequestHead
from gateway.wire.grpc import (
    Code,
    Direct,
    GrpcMethods,
    Stream,
    Unary,
    frame,
    read_head,
    respond_status,
)
from gateway.wire.tasks import Tasks
from tests.parts.scripted_exchange import ScriptedExchange

GRPC = ("content-type", "application/grpc")


class Service:
    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.cancelled: list[str] = []
        self.calls: list[object] = []

    async def echo(self, message, call):
        self.calls.append(call)
        return message

    async def wait(self, message, call):
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.append("unary")
            raise
        return message

    async def fail(self, message, call):
        await call.abort(Code.NOT_FOUND, "none: 100 %", (("x-why", "gone"),))

    async def crash(self, message, call):
        raise RuntimeError("secret")

    async def trail(self, message, call):
        call.set_trailing_metadata((("x-a", "1"), ("x-b-bin", "AAE=")))
        return message

    async def chat(self, requests, call):
        async for message in requests:
            await call.write(message * 2)

    async def pull(self, requests, call):
        try:
            async for _ in requests:
                await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.append("stream")
            raise

    def direct(self, exchange, message, call):
        self.calls.append(call)
        call.on_cancelled = lambda: self.cancelled.append("direct")
        if message == b"now":
            call.reply(message, (("x-a", "1"),))
        elif message == b"status":
            respond_status(exchange, Code.ABORTED, "no")
        elif message == b"crash":
            raise RuntimeError("x")

    def methods(self):
        return {
            "/s/Echo": Unary(self.echo), "/s/Wait": Unary(self.wait), "/s/Fail": Unary(self.fail),
            "/s/Crash": Unary(self.crash), "/s/Trail": Unary(self.trail),
            "/s/Chat": Stream(self.chat), "/s/Pull": Stream(self.pull),
            "/s/Direct": Direct(self.direct),
        }  # fmt: skip


@pytest.fixture
def bugs():
    return []


@pytest.fixture
async def serve(bugs):
    service = Service()
    async with Tasks(bugs.append) as tasks:
        methods = GrpcMethods(service.methods(), tasks, 1000)

        async def begin(path, body, *fields, method="POST", is_h2=True, content_type=GRPC):
            given = (content_type, *fields) if content_type else fields
            exchange = ScriptedExchange(RequestHead(method, path, given, is_h2=is_h2))
            methods.begin(exchange, body)
            assert exchange.sink is not None or exchange.is_complete
            await settle()
            return exchange

        begin.service, begin.tasks = service, tasks
        yield begin


async def settle():
    for _ in range(6):
        await asyncio.sleep(0)


async def until(is_true):
    async with asyncio.timeout(30):
        while not is_true():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0)


def status(exchange):
    """Code and words, from the trailers, or from the head of an answer that is nothing else."""
    said = dict(exchange.fields if exchange.trailers is None else exchange.trailers)
    return int(said["grpc-status"]), said.get("grpc-message", "")


async def test_a_unary_call(serve):
    exchange = await serve("/s/Echo", frame(b"abc"))
    assert exchange.status == 200
    assert exchange.fields == (GRPC,)
    assert exchange.body == frame(b"abc")
    assert exchange.trailers == (("grpc-status", "0"),)


async def test_a_large_answer_is_not_copied_behind_its_prefix(bugs):
    async with Tasks(bugs.append) as tasks:
        methods = GrpcMethods(Service().methods(), tasks, 1 << 20)
        exchange = ScriptedExchange(RequestHead("POST", "/s/Echo", (GRPC,), is_h2=True))
        methods.begin(exchange, frame(bytes(70_000)))
        await settle()
    assert exchange.body == frame(bytes(70_000))
    assert len(exchange.written) == 2


async def test_a_unary_call_in_pieces(serve):
    exchange = await serve("/s/Echo", None)
    assert exchange.deeds == ["accept"]
    for byte in frame(b"abc"):
        exchange.sink.on_data(bytes((byte,)))
    exchange.sink.on_end(())
    await settle()
    assert exchange.body == frame(b"abc")


async def test_compressed(serve):
    packed = gzip.compress(b"abc" * 100)
    body = b"\1" + len(packed).to_bytes(4, "big") + packed
    exchange = await serve("/s/Echo", body, ("grpc-encoding", "gzip"))
    assert exchange.body == frame(b"abc" * 100)


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"", Code.UNIMPLEMENTED, "No request"),
        (frame(b"a") + frame(b"b"), Code.UNIMPLEMENTED, "More than one request"),
        (frame(b"a")[:-1], Code.INTERNAL, "ends within a message"),
        (b"\0\0", Code.INTERNAL, "ends within a message"),
        (b"\2\0\0\0\0", Code.INTERNAL, "flags"),
        (b"\1\0\0\0\0", Code.INTERNAL, "Compressed-Flag"),
        (frame(bytes(1001)), Code.RESOURCE_EXHAUSTED, "larger than max (1001 vs. 1000)"),
    ],
)
@pytest.mark.parametrize("path", ["/s/Echo", "/s/Direct"])
@pytest.mark.parametrize("is_whole", [True, False])
async def test_bodies_that_are_not_one_message(serve, path, is_whole, body, code, words):
    exchange = await serve(path, body if is_whole else None)
    if not is_whole:
        exchange.sink.on_data(body)
        exchange.sink.on_end(())
    await settle()
    assert status(exchange)[0] == code
    assert words in status(exchange)[1]
    assert exchange.written == []


@pytest.mark.parametrize(
    "content_type", ["application/grpc", "application/grpc+proto", "application/grpc;x=y"]
)
async def test_content_types(serve, content_type):
    exchange = await serve("/s/Echo", frame(b"a"), content_type=("content-type", content_type))
    assert status(exchange)[0] == 0


@pytest.mark.parametrize(
    "content_type", [None, "application/json", "application/grpc-web", "application/grpcx", ""]
)
async def test_other_content_types_are_415(serve, content_type):
    given = content_type and ("content-type", content_type)
    exchange = await serve("/s/Echo", frame(b"a"), content_type=given)
    assert exchange.status == 415


async def test_other_methods_are_405(serve):
    exchange = await serve("/s/Echo", b"", method="GET")
    assert exchange.status == 405
    assert ("allow", "POST") in exchange.fields


async def test_http1_is_505(serve):
    assert (await serve("/s/Echo", frame(b""), is_h2=False)).status == 505


@pytest.mark.parametrize("path", ["", "/", "/s/Nope", "/s/Echo/", "/s/Echo?x=1"])
async def test_unknown_methods(serve, path):
    exchange = await serve(path, frame(b""))
    assert status(exchange) == (12, "Method not found!")


async def test_an_unknown_compression_is_told_which_are_known(serve):
    exchange = await serve("/s/Echo", frame(b""), ("grpc-encoding", "snappy"))
    assert status(exchange)[0] == Code.UNIMPLEMENTED
    assert ("grpc-accept-encoding", "identity, deflate, gzip") in exchange.fields


@pytest.mark.parametrize("text", ["123456789S", "1x", ""])
async def test_a_timeout_that_cannot_be_read(serve, text):
    exchange = await serve("/s/Echo", frame(b""), ("grpc-timeout", text))
    assert status(exchange)[0] == Code.INTERNAL


async def test_an_abort_is_a_head_alone(serve):
    exchange = await serve("/s/Fail", frame(b""))
    assert exchange.fields == (
        GRPC, ("grpc-status", "5"), ("grpc-message", "none: 100 %25"), ("x-why", "gone"),
    )  # fmt: skip
    assert exchange.trailers is None
    assert exchange.body == b""


async def test_trailing_metadata(serve):
    exchange = await serve("/s/Trail", frame(b""))
    assert exchange.trailers == (("grpc-status", "0"), ("x-a", "1"), ("x-b-bin", "AAE="))


async def test_a_bug_is_told_to_us_and_not_to_the_caller(serve, bugs):
    exchange = await serve("/s/Crash", frame(b""))
    assert status(exchange) == (2, "Unexpected RuntimeError")
    assert [str(b) for b in bugs] == ["secret"]


async def test_metadata_is_what_the_caller_means(serve):
    await serve(
        "/s/Echo", frame(b""), ("te", "trailers"), ("grpc-timeout", "1H"), ("x-a", "1"),
        ("user-agent", "u"), ("grpc-accept-encoding", "gzip"), ("x-b-bin", "AAE"),
    )  # fmt: skip
    [call] = serve.service.calls
    assert call.metadata == (("x-a", "1"), ("user-agent", "u"), ("x-b-bin", "AAE"))
    assert 3599 < call.time_remaining() <= 3600
    assert call.peer == "192.0.2.1:4711"


def test_a_head_is_read_once():
    head = RequestHead("POST", "/s/Echo", (GRPC,), is_h2=True)
    assert read_head(head) is read_head(head)


async def test_a_deadline_cancels_the_handler(serve):
    exchange = await serve("/s/Wait", frame(b""), ("grpc-timeout", "1n"))
    await until(lambda: serve.service.cancelled)
    assert status(exchange) == (4, "Deadline Exceeded")


async def test_a_deadline_counts_while_the_message_is_coming(serve):
    exchange = await serve("/s/Echo", None, ("grpc-timeout", "1n"))
    await until(lambda: exchange.is_complete)
    assert status(exchange)[0] == Code.DEADLINE_EXCEEDED
    exchange.sink.on_data(frame(b""))
    exchange.sink.on_end(())


async def test_a_deadline_of_centuries(serve):
    exchange = await serve("/s/Echo", frame(b"a"), ("grpc-timeout", "99999999H"))
    assert status(exchange)[0] == 0


@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_caller_who_leaves_cancels_the_handler(serve, is_whole):
    exchange = await serve("/s/Wait", frame(b"") if is_whole else None)
    if not is_whole:
        exchange.sink.on_data(frame(b""))
        exchange.sink.on_end(())
        await settle()
    exchange.sink.on_gone("reset")
    await settle()
    assert serve.service.cancelled == ["unary"]
    assert exchange.status is None


async def test_a_caller_who_leaves_before_the_message(serve):
    exchange = await serve("/s/Echo", None)
    exchange.sink.on_gone("reset")
    assert serve.service.calls == []
    assert exchange.status is None


async def test_a_stream(serve):
    exchange = await serve("/s/Chat", None)
    assert exchange.deeds == ["accept"]
    exchange.sink.on_data(frame(b"a") + frame(b"b")[:3])
    await settle()
    assert exchange.body == frame(b"aa")
    exchange.sink.on_data(frame(b"b")[3:])
    exchange.sink.on_end(())
    await settle()
    assert exchange.body == frame(b"aa") + frame(b"bb")
    assert exchange.trailers == (("grpc-status", "0"),)


async def test_a_stream_without_messages(serve):
    exchange = await serve("/s/Chat", b"")
    assert status(exchange)[0] == 0
    assert exchange.body == b""


@pytest.mark.parametrize(
    ("body", "code"), [(b"\2\0\0\0\0", Code.INTERNAL), (b"\0\0\0\0\1", Code.INTERNAL)]
)
async def test_a_stream_that_breaks(serve, body, code):
    exchange = await serve("/s/Chat", frame(b"a") + body)
    assert status(exchange)[0] == code


async def test_a_fast_stream_is_held_back(serve):
    exchange = await serve("/s/Pull", None)
    for _ in range(20):
        exchange.sink.on_data(frame(b"a"))
    await settle()
    assert exchange.deeds == ["accept", "pause"]
    serve.service.go.set()
    await settle()
    assert exchange.deeds == ["accept", "pause", "resume"]
    exchange.sink.on_end(())
    await settle()
    assert status(exchange)[0] == 0


async def test_writing_waits_for_a_slow_caller(serve):
    exchange = await serve("/s/Chat", None)
    exchange.is_congested = True
    exchange.sink.on_data(frame(b"a"))
    await settle()
    assert exchange.body == b""
    exchange.is_congested = False
    exchange.sink.on_writable()
    exchange.sink.on_end(())
    await settle()
    assert exchange.body == frame(b"aa")
    assert exchange.is_complete


async def test_leaving_a_stream(serve):
    exchange = await serve("/s/Pull", frame(b"a"))
    exchange.sink.on_gone("reset")
    await settle()
    assert serve.service.cancelled == ["stream"]


async def test_direct_handlers_have_no_task(serve, bugs):
    now = await serve("/s/Direct", frame(b"now"))
    assert now.body == frame(b"now")
    assert now.trailers == (("grpc-status", "0"), ("x-a", "1"))
    assert status(await serve("/s/Direct", frame(b"status"))) == (10, "no")
    assert status(await serve("/s/Direct", frame(b"crash"))) == (2, "Unexpected RuntimeError")
    later = await serve("/s/Direct", frame(b"later"))
    assert len(serve.tasks) == 0
    serve.service.calls[-1].finish(Code.UNAVAILABLE, "busy")
    assert status(later) == (14, "busy")
    assert len(bugs) == 1


async def test_direct_handlers_hear_of_callers_who_leave(serve):
    exchange = await serve("/s/Direct", frame(b"later"))
    exchange.sink.on_gone("reset")
    assert serve.service.cancelled == ["direct"]
    serve.service.calls[-1].reply(b"too late")
    assert exchange.status is None


async def test_the_end_of_the_server(bugs):
    service = Service()
    exchange = ScriptedExchange(RequestHead("POST", "/s/Wait", (GRPC,), is_h2=True))
    async with Tasks(bugs.append) as tasks:
        GrpcMethods(service.methods(), tasks, 1000).begin(exchange, frame(b""))
        await settle()
    assert status(exchange)[0] == Code.UNAVAILABLE
    assert bugs == []
