"""How the server's half ends: draining, age, and everything that takes too long."""

import pytest

from gateway.wire import h2_frames as h2
from gateway.wire.settings import ServerWireSettings
from tests.parts.h2_peer import HELLO, REQUEST, RecordingFront, Server, data, headers


def test_draining_refuses_nothing_before_the_caller_knows():
    server = Server()
    server.receive(headers(1, *REQUEST, ends=True))
    server.side.drain()
    goaway, ping = server.sent()
    assert int.from_bytes(goaway.payload[:4]) == h2.MAX_STREAM_ID
    server.receive(headers(3, *REQUEST, ends=True))
    frames = server.receive(h2.ping(ping.payload, is_ack=True))
    assert (frames[0].kind, int.from_bytes(frames[0].payload[:4])) == (h2.GOAWAY, 3)
    assert server.receive(headers(5, *REQUEST, ends=True)) == []
    assert len(server.front.seen) == 2
    for seen in server.front.seen:
        assert not server.side.is_finished
        seen.exchange.respond(200, (), b"")
    server.sent()
    assert server.side.is_finished


def test_a_caller_that_does_not_answer_is_told_the_last_stream_anyway():
    server = Server()
    server.side.drain()
    server.sent()
    assert server.tick(0.5) == []
    assert [f.kind for f in server.tick(1.5)] == [h2.GOAWAY]
    assert server.side.is_finished


def test_age_retires_a_connection_and_grace_ends_it():
    server = Server(settings=ServerWireSettings(max_connection_age_s=100, age_grace_s=50))
    server.receive(headers(1, *REQUEST, ends=True))
    assert server.tick(89.0) == []
    assert [f.kind for f in server.tick(111.0)][:1] == [h2.GOAWAY]
    server.receive(h2.ping(b"any what", is_ack=True))
    server.tick(150.0)
    assert server.front.seen[0].gone is None
    server.tick(162.0)
    assert server.front.seen[0].gone == "retired"
    assert server.side.is_finished


def test_an_age_of_zero_is_for_ever():
    server = Server(settings=ServerWireSettings(max_connection_age_s=0, ping_interval_s=1e9))
    assert server.tick(1e7) == []


def test_finishing_tells_everybody_once():
    server = Server()
    server.receive(headers(1, *REQUEST))
    server.side.finish("closed")
    server.side.finish("again")
    assert [f.kind for f in server.sent()] == [h2.GOAWAY]
    assert server.front.seen[0].gone == "closed"


# ---- time --------------------


def test_a_silent_caller_is_asked_and_then_left():
    server = Server(settings=ServerWireSettings(ping_interval_s=60, ping_timeout_s=20))
    server.receive(headers(1, *REQUEST, ends=True))
    server.tick(0.0)
    assert server.tick(59.0) == []
    (ping,) = server.tick(61.0)
    server.receive(h2.ping(ping.payload, is_ack=True))
    assert server.tick(70.0) == []
    assert [f.kind for f in server.tick(131.0)] == [h2.PING]
    assert server.tick(140.0) == []
    assert server.tick(152.0)[0].kind == h2.GOAWAY
    assert server.watch.causes == ["ping_timeout"]
    assert server.front.seen[0].gone == "ping_timeout"


def test_idle_connections_are_asked_ten_times_more_seldom():
    server = Server(settings=ServerWireSettings(ping_interval_s=60))
    server.tick(0.0)
    assert server.tick(599.0) == []
    assert [f.kind for f in server.tick(601.0)] == [h2.PING]


def test_silence_means_nothing_while_we_do_not_read():
    server = Server()
    for now in range(0, 3000, 100):
        assert server.tick(float(now), is_deaf=True) == []


@pytest.mark.parametrize(
    "begun", [b"", h2.PREFACE[:7], HELLO + headers(1, *REQUEST)[:12], HELLO + b"\0\0"], ids=repr
)
def test_a_head_that_does_not_come_is_not_waited_for(begun):
    server = Server(greet=False)
    server.receive(begun)
    server.tick(0.0)
    server.tick(9.0)
    assert not server.side.is_finished
    assert server.tick(11.0)[-1].kind == h2.GOAWAY
    assert server.watch.causes == ["head_timeout"]


def test_a_body_that_stops_is_not_waited_for():
    server = Server(settings=ServerWireSettings(ping_interval_s=1e9))
    server.tick(0.0)
    server.receive(headers(1, *REQUEST))
    server.tick(50.0)
    server.receive(data(1, b"x"))
    assert server.tick(100.0) == []
    assert [(f.kind, f.code) for f in server.tick(111.0)] == [(h2.RST_STREAM, h2.CANCEL)]
    assert server.watch.causes == ["body_timeout"]
    assert server.front.seen[0].gone == "body_timeout"


def test_a_grpc_stream_may_be_silent():
    server = Server(settings=ServerWireSettings(ping_interval_s=1e9))
    server.receive(headers(1, *REQUEST, ("content-type", "application/grpc")))
    server.tick(0.0)
    assert server.tick(1000.0) == []


def test_a_caller_that_takes_nothing_loses_its_answer():
    server = Server(RecordingFront(answer=lambda r: r.exchange.respond(200, (), b"x" * 100)))
    server.tick(0.0)
    server.receive(h2.settings_frame({h2.INITIAL_WINDOW_SIZE: 0}), headers(1, *REQUEST, ends=True))
    server.receive(h2.ping(b"x" * 8))
    server.tick(50.0)
    server.receive(h2.window_update(1, 1))
    server.tick(70.0)
    assert not server.watch.causes
    assert [f.kind for f in server.tick(111.0)] == [h2.RST_STREAM]
    assert server.watch.causes == ["write_timeout"]
    assert server.side.core.sender.queued == 0


def test_a_full_socket_is_stuck_when_nothing_leaves_it():
    server = Server()
    server.transport.waiting = 100
    server.pipe.pause()
    assert not server.pipe.is_stuck(59.0, 60.0)
    server.transport.waiting = 50
    assert not server.pipe.is_stuck(61.0, 60.0)
    assert server.pipe.is_stuck(122.0, 60.0)


def test_a_socket_that_is_not_full_is_stuck_too_when_nothing_leaves_it():
    server = Server()
    server.transport.waiting = 10
    assert not server.pipe.is_stuck(100.0, 60.0)
    assert not server.pipe.is_stuck(159.0, 60.0)
    # What we write in the meantime is no sign of life of the other side.
    server.receive(h2.ping(b"12345678"))
    server.transport.waiting += 17
    assert server.pipe.is_stuck(161.0, 60.0)
    server.transport.waiting = 0
    assert not server.pipe.is_stuck(1000.0, 60.0)
