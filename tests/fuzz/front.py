"""A front that answers every request in its own manner, and checks how it is treated meanwhile.

The manner is the last character of the path, so it does not depend on how bytes were cut.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from gateway.wire.exchange import Data, RequestHead, ServerExchange
from gateway.wire.fields import Fields, Pairs
from tests.fuzz.script import must

TEXT = (Fields((("content-type", "text/plain"), ("x-a", "b"))),)
TAIL = Fields((("grpc-status", "0"),))
LONG = bytes(range(256)) * 12
"""An answer beyond every bound on what waits that the targets set."""


class Planned(Exception):
    """A bug of the front's, made on purpose."""


class Served:
    """One request: RequestSink, and what was answered."""

    def __init__(self, front: ManneredFront, exchange: ServerExchange, body: Data | None) -> None:
        self.front = front
        self.exchange = exchange
        self.head: RequestHead = exchange.head
        self.manner = exchange.head.path[-1:].encode("latin-1")[0] % len(MANNERS)
        if front.is_steady and (self.manner in UNSTEADY or self.head.expects_continue):
            self.manner = 0
        self.pieces: list[bytes] = [] if body is None else [bytes(body)]
        self.trailers: Pairs = ()
        self.is_complete = body is not None
        """All of the body was handed on."""
        self.is_accepted = self.is_complete
        self.is_paused = False
        self.gone: str | None = None
        self.has_failed = False
        self.status = 0
        self.answer = bytearray()
        """What was written of an answer; with HEAD, what was given to be left out."""
        self.is_started = False
        self.is_ended = False
        """The answer was given whole."""
        self.is_aborted = False

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def is_over(self) -> bool:
        """It needs nothing any more: answered, broken off, or nobody is there."""
        return self.is_ended or self.is_aborted or self.gone is not None or self.has_failed

    # ---- RequestSink --------------------

    def on_data(self, data: Data) -> None:
        self._must_be_alive("on_data")
        must(self.is_accepted, "a body came that was not accepted")
        must(not self.is_complete, "a body came after its end")
        must(not self.is_paused, "a body came while it was paused")
        must(len(data), "a piece of nothing")
        self.pieces.append(bytes(data))
        MANNERS[self.manner].on_data(self)

    def on_end(self, trailers: Pairs) -> None:
        self._must_be_alive("on_end")
        must(not self.is_complete, "a body ended twice")
        must(not self.is_paused, "a body ended while it was paused")
        self.is_complete = True
        self.trailers = trailers
        MANNERS[self.manner].on_end(self)

    def on_gone(self, cause: str) -> None:
        if not self.has_failed:  # of a bug of its own it may hear or not
            self._must_be_alive("on_gone")
        must(cause and self.gone is None, "gone without a cause, or twice")
        self.gone = cause

    def on_writable(self) -> None:
        self._must_be_alive("on_writable")
        must(not self.exchange.is_congested, "writable, and congested")
        if self.is_paused and self.manner == STREAMED:
            self.go_on()

    def _must_be_alive(self, call: str) -> None:
        dead = self.gone is not None or self.is_aborted or self.has_failed
        # HTTP/2 may hand on a body until the answer is out; an HTTP/1.1 exchange is over at once.
        dead = dead or (self.is_ended and not self.head.is_h2)
        must(not dead, f"{call} on an exchange that is over", self.head.path, self.gone)

    # ---- answering --------------------

    def respond(self, status: int, body: bytes, trailers: bool = True) -> None:
        if not self.is_over and not self.is_started:
            self.status, self.is_started, self.is_ended = status, True, True
            self.answer += body
            self.exchange.respond(status, TEXT, body, (TAIL,) if trailers else None)

    def start(self, status: int, length: int | None) -> None:
        self.status, self.is_started = status, True
        self.exchange.start(status, TEXT, length)

    def write(self, data: bytes) -> None:
        if not self.is_over:
            self.answer += data
            self.exchange.write(data)

    def end(self) -> None:
        if not self.is_over:
            self.is_ended = True
            self.exchange.end((TAIL,))

    def abort(self) -> None:
        if not self.is_over:
            self.is_aborted = True
            self.exchange.abort()

    def accept(self) -> None:
        if not self.is_accepted and not self.is_over:
            self.is_accepted = True
            self.exchange.accept_body()

    def hold(self) -> None:
        self.is_paused = True
        self.exchange.pause()

    def go_on(self) -> None:
        self.is_paused = False
        self.exchange.resume()

    def finish(self) -> None:
        """Answer, or go on with what was begun."""
        if self.is_started:
            self.end()
        else:
            self.respond(200, b"late:" + self.body)

    def poke(self) -> None:
        """Use an exchange that is over in every way: nothing may come of it."""
        exchange = self.exchange
        exchange.pause()
        exchange.accept_body()
        exchange.resume()
        exchange.write(b"too late")
        exchange.respond(200, TEXT, b"too late")
        exchange.end((TAIL,))
        exchange.abort()


