"""Both sides of an HTTP/2 connection without sockets: frames in, frames out, a recording front."""

from __future__ import annotations

import random
from dataclasses import dataclass

from gateway.wire import h2_frames as h2
from gateway.wire.fields import hpack_field
from gateway.wire.h2_client_side import ClientSide
from gateway.wire.h2_client_stream import ClientStream
from gateway.wire.h2_frames import H2Error
from gateway.wire.h2_server_side import ServerSide
from gateway.wire.h2_transport import Pipe
from gateway.wire.settings import ClientWireSettings, ServerWireSettings

HELLO = h2.PREFACE + h2.settings_frame({})
REQUEST = ((":method", "POST"), (":scheme", "http"), (":path", "/a"), (":authority", "h"))


@dataclass(frozen=True)
class Frame:
    """A frame that was read."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def code(self) -> int:
        """RST_STREAM's or GOAWAY's error code."""
        return int.from_bytes(
            self.payload[-4:] if self.kind == h2.RST_STREAM else self.payload[4:8]
        )


def frames_of(data: bytes) -> list[Frame]:
    """All frames of whole ones."""
    found, at = [], 0
    while at < len(data):
        high, low, kind, flags, stream_id = h2.unpack_head(data, at)
        end = at + 9 + (high << 8 | low)
        assert end <= len(data), "half a frame"
        found.append(Frame(kind, flags, stream_id, bytes(data[at + 9 : end])))
        at = end
    return found


def block(*pairs: tuple[str, str]) -> bytes:
    return b"".join([hpack_field(n, v) for n, v in pairs])


def headers(stream_id: int, *pairs: tuple[str, str], ends: bool = False) -> bytes:
    flags = h2.END_HEADERS | (h2.END_STREAM if ends else 0)
    return h2.frame(h2.HEADERS, flags, stream_id, block(*pairs))


def data(stream_id: int, body: bytes, *, ends: bool = False, pad: int | None = None) -> bytes:
    if pad is None:
        return h2.frame(h2.DATA, int(ends), stream_id, body)
    payload = bytes((pad,)) + body + b"\0" * pad
    return h2.frame(h2.DATA, int(ends) | h2.PADDED, stream_id, payload)


class FakeTransport:
    """Collects what is written."""

    def __init__(self):
        self.written = bytearray()
        self.is_closed = False
        self.is_reading = True
        self.waiting = 0

    def write(self, data):
        self.written += data

    def writelines(self, pieces):
        self.written += b"".join(pieces)

    def take(self) -> bytes:
        taken, self.written = bytes(self.written), bytearray()
        return taken

    def set_write_buffer_limits(self, high): ...

    def get_write_buffer_size(self):
        return self.waiting

    def is_closing(self):
        return self.is_closed

    def pause_reading(self):
        self.is_reading = False

    def resume_reading(self):
        self.is_reading = True


class Watched:
    """exchange.Watch that remembers."""

    def __init__(self):
        self.causes: list[str] = []
        self.open = 0

    def opened(self, protocol):
        self.open += 1

    def closed(self, protocol):
        self.open -= 1

    def refused(self, cause):
        self.causes.append(cause)


class Recorder:
    """RequestSink that remembers; one for each exchange."""

    def __init__(self, exchange, body):
        self.exchange = exchange
        self.head = exchange.head
        self.body = body if body is None else bytes(body)
        self.pieces: list[bytes] = []
        self.trailers = None
        self.gone: str | None = None
        self.writable = 0

    def on_data(self, data):
        assert self.gone is None
        self.pieces.append(bytes(data))

    def on_end(self, trailers):
        assert self.trailers is None
        self.trailers = trailers

    def on_gone(self, cause):
        assert self.gone is None
        self.gone = cause

    def on_writable(self):
        self.writable += 1

    @property
    def whole(self) -> bytes:
        return b"".join(self.pieces) if self.body is None else self.body


class RecordingFront:
    """Takes bodies (`accepts`), and answers with `answer(recorder)` where that is given."""

    def __init__(self, *, accepts: bool = True, answer=None):
        self.accepts = accepts
        self.answer = answer
        self.seen: list[Recorder] = []

    def begin(self, exchange, body):
        recorder = exchange.sink = Recorder(exchange, body)
        self.seen.append(recorder)
        if self.answer is not None:
            self.answer(recorder)
        elif body is None and self.accepts:
            exchange.accept_body()


class Asked:
    """AnswerSink that remembers."""

    def __init__(self):
        self.head = None
        self.pieces: list[bytes] = []
        self.trailers = None
        self.error = None
        self.is_whole = False
        self.writable = 0

    def on_whole(self, head, body, trailers):
        assert self.head is None
        self.is_whole = True
        self.head, self.pieces, self.trailers = head, [bytes(body)], trailers

    def on_head(self, head):
        assert self.head is None
        self.head = head

    def on_data(self, data):
        assert self.head is not None
        assert self.trailers is None
        self.pieces.append(bytes(data))

    def on_end(self, trailers):
        assert self.trailers is None
        self.trailers = trailers

    def on_failed(self, error):
        assert self.error is None
        assert self.trailers is None
        self.error = error

    def on_writable(self):
        self.writable += 1

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


class _Half:
    """A side on a fake transport."""

    def __init__(self, side, high_bytes: int) -> None:
        self.side = side
        self.transport = FakeTransport()
        self.pipe = Pipe(self.transport, side.core, high_bytes)

    def receive(self, *pieces: bytes) -> list[Frame]:
        """Take bytes as one read each; the frames that were sent in return."""
        for piece in pieces:
            try:
                if not self.side.is_finished:
                    self.side.core.receive(piece)
                self.pipe.flush()
            except H2Error as error:
                self.side.fail(error)
                self.pipe.flush()
        return self.sent()

    def sent(self) -> list[Frame]:
        """Write what waits, and take all that was written."""
        self.pipe.flush()
        return frames_of(self.transport.take().removeprefix(h2.PREFACE))

    def raw(self) -> bytes:
        self.pipe.flush()
        return self.transport.take()


class Server(_Half):
    """The server's half."""

    def __init__(self, front=None, settings: ServerWireSettings | None = None, *, greet=True):
        self.front = front or RecordingFront()
        self.settings = settings or ServerWireSettings()
        self.watch = Watched()
        self.now = 0.0
        side = ServerSide(
            self.front,
            self.settings,
            self.watch,
            lambda: None,
            peer="1.2.3.4:5",
            clock=lambda: self.now,
            rng=random.Random(1),
        )
        super().__init__(side, self.settings.write_high_bytes)
        if greet:
            self.receive(HELLO + h2.SETTINGS_ACK)

    def tick(self, now: float, *, is_deaf: bool = False) -> list[Frame]:
        self.now = now
        try:
            self.side.tick(now, is_deaf=is_deaf)
        except H2Error as error:
            self.side.fail(error)
        return self.sent()


