"""The server's half: requests, answers, windows, and the end of a connection."""

import pytest

from gateway.wire import h2_frames as h2
from gateway.wire.fields import Fields
from gateway.wire.settings import ServerWireSettings
from tests.parts.h2_peer import (
    HELLO,
    REQUEST,
    RecordingFront,
    Server,
    block,
    data,
    frames_of,
    headers,
)

OK = Fields([("x-a", "b")])
STATUS = Fields([("grpc-status", "0")])


def kinds(frames):
    return [(f.kind, f.flags, f.stream_id) for f in frames]


def respond(recorder):
    recorder.exchange.respond(200, (OK,), recorder.whole, (STATUS,))


def test_a_request_that_came_at_once_is_handed_over_whole_and_answered_at_once():
    server = Server(RecordingFront(answer=respond))
    frames = server.receive(headers(1, *REQUEST) + data(1, b"abc") + data(1, b"de", ends=True))
    assert server.front.seen[0].body == b"abcde"
    assert server.front.seen[0].exchange.peer == "1.2.3.4:5"
    assert kinds(frames) == [(1, 4, 1), (0, 0, 1), (1, 5, 1)]
    assert frames[1].payload == b"abcde"
    assert frames[2].payload == STATUS.h2
    assert not server.side.core.streams


def test_the_same_head_is_the_same_object():
    server = Server(RecordingFront(answer=respond))
    for stream_id in (1, 3):
        server.receive(headers(stream_id, *REQUEST, ends=True))
    first, second = server.front.seen
    assert first.head is second.head


def test_a_body_that_is_still_coming_is_held_until_it_is_accepted():
    server = Server(RecordingFront(accepts=False))
    server.receive(headers(1, *REQUEST) + data(1, b"a"), data(1, b"b"))
    seen = server.front.seen[0]
    assert (seen.body, seen.pieces) == (None, [])
    seen.exchange.accept_body()
    server.sent()
    server.receive(data(1, b"c", ends=True))
    assert seen.whole == b"abc"
    assert seen.trailers == ()


def test_single_bytes_that_are_held_are_put_together():
    server = Server(RecordingFront(accepts=False))
    server.receive(headers(1, *REQUEST), *[data(1, b"x") for _ in range(500)])
    assert len(server.side.core.streams[1].held) <= 2


def test_padding_is_no_body_and_counts_for_windows():
    server = Server()
    server.receive(headers(1, *REQUEST), data(1, b"abc", pad=200), data(1, b"", ends=True, pad=3))
    assert server.front.seen[0].whole == b"abc"
    assert server.side.core.owed == 3 + 201 + 4


def test_trailers_of_a_request_are_told():
    server = Server()
    trailers = h2.frame(h2.HEADERS, 5, 1, block(("x-t", "1")))
    server.receive(headers(1, *REQUEST) + data(1, b"abc") + trailers)
    assert server.front.seen[0].whole == b"abc"
    assert server.front.seen[0].trailers == (("x-t", "1"),)


def test_a_head_in_pieces_is_put_together():
    server = Server(RecordingFront(answer=respond))
    whole = block(*REQUEST, ("x-long", "v" * 100))
    frames = server.receive(
        h2.frame(h2.HEADERS, h2.END_STREAM, 1, whole[:10]),
        h2.frame(h2.CONTINUATION, 0, 1, whole[10:20]),
        h2.frame(h2.CONTINUATION, h2.END_HEADERS, 1, whole[20:]),
    )
    assert server.front.seen[0].head.get("x-long") == "v" * 100
    assert kinds(frames)[0] == (1, 4, 1)


def test_continue_is_sent_when_the_body_is_accepted():
    server = Server()
    frames = server.receive(headers(1, *REQUEST, ("expect", "100-continue")))
    assert [(f.kind, f.payload) for f in frames] == [(h2.HEADERS, block((":status", "100")))]


def test_an_early_answer_refuses_the_rest_of_the_body():
    def refuse(recorder):
        recorder.exchange.respond(413, (), b"too large")

    server = Server(RecordingFront(answer=refuse))
    frames = server.receive(headers(1, *REQUEST) + data(1, b"a" * 10))
    assert kinds(frames) == [(1, 4, 1), (0, 1, 1), (3, 0, 1)]
    assert frames[-1].code == h2.NO_ERROR
    # What is on its way is no mistake, and the connection's window is given back.
    assert server.receive(data(1, b"b" * 10, ends=True)) == []
    assert server.side.core.owed == 20


