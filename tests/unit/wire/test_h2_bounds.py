"""What callers may not do: each bound ends the connection with the right code and is counted."""

import pytest

from gateway.wire import h2_frames as h2
from gateway.wire.settings import CAUSES, ServerWireSettings
from tests.parts.h2_peer import HELLO, REQUEST, RecordingFront, Server, block, data, headers

SETTINGS = ServerWireSettings(
    reset_burst=10, control_burst=10, max_continuations=4, max_head_bytes=16384
)


def _many(frame: bytes, times: int = 40) -> bytes:
    return frame * times


def _opened_and_reset() -> bytes:
    return b"".join(headers(n, *REQUEST) + h2.rst_stream(n, 8) for n in range(1, 60, 2))


def _made_us_reset() -> bytes:
    return b"".join(headers(n, *REQUEST, ends=True) + data(n, b"x") for n in range(1, 60, 2))


def _malformed() -> bytes:
    return b"".join(headers(n, ("A", "b"), ends=True) for n in range(1, 60, 2))


FLOODS = {
    "PING": (_many(h2.ping(b"12345678")), "control_flood"),
    "SETTINGS": (_many(h2.settings_frame({})), "control_flood"),
    "settings in few frames": (h2.settings_frame(dict.fromkeys(range(7, 107), 1)), "control_flood"),
    "moved windows": (
        b"".join(headers(n, *REQUEST) for n in range(1, 60, 2))
        + _many(h2.settings_frame({h2.INITIAL_WINDOW_SIZE: 9}), 5),
        "control_flood",
    ),
    "PRIORITY": (_many(h2.frame(h2.PRIORITY, 0, 1, b"\0\0\0\7\1")), "control_flood"),
    "an unknown type": (_many(h2.frame(0xBE, 0, 0, b"")), "control_flood"),
    "empty DATA": (headers(1, *REQUEST) + _many(data(1, b"")), "control_flood"),
    "padding only": (headers(1, *REQUEST) + _many(data(1, b"", pad=9)), "control_flood"),
    "WINDOW_UPDATE": (_many(h2.window_update(0, 1)), "control_flood"),
    "RST_STREAM": (_opened_and_reset(), "reset_flood"),
    "made you reset": (_made_us_reset(), "reset_flood"),
    "malformed heads": (_malformed(), "reset_flood"),
    "CONTINUATION": (
        h2.frame(h2.HEADERS, 0, 1, b"") + _many(h2.frame(h2.CONTINUATION, 0, 1, b"\x82")),
        "continuation_flood",
    ),
    "a long head in pieces": (
        h2.frame(h2.HEADERS, 0, 1, b"") + _many(h2.frame(h2.CONTINUATION, 0, 1, b"\0" * 16384), 4),
        "head_too_large",
    ),
}


@pytest.mark.parametrize(("flood", "cause"), FLOODS.values(), ids=FLOODS)
def test_floods_end_the_connection(flood, cause):
    server = Server(settings=SETTINGS)
    last = server.receive(flood)[-1]
    assert (last.kind, last.code) == (h2.GOAWAY, h2.ENHANCE_YOUR_CALM)
    assert server.watch.causes[-1] == cause
    assert cause in CAUSES
    assert server.side.is_finished
    assert not server.side.core.streams


def test_buckets_fill_with_time():
    settings = ServerWireSettings(control_burst=10, control_per_s=1)
    server = Server(settings=settings)
    server.tick(0.0)
    for now in range(10, 100, 10):
        server.receive(_many(h2.ping(b"12345678"), 8))
        server.tick(float(now))
    assert not server.side.is_finished


def test_window_updates_for_what_we_sent_are_free():
    settings = ServerWireSettings(control_burst=10)
    server = Server(RecordingFront(answer=lambda r: r.exchange.respond(200, (), b"x")), settings)
    for stream_id in range(1, 101, 2):
        server.receive(headers(stream_id, *REQUEST, ends=True))
        server.receive(h2.window_update(0, 1))
    assert not server.side.is_finished


def test_window_updates_of_requests_answered_without_data_are_free():
    # gRPC's core widens every call's window before it knows that trailers are all that comes.
    settings = ServerWireSettings(control_burst=10)
    server = Server(RecordingFront(answer=lambda r: r.exchange.respond(404, (), b"")), settings)
    for stream_id in range(1, 101, 2):
        server.receive(headers(stream_id, *REQUEST, ends=True))
        server.receive(h2.window_update(stream_id, 5), h2.window_update(0, 1))
    assert not server.side.is_finished


def test_a_request_does_not_account_for_any_number_of_window_updates():
    server = Server(RecordingFront(), ServerWireSettings(control_burst=10))
    server.receive(headers(1, *REQUEST, ends=True), _many(h2.window_update(1, 1)))
    assert server.watch.causes == ["control_flood"]


