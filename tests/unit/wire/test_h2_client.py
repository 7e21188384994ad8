"""The client's half: answers as they come, what counts as sent, and what a server may not do."""

import pytest

from gateway.wire import h2_frames as h2
from gateway.wire.settings import ClientWireSettings
from tests.parts.h2_peer import Client, block, data, frames_of, headers

OK = ((":status", "200"), ("x-a", "b"))
TAIL = (("grpc-status", "0"),)


def tail(stream_id=1, *pairs):
    return headers(stream_id, *(pairs or TAIL), ends=True)


def test_it_begins_with_the_preface_and_settings_and_takes_no_pushes():
    raw = Client(greet=False).raw()
    assert raw.startswith(h2.PREFACE)
    settings = dict(h2.read_settings(frames_of(raw.removeprefix(h2.PREFACE))[0].payload))
    assert settings[h2.ENABLE_PUSH] == 0


def test_a_request_goes_out_whole():
    client = Client()
    client.ask(b"abc")
    frames = client.sent()
    assert [(f.kind, f.flags, f.stream_id) for f in frames] == [(1, 4, 1), (0, 1, 1)]
    client.ask(b"")
    assert [(f.kind, f.flags, f.stream_id) for f in client.sent()] == [(1, 5, 3)]


def test_an_answer_that_came_at_once_is_handed_over_whole():
    client = Client()
    _, asked = client.ask()
    client.receive(headers(1, *OK) + data(1, b"ab") + data(1, b"c") + tail())
    assert asked.is_whole
    assert (asked.head.status, asked.body, asked.trailers) == (200, b"abc", TAIL)
    assert not client.side.core.streams


def test_an_answer_in_pieces_is_handed_over_as_it_comes():
    client = Client()
    _, asked = client.ask()
    client.receive(headers(1, *OK))
    assert (asked.head.status, asked.pieces) == (200, [])
    client.receive(data(1, b"ab"))
    client.receive(data(1, b"c"))
    assert asked.pieces == [b"ab", b"c"]
    assert asked.trailers is None
    client.receive(tail())
    assert asked.trailers == TAIL


def test_the_same_head_and_trailers_are_the_same_objects():
    client = Client()
    heads = []
    for stream_id in (1, 3):
        _, asked = client.ask()
        client.receive(headers(stream_id, *OK) + tail(stream_id))
        heads.append((asked.head, asked.trailers))
    assert heads[0][0] is heads[1][0]
    assert heads[0][1] is heads[1][1]


def test_interim_answers_are_skipped():
    client = Client()
    _, asked = client.ask()
    client.receive(headers(1, (":status", "103")), headers(1, (":status", "100")))
    assert asked.head is None
    client.receive(headers(1, *OK, ends=True))
    assert (asked.head.status, asked.body) == (200, b"")


def test_a_length_without_a_body_is_right_for_head_and_304_only():
    client = Client()
    answer = (("content-length", "3"),)
    for stream_id, method, status, is_right in (
        (1, "HEAD", "200", True),
        (3, "GET", "304", True),
        (5, "GET", "200", False),
    ):
        _, asked = client.ask(method=method)
        client.receive(headers(stream_id, (":status", status), *answer, ends=True))
        assert (asked.error is None) is is_right


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_head_without_a_body_may_be_ended_by_a_frame_of_its_own(method):
    client = Client()
    _, asked = client.ask(method=method)
    status = "200" if method == "HEAD" else "304"
    client.receive(
        headers(1, (":status", status), ("content-length", "3")), data(1, b"", ends=True)
    )
    assert (asked.error, asked.body, asked.trailers) == (None, b"", ())


def test_a_paused_answer_is_held_and_gets_no_credit():
    client = Client(ClientWireSettings(stream_window_bytes=65_535, connection_window_bytes=65_535))
    stream, asked = client.ask()
    client.receive(headers(1, *OK))
    stream.pause()
    assert client.receive(data(1, b"x" * 60_000) + tail()) == []
    assert asked.pieces == []
    stream.resume()
    assert [f.stream_id for f in client.sent()] == [0]
    assert asked.body == b"x" * 60_000
    assert asked.trailers == TAIL


def test_cancelling_resets_and_silences():
    client = Client()
    stream, asked = client.ask(None)
    client.sent()
    stream.cancel()
    stream.cancel()
    stream.write(b"x")
    stream.end()
    assert [(f.kind, f.code) for f in client.sent()] == [(h2.RST_STREAM, h2.CANCEL)]
    assert client.receive(headers(1, *OK) + data(1, b"abc") + tail()) == []
    assert (asked.head, asked.error) == (None, None)
    assert client.side.core.owed == 3