def test_the_trailers_of_an_early_answer_come_before_its_reset():
    """Who sees the reset first does not know the status (grpc's clients say INTERNAL)."""

    def answer(recorder):
        recorder.exchange.accept_body()
        recorder.exchange.start(200, (OK,), None)
        recorder.exchange.write(b"a")
        recorder.exchange.end((STATUS,))

    server = Server(RecordingFront(answer=answer))
    frames = server.receive(headers(1, *REQUEST) + data(1, b"more is to come"))
    assert kinds(frames) == [(1, 4, 1), (0, 0, 1), (1, 5, 1), (3, 0, 1)]
    assert frames[2].payload == STATUS.h2
    assert frames[3].code == h2.NO_ERROR


def test_the_reset_of_an_early_answer_waits_for_all_of_it():
    body = b"x" * 70_000
    server = Server(RecordingFront(answer=lambda r: r.exchange.respond(200, (), body, (STATUS,))))
    frames = server.receive(headers(1, *REQUEST) + data(1, b"more is to come"))
    assert frames[-1].kind == h2.DATA
    frames = server.receive(h2.window_update(1, 10_000) + h2.window_update(0, 10_000))
    assert [f.kind for f in frames] == [h2.DATA, h2.HEADERS, h2.RST_STREAM]


def test_an_answer_to_head_has_a_length_and_no_body():
    server = Server(RecordingFront(answer=lambda r: r.exchange.respond(200, (), b"abc")))
    frames = server.receive(headers(1, (":method", "HEAD"), *REQUEST[1:], ends=True))
    assert kinds(frames) == [(1, 5, 1)]
    assert block(("content-length", "3")) in frames[0].payload


def test_answers_in_pieces():
    server = Server()
    server.receive(headers(1, *REQUEST, ends=True))
    exchange = server.front.seen[0].exchange
    exchange.start(200, (), 2)
    exchange.write(b"a")
    exchange.write(b"b")
    exchange.end((STATUS,))
    exchange.write(b"ignored")
    exchange.respond(500, (), b"ignored")
    frames = server.sent()
    assert kinds(frames) == [(1, 4, 1), (0, 0, 1), (0, 0, 1), (1, 5, 1)]


@pytest.mark.parametrize(("is_overload", "code"), [(False, 2), (True, 11)])
def test_an_answer_that_is_broken_off_is_reset(is_overload, code):
    server = Server()
    server.receive(headers(1, *REQUEST, ends=True))
    server.front.seen[0].exchange.start(200, (), None)
    server.front.seen[0].exchange.abort(is_overload)
    assert server.sent()[-1].code == code
    assert server.front.seen[0].gone is None


def test_a_front_that_raises_loses_only_that_request(caplog):
    def fail(recorder):
        if recorder.head.path == "/bad":
            raise RuntimeError("a bug")
        respond(recorder)

    server = Server(RecordingFront(answer=fail))
    bad = headers(1, *REQUEST[:2], (":path", "/bad"), ends=True)
    frames = server.receive(bad + headers(3, *REQUEST, ends=True))
    assert [(f.kind, f.stream_id) for f in frames] == [(3, 1), (1, 3), (1, 3)]
    assert "front.begin raised" in caplog.text


def test_a_caller_that_resets_is_gone():
    server = Server()
    server.receive(headers(1, *REQUEST), h2.rst_stream(1, h2.CANCEL))
    assert server.front.seen[0].gone == "reset"
    server.front.seen[0].exchange.respond(200, (), b"")
    assert server.sent() == []


def test_a_request_that_is_reset_in_the_same_read_never_begins():
    server = Server()
    server.receive(headers(1, *REQUEST, ends=True) + h2.rst_stream(1, h2.CANCEL))
    assert server.front.seen == []


def test_a_head_that_is_too_large_is_answered_431():
    server = Server(settings=ServerWireSettings(max_head_bytes=2000))
    frames = server.receive(headers(1, *REQUEST, ("x", "v" * 2000), ends=True))
    assert frames[0].payload.startswith(block((":status", "431")))
    assert server.front.seen == []
    assert server.watch.causes == ["head_too_large"]
    assert not server.side.core.streams


def test_streams_are_bounded():
    server = Server(settings=ServerWireSettings(max_streams=2))
    frames = server.receive(b"".join(headers(n, *REQUEST) for n in (1, 3, 5)))
    assert [(f.kind, f.stream_id, f.code) for f in frames] == [(3, 5, h2.REFUSED_STREAM)]
    assert server.watch.causes == ["streams_limit"]


def test_nothing_half_is_written():
    server = Server(RecordingFront(answer=respond), greet=False)
    server.side.core.receive(HELLO + headers(1, *REQUEST, ends=True))
    assert frames_of(server.raw())


