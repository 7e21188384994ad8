"""Who gets a connection, and when it ends. The protocols' own classes are stood in for here."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from contextlib import asynccontextmanager

import pytest
import uvloop

from gateway.wire import listener as listener_module
from gateway.wire.listener import Listener
from gateway.wire.settings import ServerWireSettings
from gateway.wire.tls import CertificateFiles
from tests.parts.certificates import self_signed, shown_name, trusting

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SOON = ServerWireSettings(head_timeout_s=0.1)


class Counts:
    def __init__(self):
        self.causes = []

    def opened(self, protocol):
        pass

    def closed(self, protocol):
        pass

    def refused(self, cause):
        self.causes.append(cause)


class FakeConnection(asyncio.Protocol):
    """Says what it is and echoes; a `!` makes it busy until `done`."""

    name = ""

    def __init__(self, front, settings, watch, *, is_tls=False, on_lost=None):
        self.front = front
        self.is_tls = is_tls
        self.on_lost = on_lost
        self.is_idle = True
        self.drained = 0
        self.is_closing = False
        self.transport = None
        front.append(self)

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.name.encode() + b":")

    def data_received(self, data):
        self.is_idle = b"!" not in data
        self.transport.write(data)

    def connection_lost(self, error):
        self.on_lost(self)

    def drain(self):
        self.drained += 1

    def done(self):
        self.is_idle = True

    def close(self):
        self.transport.abort()


class FakeH1(FakeConnection):
    name = "h1"


class FakeH2(FakeConnection):
    name = "h2"


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
    monkeypatch.setattr(listener_module, "H1ServerConnection", FakeH1)
    monkeypatch.setattr(listener_module, "H2ServerConnection", FakeH2)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    return asyncio.run if request.param == "asyncio" else uvloop.run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("tls"))


class Served:
    def __init__(self, tls=None, settings=None):
        self.front = []
        self.watch = Counts()
        self.listener = Listener(self.front, settings, watch=self.watch, tls=tls)
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.address = self.sock.getsockname()

    async def connect(self, tls=None):
        return await asyncio.open_connection(*self.address, ssl=tls)

    async def until(self, is_so):
        async with asyncio.timeout(30):
            while not is_so():  # noqa: ASYNC110  any condition
                await asyncio.sleep(0.005)


@asynccontextmanager
async def served(tls=None, settings=None, drain_s=5.0):
    one = Served(tls, settings)
    await one.listener.start(one.sock)
    try:
        yield one
    finally:
        await one.listener.stop(drain_s)
        assert one.listener.connections == 0


@asynccontextmanager
async def closing(writer):
    try:
        yield
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (PREFACE, b"h2"),
        (b"POST /v1/models/m:predict HTTP/1.1\r\n", b"h1"),
        (b"PRINT / HTTP/1.1\r\n", b"h1"),
        (b"PRI * HTTP/1.1\r\n", b"h1"),
        (b"\r\n", b"h1"),
        (b"\x16\x03\x01\x00", b"h1"),
    ],
)
@pytest.mark.parametrize("is_slow", [False, True])
def test_the_first_bytes_say_what_a_connection_speaks_however_they_arrive(run, sent, name, is_slow):
    async def test():
        async with served() as server:
            reader, writer = await server.connect()
            async with closing(writer):
                for piece in [bytes([b]) for b in sent] if is_slow else [sent]:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                wanted = name + b":" + sent
                assert await reader.readexactly(len(wanted)) == wanted
                assert not server.front[0].is_tls
                assert server.listener.connections == 1
            await server.until(lambda: server.listener.connections == 0)

    run(test())


@pytest.mark.parametrize(
    ("offered", "sent", "name"),
    [
        (["h2", "http/1.1"], b"", b"h2"),
        (["http/1.1"], b"", b"h1"),
        ([], PREFACE, b"h2"),
        ([], b"GET / HTTP/1.1\r\n", b"h1"),
        (["spdy/3"], b"GET / HTTP/1.1\r\n", b"h1"),
    ],
)
def test_under_tls_alpn_decides_and_without_it_the_first_bytes(run, files, offered, sent, name):
    async def test():
        async with served(CertificateFiles(*files).context) as server:
            reader, writer = await server.connect(trusting(files[0], *offered))
            async with closing(writer):
                writer.write(sent + b"x")
                wanted = name + b":" + sent + b"x"
                assert await reader.readexactly(len(wanted)) == wanted
                assert server.front[0].is_tls

    run(test())


def test_further_connections_than_the_bound_are_closed_and_counted(run):
    async def test():
        settings = ServerWireSettings(max_connections=2)
        async with served(settings=settings) as server:
            kept = [await server.connect() for _ in range(2)]
            await server.until(lambda: server.listener.connections == 2)
            reader, writer = await server.connect()
            async with closing(writer):
                assert await reader.read() == b""
            assert server.watch.causes == ["connections_limit"]
            kept[0][1].close()
            await kept[0][1].wait_closed()
            await server.until(lambda: server.listener.connections == 1)
            reader, writer = await server.connect()
            async with closing(writer), closing(kept[1][1]):
                writer.write(b"GET ")
                assert await reader.readexactly(7) == b"h1:GET "

    run(test())


@pytest.mark.parametrize("sent", [b"", b"PRI * "])
def test_who_does_not_say_what_it_speaks_is_closed(run, sent):
    async def test():
        async with served(settings=SOON) as server:
            reader, writer = await server.connect()
            async with closing(writer):
                writer.write(sent)
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
            await server.until(lambda: server.watch.causes == ["head_timeout"])
            assert server.listener.connections == 0
            assert not server.front

    run(test())


@pytest.mark.parametrize("how", ["silence", "garbage", "leaves", "resets", "half"])
def test_a_broken_handshake_is_counted_and_leaves_nothing(run, files, how):
    async def test():
        async with served(CertificateFiles(*files).context, SOON) as server:
            reader, writer = await server.connect()
            async with closing(writer):
                if how == "garbage":
                    writer.write(b"GET / HTTP/1.1\r\n\r\n")
                elif how == "half":
                    writer.write(b"\x16\x03\x01\x02\x00\x01\x00")
                elif how == "leaves":
                    writer.close()
                elif how == "resets":
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    await reader.read()
            await server.until(lambda: set(server.watch.causes) == {"tls_handshake"})
            await server.until(lambda: server.listener.connections == 0)
            assert not server.front
            assert len(server.watch.causes) == 1

    run(test())


def test_answers_leave_at_once(run):
    async def test():
        async with served() as server:
            reader, writer = await server.connect()
            async with closing(writer):
                writer.write(b"G")
                await reader.readexactly(4)
                sock = server.front[0].transport.get_extra_info("socket")
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(test())


def test_a_stop_waits_for_requests_and_for_nobody_else(run):
    async def test():
        async with served() as server:
            streams = [await server.connect() for _ in range(3)]
            for (reader, writer), sent in zip(streams, [b"G", b"!", b""], strict=True):
                writer.write(sent)
                if sent:
                    await reader.readexactly(4)
            idle, busy = server.front
            await server.until(lambda: server.listener.connections == 3)
            async with asyncio.TaskGroup() as tasks:
                stopping = tasks.create_task(server.listener.stop(60))
                await server.until(lambda: busy.drained)
                with pytest.raises(ConnectionRefusedError):
                    await server.connect()
                assert not stopping.done()
                busy.done()
            assert idle.drained == 1
            for reader, writer in streams:
                async with closing(writer):
                    with contextlib.suppress(ConnectionResetError):
                        assert await reader.read() == b""

    run(test())


def test_a_stop_waits_no_longer_than_it_was_told(run):
    async def test():
        async with served() as server:
            reader, writer = await server.connect()
            async with closing(writer):
                writer.write(b"!")
                await reader.readexactly(4)
                await server.listener.stop(0.05)
                assert server.listener.connections == 0

    run(test())


def test_a_patient_stop_lets_idle_connections_bring_one_more_request(run):
    async def test():
        async with served() as server:
            streams = [await server.connect() for _ in range(3)]
            for (reader, writer), sent in zip(streams, [b"G", PREFACE, b""], strict=True):
                writer.write(sent)
                if sent:
                    await reader.readexactly(3 + len(sent))
            one, two = server.front
            async with asyncio.TaskGroup() as tasks:
                stopping = tasks.create_task(server.listener.stop(60, patience_s=60))
                await server.until(lambda: two.drained)  # HTTP/2 says what it will still answer
                two.close()
                assert one.is_closing
                assert not one.drained
                # The connection that had said nothing yet is still taken.
                streams[2][1].write(b"!")
                assert await streams[2][0].readexactly(4) == b"h1:!"
                await server.until(lambda: server.front[2].is_closing)
                assert not stopping.done()
                one.close()
                server.front[2].close()
            for _, writer in streams:
                async with closing(writer):
                    pass

    run(test())


def test_a_socket_that_is_left_is_closed_and_its_connections_stay(run):
    async def test():
        async with served() as server:
            other = socket.create_server(("127.0.0.1", 0))
            address = other.getsockname()
            await server.listener.start(other)
            reader, writer = await asyncio.open_connection(*address)
            async with closing(writer):
                writer.write(b"G")
                await reader.readexactly(4)
                server.listener.leave(other)
                await asyncio.sleep(0.01)
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection(*address)
                writer.write(b"E")
                assert await reader.readexactly(1) == b"E"
            _, writer = await server.connect()
            writer.close()
            await writer.wait_closed()

    run(test())


def test_a_new_certificate_is_shown_from_then_on_and_a_bad_one_never(run, tmp_path):
    async def test():
        old, new = self_signed(tmp_path, "old"), self_signed(tmp_path, "new")
        cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
        cert.write_bytes(old[0].read_bytes())
        key.write_bytes(old[1].read_bytes())
        files = CertificateFiles(cert, key)

        async def shown(server, trusted):
            _, writer = await server.connect(trusting(trusted, "h2"))
            async with closing(writer):
                return shown_name(writer.get_extra_info("ssl_object"))

        async with served(files.context) as server:
            reader, writer = await server.connect(trusting(old[0], "h2"))
            async with closing(writer):
                assert await reader.readexactly(3) == b"h2:"
                cert.write_bytes(new[0].read_bytes())
                with pytest.raises(Exception, match="is not the key"):
                    files.reload()
                assert await shown(server, old[0]) == "old"
                key.write_bytes(new[1].read_bytes())
                files.reload()
                server.listener.tls = files.context
                assert await shown(server, new[0]) == "new"
                writer.write(b"still here")
                assert await reader.readexactly(10) == b"still here"

    run(test())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_of_tls_are_refused(run, files):
    async def test():
        context = trusting(files[0])
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        async with served(CertificateFiles(*files).context) as server:
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                await server.connect(context)
            await server.until(lambda: server.watch.causes == ["tls_handshake"])

    run(test())


def test_a_caller_who_reads_nothing_does_not_hold_up_a_stop(run):
    async def test():
        async with served() as server:
            _, writer = await server.connect()
            writer.transport.pause_reading()
            async with closing(writer):
                writer.write(b"!")
                await server.until(lambda: server.front)
                connection = server.front[0]
                connection.close = connection.transport.close  # as it may be: flushes first
                connection.transport.write(bytes(64 << 20))
                await server.listener.stop(0)
                assert server.listener.connections == 0

    run(test())