class Client(_Half):
    """The client's half."""

    def __init__(self, settings: ClientWireSettings | None = None, *, greet=True):
        self.settings = settings or ClientWireSettings()
        self.rooms = 0
        side = ClientSide(self.settings, lambda: None, self._room)
        super().__init__(side, self.settings.write_high_bytes)
        if greet:
            self.receive(h2.settings_frame({}) + h2.SETTINGS_ACK)

    def _room(self):
        self.rooms += 1

    def ask(self, body: bytes | None = b"", method: str = "POST") -> tuple[ClientStream, Asked]:
        asked = Asked()
        head = block((":method", method), *REQUEST[1:])
        stream = ClientStream(
            asked, head, body, self.settings.write_high_bytes, is_head_request=method == "HEAD"
        )
        self.side.open(stream)
        return stream, asked


def meet(client: Client, server: Server, turns: int = 1000) -> None:
    """Carry bytes both ways until neither has anything to say."""
    for _ in range(turns):
        up, down = client.raw(), server.raw()
        if not up and not down:
            return
        if up:
            _feed(server, up)
        if down:
            _feed(client, down)
    raise AssertionError("they never stop talking")


def _feed(half: _Half, raw: bytes) -> None:
    """As `receive`, but what is sent in return stays where it is."""
    try:
        half.side.core.receive(raw)
        half.pipe.flush()
    except H2Error as error:
        half.side.fail(error)
