"""What fuzzing found (tests/fuzz), each as the smallest case that shows it."""

from __future__ import annotations

import gc
import weakref

import pytest

from gateway.wire.exchange import ResponseHead
from gateway.wire.grpc_client import status_of
from gateway.wire.h1_client_connection import H1ClientConnection, H1ClientExchange
from gateway.wire.h1_heads import BadHead, parse_request, parse_response
from gateway.wire.h1_server import H1ServerConnection
from gateway.wire.h2_heads import request_head
from gateway.wire.h2_outbox import outbox_of
from gateway.wire.settings import ClientWireSettings, ServerWireSettings
from tests.parts.h2_peer import REQUEST, RecordingFront, Server, data, headers
from tests.parts.scripted_transport import ScriptedTransport
from tests.parts.virtual_loop import VirtualLoop, virtual_loop
from tests.parts.wire_h1 import Counts

CHUNKS = b"3\r\nabc\r\n1\r\nd\r\n0\r\nT: u\r\n\r\n"


@pytest.fixture
def loop():
    with virtual_loop() as running:
        yield running


class Slow:
    """A front and its sink, or an AnswerSink: pauses at every piece of a body."""

    def __init__(self):
        self.exchange = None
        self.calls = []

    def begin(self, exchange, body):
        self.exchange = exchange
        exchange.sink = self
        exchange.accept_body()

    def on_head(self, head):
        self.calls.append(head.status)

    def on_whole(self, head, body, trailers):
        self.calls += [head.status, bytes(body), trailers]

    def on_data(self, data):
        self.calls.append(bytes(data))
        self.exchange.pause()

    def on_end(self, trailers):
        self.calls.append(trailers)

    def on_gone(self, cause):
        self.calls.append(cause)

    def on_failed(self, error):
        self.calls.append(error.reason)

    def on_writable(self): ...


def serving(loop, front):
    connection = H1ServerConnection(front, ServerWireSettings(), Counts())
    return ScriptedTransport(loop, connection)