def test_an_answer_before_the_request_is_sent_ends_it():
    client = Client()
    stream, asked = client.ask(None)
    stream.write(b"abc")
    frames = client.receive(headers(1, *OK, ends=True), h2.rst_stream(1, h2.NO_ERROR))
    assert frames[-1].kind == h2.RST_STREAM
    assert asked.head.status == 200
    assert asked.error is None
    stream.write(b"more")
    stream.end()
    assert client.sent() == []


@pytest.mark.parametrize("code", [h2.NO_ERROR, h2.CANCEL])
@pytest.mark.parametrize("is_paused", [False, True])
def test_a_reset_behind_a_complete_answer_takes_nothing_of_it(code, is_paused):
    client = Client()
    stream, asked = client.ask(None)
    stream.write(b"x" * 100_000)  # more than there is a window for
    if is_paused:
        stream.pause()
    refusal = headers(1, *OK) + data(1, b"too large") + tail() + h2.rst_stream(1, code)
    client.receive(refusal)
    stream.write(b"more")
    stream.end()
    stream.resume()
    assert client.sent() == []
    assert (asked.head.status, asked.body, asked.trailers) == (200, b"too large", TAIL)
    assert asked.error is None
    assert not client.side.core.streams
    assert not client.side.core.sender.queued


def test_a_reset_before_the_end_of_an_answer_fails_it():
    client = Client()
    _, asked = client.ask()
    client.receive(headers(1, *OK) + data(1, b"half") + h2.rst_stream(1, h2.NO_ERROR))
    assert (asked.error.reason, asked.error.sent) == ("reset", True)
    assert asked.body == b""


def test_a_request_in_pieces_waits_for_windows_and_says_so():
    client = Client(ClientWireSettings(write_high_bytes=100_000))
    stream, asked = client.ask(None)
    while not stream.is_congested:
        stream.write(b"x" * 50_000)
    assert sum(len(f.payload) for f in client.sent() if f.kind == h2.DATA) == 65_535
    client.receive(h2.window_update(1, 10**6) + h2.window_update(0, 10**6))
    assert asked.writable == 1
    stream.end()
    assert client.sent()[-1].flags == h2.END_STREAM


@pytest.mark.parametrize(
    ("what", "reason", "sent"),
    [
        (h2.rst_stream(1, h2.REFUSED_STREAM), "reset", False),
        (h2.rst_stream(1, h2.INTERNAL_ERROR), "reset", True),
        (h2.rst_stream(1, 0xDEAD), "reset", True),
        (h2.goaway(0, h2.NO_ERROR), "reset", False),
        (headers(1, ("a", "b")), "bad_answer", True),
        (headers(1, (":status", "100"), ends=True), "bad_answer", True),
        (headers(1, *OK) + headers(1, *TAIL), "bad_answer", True),
        (headers(1, *OK, ("content-length", "2")) + data(1, b"abc"), "bad_answer", True),
        (headers(1, *OK, ("x", "v" * 9000)), "bad_answer", True),
        (data(1, b"x"), "bad_answer", True),
        (data(1, b"", ends=True), "bad_answer", True),
        (headers(1, (":status", "100")) + data(1, b"x") + headers(1, *OK), "bad_answer", True),
        (b"\0\0\1\6\0\0\0\0\0x", "bad_answer", True),
    ],
)
def test_what_happened_to_a_request_that_failed(what, reason, sent):
    client = Client(ClientWireSettings(max_head_bytes=8192))
    _, asked = client.ask()
    client.receive(what)
    assert (asked.error.reason, asked.error.sent) == (reason, sent)


def test_a_lost_connection_may_have_been_acted_on():
    client = Client()
    _, asked = client.ask()
    client.side.core.lose_all("lost")
    assert (asked.error.reason, asked.error.sent) == ("reset", True)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", h2.ping(b"12345678"), b"\0\0\0\0\0\0\0\0\0"]
)
def test_who_does_not_speak_http2_has_understood_nothing(answer):
    client = Client(greet=False)
    _, asked = client.ask()
    client.receive(answer)
    assert (asked.error.reason, asked.error.sent) == ("bad_answer", False)
    assert client.side.is_finished


