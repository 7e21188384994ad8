"""The wire's gRPC server, asked by grpcio's own clients, on both event loops."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from tests.parts.both_loops import on_both_loops
from tests.parts.grpc_over_wire import grpc_over_wire
from tests.parts.waiting import until

MIB = 1 << 20
CODE = grpc.StatusCode
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@asynccontextmanager
async def opened():
    async with (
        grpc_over_wire() as served,
        grpc.aio.insecure_channel(served.address, options=UNLIMITED) as channel,
    ):
        yield {"served": served, "channel": channel}
    assert served.running == 0


both = on_both_loops(opened, "served", "channel")


@both
async def test_unary(channel, served):
    call = channel.unary_unary("/s/Echo")(b"abc", metadata=(("x-a", "b"), ("x-c-bin", b"\0\1")))
    assert await call == b"abc"
    assert await call.code() is CODE.OK
    trailing = dict(await call.trailing_metadata())
    assert trailing == {"x-text": "words", "x-raw-bin": b"\0\1\xff"}
    [metadata] = served.metadata
    assert ("x-a", "b") in metadata
    assert ("x-c-bin", "AAE") in [(n, v.rstrip("=")) for n, v in metadata]
    assert served.left_s == [None]


@pytest.mark.parametrize("size", [0, 1, 16_000, 16_384, 70_000, 16 * MIB])
@pytest.mark.parametrize("path", ["/s/Echo", "/s/Direct"])
@both
async def test_sizes(channel, path, size):
    message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert await channel.unary_unary(path)(message) == message


@both
async def test_the_deadline_is_seen(channel, served):
    await channel.unary_unary("/s/Echo")(b"", timeout=30)
    [left_s] = served.left_s
    assert 25 < left_s <= 30.5


@pytest.mark.parametrize("code", [c for c in CODE if c is not CODE.OK])
@both
async def test_codes(channel, code):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await channel.unary_unary("/s/Fail")(b"%d" % code.value[0])
    assert raised.value.code() is code
    assert raised.value.details() == "näh: 100 %\n"
    assert ("x-why", "so") in tuple(raised.value.trailing_metadata())


@both
async def test_a_bug(channel, served):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await channel.unary_unary("/s/Crash")(b"")
    assert (raised.value.code(), raised.value.details()) == (
        CODE.UNKNOWN,
        "Unexpected RuntimeError",
    )
    assert [str(b) for b in served.bugs] == ["secret"]


@both
async def test_an_unknown_method(channel):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await channel.unary_unary("/s/Nope")(b"")
    assert raised.value.code() is CODE.UNIMPLEMENTED


@both
async def test_a_deadline_that_passes_cancels_the_handler(channel, served):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await channel.unary_unary("/s/Wait")(b"60", timeout=0.2)
    assert raised.value.code() is CODE.DEADLINE_EXCEEDED
    await until(lambda: served.cancelled == ["wait"])


@both
async def test_a_caller_who_cancels_cancels_the_handler(channel, served):
    call = channel.unary_unary("/s/Wait")(b"60")
    await until(lambda: served.running)
    call.cancel()
    await until(lambda: served.cancelled == ["wait"])


@both
async def test_a_channel_that_closes_cancels_the_handler(served):
    channel = grpc.aio.insecure_channel(served.address)
    call = channel.unary_unary("/s/Wait")(b"60")
    await until(lambda: served.running)
    await channel.close()
    await until(lambda: served.cancelled == ["wait"])
    assert call.cancelled()


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@both
async def test_compression(served, compression):
    async with grpc.aio.insecure_channel(served.address, compression=compression) as channel:
        assert await channel.unary_unary("/s/Echo")(b"abc" * 10_000) == b"abc" * 10_000
        chat = channel.stream_stream("/s/Chat")(iter([b"a" * 5000, b"b" * 5000]))
        assert [len(m) async for m in chat] == [5000, 5000]


@both
async def test_server_streaming(channel):
    call = channel.unary_stream("/s/Many")(b"1000")
    assert [int(m) async for m in call] == list(range(1000))
    assert await call.code() is CODE.OK


@both
async def test_client_streaming(channel):
    async def numbers():
        for n in range(1000):
            yield b"%d" % n

    assert await channel.stream_unary("/s/Total")(numbers()) == b"%d" % sum(range(1000))


@both
async def test_bidirectional_streaming_in_step(channel):
    call = channel.stream_stream("/s/Chat")()
    for n in range(50):
        await call.write(b"%d" % n)
        assert await call.read() == b"%d" % n
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is CODE.OK


@both
async def test_large_messages_either_way(channel):
    call = channel.stream_stream("/s/Chat")()
    message = bytes(5 * MIB)
    for _ in range(4):
        await call.write(message)
        assert await call.read() == message
    await call.done_writing()
    assert await call.code() is CODE.OK


@both
async def test_an_error_amid_a_stream(channel):
    # In step, because grpc.aio's client reports INTERNAL ("Internal error from Core") in place of
    # the status that it has when its application writes once more before it has looked: its Core
    # fails that write at once. Held up by 50 ms before the write, it does so in 100 of 100 calls
    # against grpcio's own server too. The caller's side is open all the same.
    call = channel.stream_stream("/s/Chat")()
    await call.write(b"a")
    assert await call.read() == b"a"
    await call.write(b"fail")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call.read()
    assert (raised.value.code(), raised.value.details()) == (CODE.FAILED_PRECONDITION, "enough")


@both
async def test_an_error_for_a_caller_that_goes_on_sending(served):
    """The blocking client, which keeps the status whatever becomes of its own messages."""

    def ask():
        with grpc.insecure_channel(served.address, options=UNLIMITED) as channel:
            has_ended = threading.Event()

            def messages():
                yield b"a"
                yield b"fail"
                while not has_ended.is_set():
                    yield bytes(1000)

            call = channel.stream_stream("/s/Chat")(messages())
            assert next(call) == b"a"
            with pytest.raises(grpc.RpcError) as raised:
                next(call)
            has_ended.set()
            assert raised.value.code() is CODE.FAILED_PRECONDITION
            assert raised.value.details() == "enough"
            assert channel.unary_unary("/s/Echo")(b"next") == b"next"
        assert len(served.connections) == 1

    await asyncio.to_thread(ask)


@both
async def test_a_stream_that_is_cancelled(channel, served):
    call = channel.stream_stream("/s/Chat")()
    await call.write(b"a")
    assert await call.read() == b"a"
    call.cancel()
    await until(lambda: served.cancelled == ["chat"])


@both
async def test_a_caller_who_does_not_read_holds_the_writer_back(channel, served):
    """64 MB, of which what fits into the buffers between them is written."""
    call = channel.unary_stream("/s/Many")(b"4000 16384")
    assert (await call.read()).rstrip() == b"0"
    held_at, still = 0, 0
    while still < 20:
        await asyncio.sleep(0.01)
        held_at, still = served.written, still + 1 if served.written == held_at else 0
    assert 0 < held_at < 3000
    got = 1
    while await call.read() is not grpc.aio.EOF:
        got += 1
    assert (got, served.written) == (4000, 4000)


@both
async def test_many_calls_at_once(channel, served):
    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(_wait(channel)) for _ in range(300)]
    assert all(c.result() == b"1" for c in calls)
    assert served.most > 100


async def _wait(channel):
    return await channel.unary_unary("/s/Wait")(b"1")


@both
async def test_a_message_over_the_bound():
    async with (
        grpc_over_wire(max_message_bytes=1000) as served,
        grpc.aio.insecure_channel(served.address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary("/s/Echo")(bytes(3 * MIB))
        assert raised.value.code() is CODE.RESOURCE_EXHAUSTED
        assert "larger than max (3145728 vs. 1000)" in raised.value.details()
        assert await channel.unary_unary("/s/Echo")(bytes(1000)) == bytes(1000)


@both
async def test_a_server_that_drains_finishes_what_it_has(channel, served):
    call = channel.unary_unary("/s/Wait")(b"0.3")
    await until(lambda: served.running)
    for connection in served.connections:
        connection.drain()
    assert await call == b"0.3"
    # The client comes back over a new connection.
    assert await channel.unary_unary("/s/Echo")(b"a", wait_for_ready=True) == b"a"
    assert len(served.connections) == 2


@both
async def test_the_blocking_client(served):
    def ask():
        with grpc.insecure_channel(served.address, options=UNLIMITED) as channel:
            assert channel.unary_unary("/s/Echo")(b"abc", timeout=20) == b"abc"
            assert len(channel.unary_unary("/s/Echo")(bytes(MIB))) == MIB
            assert len(list(channel.unary_stream("/s/Many")(b"100"))) == 100
            assert channel.stream_unary("/s/Total")(iter([b"1", b"2"])) == b"3"
            assert list(channel.stream_stream("/s/Chat")(iter([b"a", b"b"]))) == [b"a", b"b"]
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary("/s/Fail")(b"5")
            assert raised.value.code() is CODE.NOT_FOUND

    await asyncio.to_thread(ask)


@both
async def test_a_unary_method_asked_with_other_numbers_of_messages(channel):
    for messages in ([], [b"a", b"b"]):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.stream_unary("/s/Echo")(iter(messages))
        assert raised.value.code() is CODE.UNIMPLEMENTED