class Manner:
    """What is done when a request begins, when a piece of its body comes, and at its end."""

    def __init__(
        self,
        begin: Callable[[Served], None] | None = None,
        on_data: Callable[[Served], None] | None = None,
        on_end: Callable[[Served], None] | None = None,
    ) -> None:
        self.begin = begin or _nothing
        self.on_data = on_data or _nothing
        self.on_end = on_end or _nothing


def _nothing(served: Served) -> None: ...


def _accept(served: Served) -> None:
    served.accept()


def _echo(served: Served) -> None:
    served.respond(200, b"echo:" + served.body)


def _collect(served: Served) -> None:
    if served.is_complete:
        _echo(served)
    else:
        served.accept()


def _refuse(served: Served) -> None:
    served.respond(413, b"too large", trailers=False)


def _begin_stream(served: Served) -> None:
    served.start(200, None)
    served.write(b"begun:")
    if served.is_complete:
        served.write(served.body)
        served.end()
    else:
        served.accept()


def _stream_on(served: Served) -> None:
    served.write(served.pieces[-1])
    if served.exchange.is_congested and not served.is_over:
        served.hold()


def _end(served: Served) -> None:
    served.end()


def _lie(served: Served) -> None:
    served.start(200, 5)
    served.write(b"abc")
    if served.head.method == "HEAD" or served.head.is_h2:
        served.end()
        return
    # The exchange must break it off: the next answer would be taken for this one's rest.
    served.is_aborted = True
    served.exchange.end()


def _raise(served: Served) -> None:
    served.has_failed = True
    raise Planned


def _pieces(served: Served) -> None:
    served.start(200, None)
    for piece in (b"one,", b"", b"two,"):
        served.write(piece)
    served.accept()


def _known(served: Served) -> None:
    served.start(200, 6)
    served.write(b"abc")
    served.write(b"def")
    served.end()


def _bodiless(served: Served) -> None:
    served.respond(304 if served.head.method == "GET" else 204, b"", trailers=False)


def _long(served: Served) -> None:
    served.respond(200, LONG)


def _long_pieces(served: Served) -> None:
    served.start(200, len(LONG) * 2)
    for _ in range(2):
        served.write(LONG)
    served.end()


MANNERS = (
    Manner(_collect, on_end=_echo),  # "0"
    Manner(_refuse),
    Manner(_accept),  # answered when the driver says so
    Manner(),  # neither accepted nor answered, until the driver says so
    Manner(_begin_stream, _stream_on, _end),  # "4"
    Manner(_accept, Served.hold, _echo),  # held at every piece, until the driver goes on
    Manner(Served.abort),
    Manner(_lie),
    Manner(_raise),  # "8"
    Manner(_pieces),
    Manner(_accept, _echo),  # ":", answered in the middle of the body
    Manner(_known),
    Manner(_bodiless),
    Manner(_long),
    Manner(_long_pieces),
    Manner(_begin_stream, Served.hold, _end),  # "?"
)
STREAMED = 4
UNSTEADY = frozenset((5, 10, 15))
"""What becomes of these depends on how the body was cut."""


class ManneredFront:
    """exchange.Front. Steady: nothing depends on how bytes were cut."""

    def __init__(self, *, is_steady: bool = False) -> None:
        self.is_steady = is_steady
        self.served: list[Served] = []

    def begin(self, exchange: ServerExchange, body: Data | None) -> None:
        served = Served(self, exchange, body)
        exchange.sink = served
        self.served.append(served)
        MANNERS[served.manner].begin(served)

    @property
    def open(self) -> list[Served]:
        """What is not over."""
        return [s for s in self.served if not s.is_over]


class Bugs(logging.Handler):
    """What the wire logs of exceptions that it survived: all but `Planned` must come out."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, Planned):
            self.seen.append(error)

    def __enter__(self) -> Bugs:
        log = logging.getLogger("gateway.wire")
        log.addHandler(self)
        self._before = log.propagate
        log.propagate = False
        return self

    def __exit__(self, *_: object) -> None:
        log = logging.getLogger("gateway.wire")
        log.removeHandler(self)
        log.propagate = self._before
        if self.seen:
            raise self.seen[0]