# ---- windows --------------------


def test_what_was_handed_over_is_given_back_by_halves():
    settings = ServerWireSettings(stream_window_bytes=100_000, connection_window_bytes=150_000)
    server = Server(settings=settings)
    server.receive(headers(1, *REQUEST))
    assert server.receive(data(1, b"x" * 49_999)) == []
    assert [
        (f.kind, f.stream_id, int.from_bytes(f.payload)) for f in server.receive(data(1, b"x"))
    ] == [(h2.WINDOW_UPDATE, 1, 50_000)]
    frames = server.receive(data(1, b"x" * 25_000))
    assert [(f.stream_id, int.from_bytes(f.payload)) for f in frames] == [(0, 75_000)]


def test_a_paused_exchange_gets_no_credit_until_it_goes_on():
    settings = ServerWireSettings(stream_window_bytes=65_535, connection_window_bytes=65_535)
    server = Server(settings=settings)
    server.receive(headers(1, *REQUEST))
    seen = server.front.seen[0]
    seen.exchange.pause()
    assert server.receive(data(1, b"x" * 60_000)) == []
    assert seen.pieces == []
    seen.exchange.resume()
    assert {f.stream_id for f in server.sent()} == {0, 1}
    assert seen.whole == b"x" * 60_000


def test_pausing_from_within_on_data_stops_at_once():
    server = Server(RecordingFront(accepts=False))
    server.receive(headers(1, *REQUEST), data(1, b"x" * 2000), data(1, b"y" * 2000, ends=True))
    seen = server.front.seen[0]
    taken = seen.on_data

    def on_data(piece):
        taken(piece)
        seen.exchange.pause()

    seen.on_data = on_data
    seen.exchange.accept_body()
    server.sent()
    assert [len(p) for p in seen.pieces] == [2000]
    assert seen.trailers is None
    for _ in range(3):
        seen.exchange.resume()
        server.sent()
    assert seen.whole == b"x" * 2000 + b"y" * 2000
    assert seen.trailers == ()


@pytest.mark.parametrize("stream_window", [65_535, 1 << 20])
def test_more_than_a_window_is_an_error(stream_window):
    settings = ServerWireSettings(
        stream_window_bytes=stream_window, connection_window_bytes=100_000, max_frame_bytes=1 << 20
    )
    server = Server(RecordingFront(accepts=False), settings)
    frames = server.receive(headers(1, *REQUEST) + data(1, b"x" * 100_001))
    assert frames[-1].code == h2.FLOW_CONTROL_ERROR
    assert frames[-1].kind == h2.GOAWAY


def test_more_than_a_streams_window_ends_the_stream():
    settings = ServerWireSettings(stream_window_bytes=65_535)
    server = Server(RecordingFront(accepts=False), settings)
    frames = server.receive(headers(1, *REQUEST), data(1, b"x" * 65_535), data(1, b"x"))
    assert [(f.kind, f.code) for f in frames] == [(h2.RST_STREAM, h2.FLOW_CONTROL_ERROR)]
    assert server.front.seen[0].gone == "protocol_error"


def test_answers_respect_the_callers_windows_and_frame_size():
    body = bytes(range(256)) * 400  # 102 400 bytes
    server = Server(RecordingFront(answer=lambda r: r.exchange.respond(200, (), body, (STATUS,))))
    sent = server.receive(headers(1, *REQUEST, ends=True))
    pieces = [f for f in sent if f.kind == h2.DATA]
    assert [len(f.payload) for f in pieces] == [16384, 16384, 16384, 16383]
    assert server.receive(h2.window_update(1, 100_000)) == []
    more = server.receive(h2.window_update(0, 100_000))
    got = b"".join(f.payload for f in [*pieces, *more] if f.kind == h2.DATA)
    assert got == body
    assert kinds(more)[-1] == (1, 5, 1)
    assert not server.side.core.streams


def test_streams_of_one_connection_take_turns():
    body = b"x" * 60_000
    server = Server(RecordingFront(answer=lambda r: r.exchange.respond(200, (), body)))
    none = h2.settings_frame({h2.INITIAL_WINDOW_SIZE: 0})
    server.receive(none, headers(1, *REQUEST, ends=True), headers(3, *REQUEST, ends=True))
    frames = server.receive(h2.settings_frame({h2.INITIAL_WINDOW_SIZE: 60_000}))
    order = [f.stream_id for f in frames if f.kind == h2.DATA]
    assert order == [1, 3, 1, 3]