@pytest.mark.parametrize(
    ("framing", "body", "expected"),
    [
        (b"Transfer-Encoding: chunked", CHUNKS, [b"abc", b"d", (("t", "u"),)]),
        (b"Content-Length: 3", b"abc", [b"abc", ()]),
    ],
)
def test_a_server_hands_on_nothing_while_the_body_is_paused(loop, framing, body, expected):
    front = Slow()
    transport = serving(loop, front)
    transport.deliver(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")
    loop.run_ready()
    transport.deliver(body)
    for count in range(1, len(expected) + 1):
        loop.run_ready()
        assert front.calls == expected[:count]
        front.exchange.resume()
    loop.run_ready()
    assert front.calls == expected
    front.exchange.respond(200, (), b"done")
    loop.run_ready()
    assert transport.written.endswith(b"\r\n\r\ndone")
    assert not transport.is_closing()


def test_a_server_notices_who_leaves_after_a_body_that_was_paused(loop):
    front = Slow()
    transport = serving(loop, front)
    transport.deliver(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
    loop.run_ready()
    transport.deliver(b"abc")
    front.exchange.resume()
    loop.run_ready()
    assert front.calls == [b"abc", ()]
    transport.deliver_eof()
    loop.run_ready()
    assert front.calls == [b"abc", (), "closed"]


def test_a_bad_body_of_a_head_request_is_refused_without_a_body(loop):
    transport = serving(loop, Slow())
    transport.deliver(b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n")
    loop.run_ready()
    assert transport.written.startswith(b"HTTP/1.1 400 ")
    assert transport.written.endswith(b"connection: close\r\n\r\n")


def test_100_continue_does_not_come_into_an_answer_that_has_begun(loop):
    front = Slow()
    front.begin = lambda exchange, body: (exchange.start(200, (), 2), exchange.accept_body())
    transport = serving(loop, front)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    transport.deliver(head)
    loop.run_ready()
    assert transport.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Continue" not in transport.written


class Asking:
    """One client connection, whose pool remembers that it is free."""

    def __init__(self, loop):
        self.free = []
        self.lost = []
        self.connection = H1ClientConnection(
            "a:1", ClientWireSettings(), self.free.append, self.lost.append
        )
        self.transport = ScriptedTransport(loop, self.connection)

    def ask(self):
        sink = Slow()
        sink.exchange = H1ClientExchange("a:1", sink, b"GET / ...", is_head=False)
        sink.exchange.is_sent = True
        self.connection.begin(sink.exchange, b"")
        return sink


def test_a_client_hands_on_nothing_while_the_answer_is_paused(loop):
    asking = Asking(loop)
    sink = asking.ask()
    asking.transport.deliver(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    asking.transport.deliver(CHUNKS)
    expected = [200, b"abc", b"d", (("t", "u"),)]
    for count in range(2, 4):
        loop.run_ready()
        assert sink.calls == expected[:count]
        assert not asking.free
        sink.exchange.resume()
    loop.run_ready()
    assert sink.calls == expected
    assert asking.free == [asking.connection]
    assert asking.transport.is_reading()


def test_an_answer_that_ends_with_its_connection_ends_when_it_is_resumed(loop):
    asking = Asking(loop)
    sink = asking.ask()
    asking.transport.deliver(b"HTTP/1.1 200 OK\r\n\r\n")
    asking.transport.deliver_eof()
    sink.exchange.pause()  # between the end and the loss of the connection
    loop.run_ready()
    assert (sink.calls, len(asking.lost)) == ([200], 1)
    sink.exchange.resume()
    loop.run_ready()
    assert sink.calls == [200, ()]


def test_an_exchange_that_is_over_does_not_hold_up_the_next_on_its_connection(loop):
    asking = Asking(loop)
    first = asking.ask()
    asking.transport.deliver(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert first.calls == [200, b"", ()]
    second = asking.ask()
    first.exchange.pause()
    assert asking.transport.is_reading()
    second.exchange.pause()
    first.exchange.resume()
    assert not asking.transport.is_reading()


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 600 Strange\r\n\r\n",
        b"HTTP/1.1 099 Strange\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
    ],
)
def test_what_is_no_status_line_is_no_answer(raw):
    with pytest.raises(BadHead):
        parse_response(raw, 10)


def test_a_status_needs_no_words():
    assert parse_response(b"HTTP/1.1 599\r\n\r\n", 10).head.status == 599


@pytest.mark.parametrize("host", [b"a#b", b"a?b", b"a/b", b"a\x7f", b"a\xa0"])
def test_a_host_that_http2_could_not_say_is_refused(host):
    with pytest.raises(BadHead) as refused:
        parse_request(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", 10)
    assert refused.value.status == 400


def test_a_blank_that_http_does_not_have_makes_no_option():
    raw = b"GET / HTTP/1.0\r\nConnection: x,\xa0keep-alive\r\n\r\n"
    assert not parse_request(raw, 10).keep_alive
    assert parse_request(raw.replace(b"\xa0", b"\t"), 10).keep_alive


def test_an_empty_crumb_leaves_no_blank_at_the_end_of_the_cookie():
    pseudo = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")]
    head = request_head([*pseudo, (b"cookie", b"a=b"), (b"cookie", b"")])
    assert head.fields == (("cookie", "a=b"),)


def test_a_status_of_thousands_of_digits_is_unknown():
    head = ResponseHead(200, (("content-type", "application/grpc"),))
    assert status_of(head, (("grpc-status", "9" * 5000),)).code == 2


@pytest.mark.parametrize("deed", ["respond", "abort"])
def test_a_body_that_is_not_taken_to_its_end_costs_no_window(deed):
    front = RecordingFront(accepts=False)
    server = Server(front)
    core = server.side.core
    window = core.recv_window + core.owed
    server.receive(headers(1, *REQUEST), data(1, bytes(2000)), data(1, bytes(2000)))
    [seen] = front.seen

    def on_data(piece):
        if deed == "respond":
            seen.exchange.respond(413, (), b"")
        else:
            seen.exchange.abort()

    seen.on_data = on_data
    seen.exchange.accept_body()
    server.receive(b"")
    assert not core.streams
    assert core.recv_window + core.owed == window


def test_what_waits_to_be_written_does_not_keep_its_loop_alive():
    loop = VirtualLoop()
    assert outbox_of(loop) is outbox_of(loop)
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None