def test_a_caller_who_takes_half_of_its_answers_may_reset_the_others():
    settings = ServerWireSettings(reset_burst=10)
    server = Server(settings=settings)
    for stream_id in range(1, 201, 4):
        server.receive(headers(stream_id, *REQUEST, ends=True))
        server.front.seen[-1].exchange.respond(200, (), b"x")
        server.receive(headers(stream_id + 2, *REQUEST, ends=True), h2.rst_stream(stream_id + 2, 8))
    assert not server.side.is_finished


def test_a_large_answer_accounts_for_many_window_updates_and_not_for_ever():
    body = b"x" * 65_536
    settings = ServerWireSettings(control_burst=10)
    server = Server(RecordingFront(answer=lambda r: r.exchange.respond(200, (), body)), settings)
    server.receive(h2.window_update(0, 10**6), headers(1, *REQUEST, ends=True))
    server.receive(_many(h2.window_update(0, 1), 16))
    assert not server.side.is_finished
    server.receive(_many(h2.window_update(0, 1), 40))
    assert server.watch.causes == ["control_flood"]


OPEN = headers(1, *REQUEST)
ERRORS = {
    "DATA on stream 0": (data(0, b"x"), h2.PROTOCOL_ERROR),
    "DATA on an idle stream": (data(5, b"x"), h2.PROTOCOL_ERROR),
    "HEADERS on stream 0": (headers(0, *REQUEST), h2.PROTOCOL_ERROR),
    "HEADERS on an even stream": (headers(2, *REQUEST), h2.PROTOCOL_ERROR),
    "an older stream": (headers(5, *REQUEST) + headers(3, *REQUEST), h2.STREAM_CLOSED),
    "PUSH_PROMISE": (h2.frame(h2.PUSH_PROMISE, 4, 1, b"\0\0\0\2"), h2.PROTOCOL_ERROR),
    "a frame too large": (b"\x04\0\1\0\0\0\0\0\1", h2.FRAME_SIZE_ERROR),
    "HEADERS too large": (b"\x00\x40\1\1\4\0\0\0\1", h2.FRAME_SIZE_ERROR),
    "PING of 7": (h2.frame(h2.PING, 0, 0, b"1234567"), h2.FRAME_SIZE_ERROR),
    "PING on a stream": (h2.frame(h2.PING, 0, 1, b"12345678"), h2.PROTOCOL_ERROR),
    "half a setting": (h2.frame(h2.SETTINGS, 0, 0, b"12345"), h2.FRAME_SIZE_ERROR),
    "SETTINGS ACK with something": (h2.frame(h2.SETTINGS, 1, 0, b"123456"), h2.FRAME_SIZE_ERROR),
    "a wrong ENABLE_PUSH": (h2.settings_frame({2: 2}), h2.PROTOCOL_ERROR),
    "a wrong window": (h2.settings_frame({4: 1 << 31}), h2.FLOW_CONTROL_ERROR),
    "a wrong frame size": (h2.settings_frame({5: 16383}), h2.PROTOCOL_ERROR),
    "an update of nothing": (h2.window_update(0, 0), h2.PROTOCOL_ERROR),
    "a window too large": (h2.window_update(0, h2.MAX_WINDOW_BYTES), h2.FLOW_CONTROL_ERROR),
    "an update of an idle stream": (h2.window_update(1, 1), h2.PROTOCOL_ERROR),
    "RST_STREAM of an idle one": (h2.rst_stream(1, 8), h2.PROTOCOL_ERROR),
    "RST_STREAM on stream 0": (h2.rst_stream(0, 8), h2.PROTOCOL_ERROR),
    "GOAWAY too short": (h2.frame(h2.GOAWAY, 0, 0, b"1234567"), h2.FRAME_SIZE_ERROR),
    "CONTINUATION of nothing": (h2.frame(h2.CONTINUATION, 4, 1, b""), h2.PROTOCOL_ERROR),
    "an interrupted head": (
        h2.frame(h2.HEADERS, 0, 1, b"\x82") + h2.ping(b"12345678"),
        h2.PROTOCOL_ERROR,
    ),
    "CONTINUATION of another": (
        h2.frame(h2.HEADERS, 0, 1, b"\x82") + h2.frame(h2.CONTINUATION, 4, 3, b""),
        h2.PROTOCOL_ERROR,
    ),
    "padding beyond DATA": (OPEN + h2.frame(h2.DATA, 8, 1, b"\x05abc"), h2.PROTOCOL_ERROR),
    "padding without DATA": (OPEN + h2.frame(h2.DATA, 8, 1, b""), h2.FRAME_SIZE_ERROR),
    "padding beyond HEADERS": (h2.frame(h2.HEADERS, 12, 1, b"\x09\x82"), h2.PROTOCOL_ERROR),
    "a stream that depends on itself": (
        h2.frame(h2.PRIORITY, 0, 1, b"\0\0\0\1\1"),
        h2.PROTOCOL_ERROR,
    ),
    "no HPACK": (h2.frame(h2.HEADERS, 5, 1, b"\x80"), h2.COMPRESSION_ERROR),
}