def test_a_smaller_initial_window_may_make_windows_negative():
    server = Server(RecordingFront(answer=lambda r: r.exchange.respond(200, (), b"x" * 200_000)))
    server.receive(headers(1, *REQUEST, ends=True))
    server.receive(h2.settings_frame({h2.INITIAL_WINDOW_SIZE: 100}), h2.window_update(0, 10**6))
    assert server.receive(h2.window_update(1, 65_435)) == []
    assert [len(f.payload) for f in server.receive(h2.window_update(1, 7))] == [7]


def test_frames_are_no_larger_than_we_want_them_whatever_the_caller_takes():
    body = b"x" * (1 << 20)
    server = Server(RecordingFront(answer=lambda r: r.exchange.respond(200, (), body)))
    wide = h2.settings_frame({h2.INITIAL_WINDOW_SIZE: 1 << 30, h2.MAX_FRAME_SIZE: (1 << 24) - 1})
    frames = server.receive(wide + h2.window_update(0, 1 << 30), headers(1, *REQUEST, ends=True))
    assert [len(f.payload) for f in frames if f.kind == h2.DATA] == [1 << 18] * 4


def test_a_caller_who_takes_nothing_gets_no_further_requests_begun():
    settings = ServerWireSettings(max_unsent_bytes=100_000, reset_burst=5)
    body = b"x" * 40_000
    server = Server(RecordingFront(answer=lambda r: r.exchange.respond(200, (), body)), settings)
    server.receive(h2.settings_frame({h2.INITIAL_WINDOW_SIZE: 0}))
    asked = b"".join(headers(n, *REQUEST, ends=True) for n in range(1, 21, 2))
    server.receive(asked)
    assert len(server.front.seen) == 3
    assert server.side.core.sender.queued < 140_000
    # They are begun in turn as answers leave, whether these are taken or given up.
    server.receive(h2.window_update(1, 40_000))
    assert [seen.exchange.id for seen in server.front.seen] == [1, 3, 5, 7]
    server.receive(h2.rst_stream(3, h2.CANCEL))
    assert [seen.exchange.id for seen in server.front.seen] == [1, 3, 5, 7, 9]
    # Who resets a request that has not begun leaves nothing behind, not even where it waited.
    server.receive(h2.rst_stream(11, h2.CANCEL))
    assert len(server.side.core.postponed) == 4
    # A new one does not go before older ones.
    server.receive(headers(21, *REQUEST, ends=True))
    server.receive(h2.window_update(5, 40_000))
    assert server.front.seen[-1].exchange.id == 13
    server.side.finish("closed")
    assert not server.side.core.postponed
    assert server.side.core.sender.queued == 0


def test_who_writes_is_told_of_congestion_and_of_its_end():
    settings = ServerWireSettings(write_high_bytes=40_000)
    server = Server(settings=settings)
    server.receive(h2.settings_frame({h2.INITIAL_WINDOW_SIZE: 0}), headers(1, *REQUEST, ends=True))
    seen = server.front.seen[0]
    seen.exchange.start(200, (), None)
    while not seen.exchange.is_congested:
        seen.exchange.write(b"x" * 10_000)
    assert len(server.sent()) == 1
    server.receive(h2.window_update(1, 10_000))
    assert seen.writable == 0
    server.receive(h2.window_update(1, 25_000))
    assert seen.writable == 1
    assert not seen.exchange.is_congested


def test_bodies_wait_for_the_transport_and_heads_do_not():
    server = Server()
    server.receive(headers(1, *REQUEST, ends=True) + headers(3, *REQUEST, ends=True))
    server.pipe.pause()
    first, second = (s.exchange for s in server.front.seen)
    first.respond(200, (), b"x" * 100)
    assert kinds(server.sent()) == [(1, 4, 1)]
    second.respond(204, (), b"")
    assert kinds(server.sent()) == [(1, 5, 3)]
    server.pipe.resume()
    assert kinds(server.sent()) == [(0, 1, 1)]


def test_a_peer_that_asks_and_does_not_read_is_not_read_either():
    server = Server(settings=ServerWireSettings(write_high_bytes=1000))
    server.pipe.pause()
    server.transport.waiting = 2 << 20
    server.pipe.bound_backlog()
    assert not server.transport.is_reading
    server.pipe.resume()
    assert server.transport.is_reading


def test_a_smaller_hpack_table_is_acknowledged_once():
    server = Server(RecordingFront(answer=respond))
    server.receive(h2.settings_frame({h2.HEADER_TABLE_SIZE: 0}))
    first = server.receive(headers(1, *REQUEST, ends=True))
    second = server.receive(headers(3, *REQUEST, ends=True))
    assert first[0].payload[:2] == b"\x20\x88"
    assert second[0].payload[:1] == b"\x88"
