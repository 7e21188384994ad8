"""Target: bytes of a server into an HTTP/1.1 client connection, which is used as its pool does."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

from gateway.wire import h1_client_connection
from gateway.wire.fields import Fields
from gateway.wire.h1_client_connection import H1ClientConnection, H1ClientExchange, request_head
from gateway.wire.h1_heads import Memo
from gateway.wire.settings import ClientWireSettings
from tests.fuzz.asking import Asking
from tests.fuzz.front import Bugs
from tests.fuzz.h1_readings import h11_answers, llhttp_requests
from tests.fuzz.script import Script, must, split
from tests.parts.scripted_transport import ScriptedTransport
from tests.parts.virtual_loop import VirtualLoop, virtual_loop

SETTINGS = ClientWireSettings(max_head_bytes=512, max_header_count=12, write_high_bytes=256)
FIELDS = (Fields((("x-a", "b"),)),)
_MOST_REQUESTS = 4
_SHORTEST_PIECE = 15


def run(data: bytes) -> None:
    """One case: anything may happen, or bytes are cut and all else is steady."""
    script, sent = split(data)
    kinds = [script.byte() for _ in range(_MOST_REQUESTS)]
    with Bugs(), virtual_loop() as loop:
        if script.byte() & 1:
            _Run(loop, kinds, script, sent).check()
            return
        kinds = [kinds[0] % 3]  # given whole, and taken as it comes
        cut = _Run(loop, kinds, script, sent, has_events=False)
        whole = _Run(loop, kinds, Script(b""), sent, has_events=False)
        must(cut.told() == whole.told(), "cutting changed the answer", cut.told(), whole.told())
        cut.check()
        if cut.asked[0].is_complete and h11_answers(sent, [cut.asked[0].method]).is_reusable:
            must(cut.is_free, "a connection is not used again that could be", sent)


class _Run:
    """One connection from its beginning to its end, with one request after another."""

    def __init__(
        self,
        loop: VirtualLoop,
        kinds: list[int],
        script: Script,
        sent: bytes,
        *,
        has_events: bool = True,
    ) -> None:
        self._kinds = kinds
        self._sent = sent
        self.asked: list[Asking] = []
        self.is_lost = self.is_free = False
        self.loop = loop
        with patch.object(h1_client_connection, "_ANSWERS", Memo()):
            self.connection = H1ClientConnection("a:1", SETTINGS, self._freed, self._lost)
            self.transport = ScriptedTransport(loop, self.connection)
            self._freed(self.connection)
            self._go(script, has_events=has_events)
            self._end()

    def _freed(self, connection: H1ClientConnection) -> None:
        must(not self.is_free, "freed twice")
        must(connection.exchange is None, "freed, and busy")
        self.is_free = True
        # The pool may use it within this very call.
        if len(self.asked) < len(self._kinds):
            self.ask()

    def _lost(self, connection: H1ClientConnection) -> None:
        must(not self.is_lost, "lost twice")
        self.is_lost = True

    def ask(self) -> None:
        """As Http1Client.request does."""
        if not self.is_free or not self.connection.is_open or len(self.asked) >= len(self._kinds):
            return
        self.is_free = False
        asking = Asking(self._kinds[len(self.asked)])
        self.asked.append(asking)
        framing = b"transfer-encoding: chunked\r\n"
        if asking.body is not None:
            framing = b"content-length: %d\r\n" % len(asking.body) if asking.body else b""
        elif asking.length is not None:
            framing = b"content-length: %d\r\n" % asking.length
        head = request_head("a:1", asking.method, "/p?q", FIELDS, framing)
        exchange = H1ClientExchange("a:1", asking, head, is_head=asking.method == "HEAD")
        exchange.is_sent = asking.body is not None
        exchange.is_chunked = asking.body is None and asking.length is None
        asking.exchange = exchange
        self.connection.begin(exchange, asking.body)

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
        held, latest = len(self.connection._waiting), self.asked[-1]
        if latest.is_paused and not latest.is_over:
            must(not self.transport.is_reading(), "it reads although it is paused")
        must(held < SETTINGS.max_head_bytes or not self.connection.is_open, "much is held", held)

    def _end(self) -> None:
        """The server closes. Who paused goes on: what had come is not lost."""
        self.transport.takes = True
        self.transport.take()
        self.transport.deliver_eof()
        self.loop.run_ready()
        while any(a.is_paused and not a.is_over for a in self.asked):
            self.asked[-1].resume()
            self.loop.run_ready()
        must(self.is_lost, "the connection was never told that it is lost")
        for asking in self.asked:
            must(asking.is_over, "a request that was never told", asking.kind)
        size = len(self.transport.written)
        for asking in self.asked:
            asking.poke()
        self.loop.advance(7200.0)
        must(len(self.transport.written) == size, "something was written after the end")

    # ---- what came of it --------------------

    def told(self) -> tuple[object, ...]:
        """What whoever asked can see, whatever the cutting."""
        [asking] = self.asked
        if asking.error is not None:
            return (asking.error.reason, asking.error.sent)
        status = None if asking.head is None else (asking.head.status, asking.head.fields)
        return (status, asking.answer, asking.trailers)

    def check(self) -> None:
        """Hold it against what others read in the same bytes."""
        theirs = h11_answers(bytes(self.transport.heard), [a.method for a in self.asked])
        for mine, other in zip(self.asked, theirs.messages, strict=False):
            if theirs.error and not other.is_complete:
                break  # Refused there: nobody is deceived by that.
            if mine.head is not None:
                must(mine.head.status == other.status, "h11 reads another status", other.status)
            if mine.is_complete:
                must(other.is_complete, "h11 sees no end", mine.answer, other.body)
                must(mine.answer == other.body, "h11 reads another body", mine.answer, other.body)
                must(mine.trailers == other.trailers, "h11 reads other trailers", mine.trailers)
            else:
                must(other.body.startswith(mine.answer), "h11 reads another beginning")
        self._check_requests()

    def _check_requests(self) -> None:
        """What was asked is on the wire, each behind the other."""
        theirs = llhttp_requests(bytes(self.transport.written))
        must(not theirs.error, "llhttp cannot read what was sent", theirs.error)
        for mine, other in zip(self.asked, theirs.messages, strict=True):
            must((other.method, other.target) == (mine.method, "/p?q"), "another request was sent")
            is_whole = mine.is_sent or len(mine.written) == mine.length
            must(other.is_complete == is_whole, "a request ends too early or never")
            must(other.body == bytes(mine.written), "another body was sent")


def _each(deed: Callable[[Asking], None]) -> Callable[[_Run, Script], None]:
    def event(run: _Run, script: Script) -> None:
        for asking in run.asked[-1:]:
            deed(asking)

    return event


def _write(run: _Run, script: Script) -> None:
    for asking in run.asked[-1:]:
        asking.write(b"more" * script.below(64))


def _poke(run: _Run, script: Script) -> None:
    for asking in run.asked[:-1]:
        asking.poke()


def _stop_taking(run: _Run, script: Script) -> None:
    run.transport.takes = False


def _take_all(run: _Run, script: Script) -> None:
    run.transport.takes = True
    run.transport.take()


EVENTS: dict[int, Callable[[_Run, Script], None]] = {
    1: _each(Asking.resume),
    2: _each(Asking.cancel),
    3: _write,
    4: _each(Asking.end),
    5: _each(Asking.pause),
    6: _stop_taking,
    7: _take_all,
    8: lambda run, script: run.transport.take(script.byte() * 16),
    9: lambda run, script: run.ask(),
    10: lambda run, script: run.loop.advance(float(script.byte())),
    11: lambda run, script: run.transport.deliver_eof(),
    12: lambda run, script: run.connection.close(),
    13: lambda run, script: run.transport.cut(ConnectionResetError()),
    14: _poke,
}