@pytest.mark.parametrize(("what", "code"), ERRORS.values(), ids=ERRORS)
def test_broken_rules_end_the_connection(what, code):
    server = Server()
    last = server.receive(what)[-1]
    assert (last.kind, last.code) == (h2.GOAWAY, code)
    assert server.watch.causes == ["protocol_error"]
    # And whatever comes after is not looked at.
    assert server.receive(headers(7, *REQUEST, ends=True)) == []


STREAM_ERRORS = {
    "DATA after its end": (headers(1, *REQUEST, ends=True) + data(1, b"x"), h2.STREAM_CLOSED),
    "HEADERS after its end": (
        headers(1, *REQUEST, ends=True) + headers(1, ("a", "b"), ends=True),
        h2.STREAM_CLOSED,
    ),
    "trailers that do not end": (OPEN + headers(1, ("a", "b")), h2.PROTOCOL_ERROR),
    "trailers with a pseudo-field": (
        OPEN + headers(1, (":path", "/"), ends=True),
        h2.PROTOCOL_ERROR,
    ),
    "a malformed head": (headers(1, *REQUEST, ("connection", "close")), h2.PROTOCOL_ERROR),
    "more than content-length": (
        headers(1, *REQUEST, ("content-length", "2")) + data(1, b"xyz"),
        h2.PROTOCOL_ERROR,
    ),
    "less than content-length": (
        headers(1, *REQUEST, ("content-length", "2")) + data(1, b"x", ends=True),
        h2.PROTOCOL_ERROR,
    ),
    "no body for a content-length": (
        headers(1, *REQUEST, ("content-length", "2"), ends=True),
        h2.PROTOCOL_ERROR,
    ),
    "an update of nothing": (OPEN + h2.window_update(1, 0), h2.PROTOCOL_ERROR),
    "a window too large": (
        OPEN + h2.window_update(1, h2.MAX_WINDOW_BYTES),
        h2.FLOW_CONTROL_ERROR,
    ),
}


@pytest.mark.parametrize(("what", "code"), STREAM_ERRORS.values(), ids=STREAM_ERRORS)
def test_other_broken_rules_end_their_stream_only(what, code):
    server = Server()
    last = server.receive(what)[-1]
    assert (last.kind, last.code, last.stream_id) == (h2.RST_STREAM, code, 1)
    assert server.watch.causes == ["protocol_error"]
    assert not server.side.core.streams
    server.receive(headers(3, *REQUEST, ends=True))
    assert server.front.seen[-1].exchange.id == 3


PREFACES = {
    "HTTP/1.1": b"GET / HTTP/1.1\r\n\r\n",
    "half of it": b"PRI * HTTP/2.0\r\n\r\nXX",
    "no SETTINGS": h2.PREFACE + h2.ping(b"12345678"),
    "SETTINGS of ours": h2.PREFACE + h2.SETTINGS_ACK,
}


@pytest.mark.parametrize("begun", PREFACES.values(), ids=PREFACES)
def test_a_wrong_beginning_ends_the_connection(begun):
    server = Server(greet=False)
    assert server.receive(begun)[-1].code == h2.PROTOCOL_ERROR


def test_what_is_unknown_is_ignored():
    server = Server(RecordingFront(answer=lambda r: r.exchange.respond(204, (), b"")))
    server.receive(
        h2.frame(0xEE, 0xFF, 1, b"x" * 100), h2.settings_frame({0x99: 7}), h2.frame(0x10, 0, 0, b"")
    )
    assert [f.kind for f in server.receive(headers(1, *REQUEST, ends=True))] == [h2.HEADERS]


def test_what_is_remembered_of_reset_streams_is_bounded():
    server = Server(settings=ServerWireSettings(max_streams=0, reset_burst=10**6))
    for stream_id in range(1, 5001, 2):
        server.receive(headers(stream_id, *REQUEST))
    assert len(server.side.core.recent) <= 1024


def test_a_caller_may_begin_byte_by_byte():
    server = Server(RecordingFront(answer=lambda r: r.exchange.respond(204, (), b"")), greet=False)
    raw = HELLO + headers(1, *REQUEST, ends=True)
    server.receive(*[raw[n : n + 1] for n in range(len(raw))])
    assert server.front.seen[0].head.path == "/a"
    assert block((":path", "/a")) in raw
