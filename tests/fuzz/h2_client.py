"""Target: frames, or bytes, of a server into an HTTP/2 client connection, used as its pool does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gateway.wire import h2_frames as h2
from gateway.wire.h2_client_connection import H2ClientConnection
from gateway.wire.h2_client_stream import ClientStream
from gateway.wire.settings import ClientWireSettings
from tests.fuzz import h2_books
from tests.fuzz.asking import Asking
from tests.fuzz.front import Bugs
from tests.fuzz.h2_audit import Audit
from tests.fuzz.h2_frames import Frames, block
from tests.fuzz.script import Script, must, split
from tests.parts.scripted_transport import ScriptedTransport
from tests.parts.virtual_loop import VirtualLoop, virtual_loop

SETTINGS = ClientWireSettings(
    max_head_bytes=600,
    max_header_count=12,
    stream_window_bytes=70_000,
    connection_window_bytes=100_000,
    max_frame_bytes=40_000,
    max_continuations=3,
    reset_burst=20,
    control_burst=60,
    write_high_bytes=1024,
)
HELLO = h2.settings_frame({}) + h2.SETTINGS_ACK
_MOST_REQUESTS = 6
_SHORTEST_PIECE = 16
_MUCH = b"much" * 6000


def run(data: bytes) -> None:
    """One case: anything may happen, or bytes are cut and all else is steady."""
    script, sent = split(data)
    mode = script.byte()
    kinds = [script.byte() for _ in range(_MOST_REQUESTS)]
    if mode & 2:
        sent = (HELLO if mode & 4 else b"") + sent
    else:
        sent = HELLO + Frames(is_client=False).write(Script(sent))
    with Bugs(), virtual_loop() as loop:
        if mode & 1:
            _Run(loop, kinds, 1 + (mode >> 4 & 3), script, sent)
            return
        kinds = [kind % 3 for kind in kinds]  # given whole, and taken as they come
        cut = _Run(loop, kinds, 3, script, sent, has_events=False)
        whole = _Run(loop, kinds, 3, Script(b""), sent, has_events=False)
        for mine, other in zip(cut.asked, whole.asked, strict=True):
            # What breaks a connection takes answers along that came in the same read.
            if mine.error is None and other.error is None:
                must(_told(mine) == _told(other), "cutting changed the answer", mine.answer)


def _told(asking: Asking) -> tuple[object, ...]:
    head = None if asking.head is None else (asking.head.status, asking.head.fields)
    return (head, asking.answer, asking.trailers, asking.is_complete)


class _Run:
    """One connection from its beginning to its end. It is its own pool (`Owner`)."""

    def __init__(
        self,
        loop: VirtualLoop,
        kinds: list[int],
        count: int,
        script: Script,
        sent: bytes,
        *,
        has_events: bool = True,
    ) -> None:
        self._kinds = kinds
        self._sent = sent
        self.loop = loop
        self.asked: list[Asking] = []
        self.waiting: deque[ClientStream] = deque()
        self.is_lost = False
        self.audit = Audit(is_server=False)
        self._audited = [0, 0]
        self.connection = H2ClientConnection(SETTINGS, self)
        self.transport = ScriptedTransport(loop, self.connection)
        for _ in range(count):
            self.ask()
        self._settle()
        self._go(script, has_events=has_events)
        self._check_bodies()
        self._end()

    # ---- Owner --------------------

    def on_made(self, connection: H2ClientConnection) -> None: ...

    def on_lost(self, connection: H2ClientConnection) -> None:
        must(not self.is_lost, "lost twice")
        self.is_lost = True

    def send_waiting(self) -> None:
        while self.waiting and (self.waiting[0].is_over or self.connection.has_room):
            stream = self.waiting.popleft()
            if not stream.is_over:
                self.connection.open(stream)

    # ---- what happens --------------------

    def ask(self) -> None:
        """As Http2Client.request does."""
        if len(self.asked) >= len(self._kinds):
            return
        asking = Asking(self._kinds[len(self.asked)])
        self.asked.append(asking)
        head = block(
            (":method", asking.method), (":scheme", "http"), (":path", "/p"), (":authority", "h")
        )
        stream = ClientStream(
            asking,
            head,
            asking.body,
            SETTINGS.write_high_bytes,
            is_head_request=asking.method == "HEAD",
        )
        asking.exchange = stream
        self.waiting.append(stream)
        self.send_waiting()

    def _go(self, script: Script, *, has_events: bool) -> None:
        at = 0
        while not script.is_empty and not self.is_lost:
            step = script.byte()
            if has_events and 0 < step < _SHORTEST_PIECE:
                EVENTS[step](self, script)
            else:
                size = max(1, step - _SHORTEST_PIECE) if step else len(self._sent)
                self.transport.deliver(self._sent[at : at + size])
                at += size
            self._settle()
        self.transport.deliver(self._sent[at:])
        self._settle()

    def _settle(self) -> None:
        self.loop.run_ready()
        both = ((self.audit.heard, self.transport.heard), (self.audit.said, self.transport.written))
        for at, (read, data) in enumerate(both):
            read(bytes(data[self._audited[at] :]))
            self._audited[at] = len(data)
        side = self.connection.side
        if side.is_finished:
            must(not side.core.streams, "a connection that has ended holds streams")
            must(self.transport.is_closing(), "a connection that has ended is not closed")
        else:
            h2_books.check(side.core, SETTINGS.connection_window_bytes, _MOST_REQUESTS)

    def _end(self) -> None:
        self.transport.cut(None)
        self._settle()
        must(self.is_lost, "the connection was never told that it is lost")
        waiting = {id(stream.sink) for stream in self.waiting}
        for asking in self.asked:
            must(asking.is_over or id(asking) in waiting, "a request that was never told")
        size = len(self.transport.written)
        for asking in self.asked:
            asking.poke()
        self.loop.advance(7200.0)
        must(len(self.transport.written) == size, "something was written after the end")

    # ---- what came of it --------------------

    def _check_bodies(self) -> None:
        for asking in self.asked:
            stream_id: int = getattr(asking.exchange, "id", 0)
            flow = self.audit.flows.get(stream_id)
            if flow is None:
                must(asking.head is None, "an answer to what was never sent")
                continue
            sent = self.audit.body(stream_id)
            if asking.is_complete:
                must(asking.answer == sent, "another body was handed on", asking.answer, sent)
            else:
                must(sent.startswith(asking.answer), "another beginning was handed on")
            body = bytes(flow.body)
            must(asking.written.startswith(body), "another body was sent", body)
            if flow.is_ended:
                must(asking.is_sent and asking.written == body, "a request lacks its end", body)


def _latest(deed: Callable[[Asking], None]) -> Callable[[_Run, Script], None]:
    def event(run: _Run, script: Script) -> None:
        alive = [a for a in run.asked if not a.is_over]
        if alive:
            deed(alive[script.below(len(alive))])

    return event


def _resume(run: _Run, script: Script) -> None:
    for asking in run.asked:
        if asking.is_paused:
            asking.resume()


def _write(run: _Run, script: Script) -> None:
    for asking in run.asked:
        asking.write(b"more" * script.below(64))


def _write_much(run: _Run, script: Script) -> None:
    for asking in run.asked:
        asking.write(_MUCH)


def _poke(run: _Run, script: Script) -> None:
    for asking in run.asked:
        if asking.is_over:
            asking.poke()


def _stop_taking(run: _Run, script: Script) -> None:
    run.transport.takes = False


def _take_all(run: _Run, script: Script) -> None:
    run.transport.takes = True
    run.transport.take()


EVENTS: dict[int, Callable[[_Run, Script], None]] = {
    1: _resume,
    2: _latest(Asking.cancel),
    3: _write,
    4: _latest(Asking.end),
    5: _latest(Asking.pause),
    6: _stop_taking,
    7: _take_all,
    8: lambda run, script: run.transport.take(script.byte() * 16),
    9: lambda run, script: run.ask(),
    10: lambda run, script: run.loop.advance(float(script.byte())),
    11: lambda run, script: run.transport.deliver_eof(),
    12: lambda run, script: run.connection.leave(),
    13: lambda run, script: run.transport.cut(ConnectionResetError()),
    14: _poke,
    15: _write_much,
}