def test_goaway_lets_older_requests_finish_and_takes_no_new_ones():
    client = Client()
    (_, first), (_, second) = client.ask(), client.ask()
    client.receive(h2.goaway(1, h2.NO_ERROR))
    assert (first.error, second.error.sent) == (None, False)
    assert not client.side.has_room
    assert not client.side.is_finished
    client.receive(headers(1, *OK, ends=True))
    assert first.head.status == 200
    assert client.side.is_finished


def test_a_first_goaway_of_two_refuses_nothing():
    client = Client()
    _, asked = client.ask()
    client.receive(h2.goaway(h2.MAX_STREAM_ID, h2.NO_ERROR), h2.goaway(1, h2.NO_ERROR))
    client.receive(headers(1, *OK, ends=True))
    assert asked.head.status == 200


def test_the_servers_limit_on_streams_is_kept():
    client = Client()
    client.receive(h2.settings_frame({h2.MAX_CONCURRENT_STREAMS: 1}))
    assert client.side.has_room
    client.ask()
    assert not client.side.has_room
    before = client.rooms
    client.receive(headers(1, *OK, ends=True))
    assert client.side.has_room
    assert client.rooms > before


@pytest.mark.parametrize(
    "what",
    [
        h2.frame(h2.PUSH_PROMISE, 4, 1, b"\0\0\0\2\x82"),
        headers(2, *OK),
        headers(99, *OK),
        data(99, b"x"),
        h2.ping(b"12345678") * 20_000,
        h2.frame(h2.HEADERS, 0, 1, b"") + h2.frame(h2.CONTINUATION, 0, 1, b"\x88") * 17,
    ],
    ids=["push", "even", "unopened", "data", "flood", "continuation"],
)
def test_servers_are_bound_too(what):
    client = Client()
    _, asked = client.ask()
    client.receive(what)
    assert client.side.is_finished
    assert asked.error is not None


def test_a_silent_server_with_requests_on_it_is_asked():
    client = Client(ClientWireSettings(ping_interval_s=20, ping_timeout_s=10))
    _, asked = client.ask()
    client.sent()
    client.side.tick(0.0)
    client.side.tick(21.0)
    assert [f.kind for f in client.sent()] == [h2.PING]
    with pytest.raises(h2.H2Error) as caught:
        client.side.tick(32.0)
    client.side.fail(caught.value)
    assert asked.error.reason == "reset"


def test_answers_are_read_with_hpack_tables():
    client = Client()
    _, first = client.ask()
    _, second = client.ask()
    inserts = block((":status", "200")) + b"\x40\x01a\x01b"
    client.receive(h2.frame(h2.HEADERS, 5, 1, inserts))
    client.receive(h2.frame(h2.HEADERS, 5, 3, b"\x88\xbe"))
    assert first.head.fields == second.head.fields == (("a", "b"),)


def test_a_window_that_whole_answers_have_used_up_is_given_back_at_once():
    """The server may have nothing to send any more, so nothing else would make us look again."""
    client = Client(ClientWireSettings(connection_window_bytes=65_535, stream_window_bytes=65_535))
    _, asked = client.ask()
    client.sent()
    body = b"x" * 65_535
    pieces = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
    answer = headers(1, *OK) + b"".join(data(1, piece) for piece in pieces) + tail()
    updates = [f for f in client.receive(answer) if f.kind == h2.WINDOW_UPDATE and not f.stream_id]
    assert asked.is_whole
    assert sum(int.from_bytes(f.payload, "big") for f in updates) == len(body)


def test_a_silent_server_is_not_asked_again_too_soon():
    """gRPC core's servers take that for an attack (settings.ping_again_s)."""
    client = Client(ClientWireSettings(ping_interval_s=20, ping_timeout_s=10, ping_again_s=305))
    client.ask()
    client.sent()
    client.side.tick(0.0)
    client.side.tick(21.0)
    (ping,) = client.sent()
    client.receive(h2.ping(ping.payload, is_ack=True))
    asked = []
    now = 21.0
    while now < 400 and not asked:
        now += 5.0
        client.side.tick(now)
        asked += [now for f in client.sent() if f.kind == h2.PING]
    assert len(asked) == 1
    assert asked[0] - 21.0 > 305


def test_blanks_around_what_an_answer_says_do_no_harm():
    client = Client()
    _, asked = client.ask()
    head, end = headers(1, *OK, ("x-c", " d\t")), tail(1, ("grpc-message", "e "))
    client.receive(head + data(1, b"a") + end)
    assert dict(asked.head.fields)["x-c"] == "d"
    assert asked.trailers == (("grpc-message", "e"),)
