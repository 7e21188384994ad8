"""Whatever the bytes are cut into, and whatever the windows: what is sent is received."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire import h2_frames as h2
from gateway.wire.fields import Fields
from gateway.wire.settings import ClientWireSettings, ServerWireSettings
from tests.parts.h2_peer import (
    HELLO,
    REQUEST,
    Client,
    RecordingFront,
    Server,
    block,
    data,
    headers,
    meet,
)

TAIL = Fields([("grpc-status", "0")])


def _conversation(bodies, pads):
    """Requests whose DATA frames are interleaved."""
    raw = HELLO + h2.ping(b"12345678")
    for n, body in enumerate(bodies):
        length = (("content-length", str(len(body))),) if n % 2 else ()
        whole = block(*REQUEST, *length)
        raw += h2.frame(h2.HEADERS, 0, 2 * n + 1, whole[:7])
        raw += h2.frame(h2.CONTINUATION, h2.END_HEADERS, 2 * n + 1, whole[7:])
    for n, body in enumerate(bodies):
        half = len(body) // 2
        raw += data(2 * n + 1, body[:half], pad=pads) + h2.frame(0x77, 0, 0, b"?")
    for n, body in enumerate(bodies):
        raw += data(2 * n + 1, body[len(body) // 2 :], ends=n % 3 != 0)
        if n % 3 == 0:
            raw += headers(2 * n + 1, ("x-t", str(n)), ends=True)
    return raw


@given(
    st.lists(st.binary(max_size=3000), min_size=1, max_size=5),
    st.one_of(st.none(), st.integers(0, 255)),
    st.lists(st.integers(1, 2000), min_size=1, max_size=30),
)
@settings(max_examples=60, deadline=None)
def test_chunking_changes_nothing(bodies, pad, sizes):
    raw = _conversation(bodies, pad)
    server = Server(greet=False)
    at = turn = 0
    while at < len(raw):
        size = sizes[turn % len(sizes)]
        server.receive(raw[at : at + size])
        at, turn = at + size, turn + 1
    assert not server.watch.causes
    assert [seen.whole for seen in server.front.seen] == bodies
    for n, seen in enumerate(server.front.seen):
        assert seen.gone is None
        if seen.body is None:
            assert seen.trailers == ((("x-t", str(n)),) if n % 3 == 0 else ())


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_sent_is_received_both_ways(draw):
    """Small windows and frames, pieces and pauses, several requests at once. That no window is ever
    exceeded is checked by the receiving side, which would end the connection."""
    window = draw.draw(st.sampled_from([65_535, 70_000, 1 << 20]))
    frame_bytes = draw.draw(st.sampled_from([16_384, 40_000]))
    bounds = {
        "stream_window_bytes": window,
        "connection_window_bytes": draw.draw(st.sampled_from([65_535, 200_000])),
        "max_frame_bytes": frame_bytes,
        "write_high_bytes": draw.draw(st.sampled_from([1000, 100_000])),
    }
    sizes = st.integers(0, 150_000)
    asks = draw.draw(st.lists(st.tuples(sizes, sizes, st.booleans()), min_size=1, max_size=6))
    # Accepted at once: what would come whole otherwise comes as one piece.
    front = RecordingFront(answer=lambda recorder: recorder.exchange.accept_body())
    server = Server(front, ServerWireSettings(**bounds), greet=False)
    client = Client(ClientWireSettings(**bounds), greet=False)
    asked = []
    for up, down, is_whole in asks:
        body = bytes([len(asked) + 1]) * up
        stream, sink = client.ask(body if is_whole else None)
        if not is_whole:
            for at in range(0, up, 10_000):
                stream.write(body[at : at + 10_000])
            stream.end()
        asked.append((body, bytes([len(asked) + 65]) * down, sink))
    meet(client, server)
    assert [seen.whole for seen in server.front.seen] == [body for body, _, _ in asked]
    for n, (_, body, _) in enumerate(asked):
        exchange = server.front.seen[n].exchange
        if n % 2:
            exchange.respond(200, (), body, (TAIL,))
        else:
            exchange.start(200, (), len(body))
            for at in range(0, len(body), 7000):
                exchange.write(body[at : at + 7000])
            exchange.end((TAIL,))
    meet(client, server)
    for _, body, sink in asked:
        assert sink.error is None
        assert sink.body == body
        assert sink.trailers == TAIL.pairs
    assert not server.watch.causes
    assert not client.side.core.streams
    assert not server.side.core.streams
    assert server.side.core.sender.queued == client.side.core.sender.queued == 0


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=300, deadline=None)
def test_garbage_ends_a_connection_or_waits(raw, is_greeted):
    server = Server(greet=is_greeted)
    server.receive(raw)
    client = Client(greet=is_greeted)
    _, asked = client.ask()
    client.receive(raw)
    assert client.side.is_finished <= (asked.error is not None)


_FRAMES = st.builds(
    h2.frame,
    st.integers(0, 10),
    st.integers(0, 255),
    st.sampled_from([0, 1, 1, 3, 5]),
    st.one_of(
        st.binary(max_size=12),
        st.just(block(*REQUEST)),
        st.just(block((":status", "200"))),
        st.just(b"\0\0\0\1"),
    ),
)


@given(st.lists(_FRAMES, max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_frames_leave_windows_and_streams_consistent(frames):
    server = Server()
    server.receive(*frames)
    for seen in server.front.seen:
        seen.exchange.respond(200, (), b"x" * 10)
    core = server.side.core
    assert core.sender.queued == sum(s.queued for s in core.streams.values())
    assert all(not s.is_over for s in core.streams.values())
    assert core.recv_window >= 0
    if server.side.is_finished:
        assert not core.streams
