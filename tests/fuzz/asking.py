"""Requests that are sent and taken in manners of their own, and check how they are treated: the
client's counterpart of `front.py`."""

from __future__ import annotations

from collections.abc import Callable

from gateway.wire.exchange import ClientExchange, Data, ResponseHead, WireError
from gateway.wire.fields import Pairs
from tests.fuzz.script import must

METHODS = ("GET", "HEAD", "POST", "POST", "POST")
"""By the kind of a request: without a body, twice; whole; streamed; streamed with its length."""
WHOLE_BODY = b"a whole body"
KNOWN_LENGTH = 300
REASONS = frozenset(("connect_refused", "connect_timeout", "reset", "bad_answer"))


class Asking:
    """One request: AnswerSink, and the exchange it goes by."""

    def __init__(self, kind: int) -> None:
        self.kind = kind % len(METHODS)
        self.manner = kind // len(METHODS) % len(MANNERS)
        self.exchange: ClientExchange | None = None
        self.body: bytes | None = None if self.kind > 2 else (b"", b"", WHOLE_BODY)[self.kind]
        """What is given whole."""
        self.length = KNOWN_LENGTH if self.kind == 4 else None
        self.written = bytearray(self.body or b"")
        """All of the body that was given until now."""
        self.is_sent = self.body is not None
        self.head: ResponseHead | None = None
        self.pieces: list[bytes] = []
        self.trailers: Pairs = ()
        self.error: WireError | None = None
        self.is_complete = False
        self.is_cancelled = False
        self.is_paused = False

    @property
    def method(self) -> str:
        return METHODS[self.kind]

    @property
    def answer(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def is_over(self) -> bool:
        return self.is_complete or self.is_cancelled or self.error is not None

    # ---- AnswerSink --------------------

    def on_whole(self, head: ResponseHead, body: Data, trailers: Pairs) -> None:
        self._must_be_alive("on_whole")
        must(self.head is None, "on_whole after a head")
        self.head, self.trailers, self.is_complete = head, trailers, True
        self.pieces.append(bytes(body))

    def on_head(self, head: ResponseHead) -> None:
        self._must_be_alive("on_head")
        must(self.head is None, "two heads")
        must(head.status >= 200, "an interim answer was shown")
        self.head = head
        MANNERS[self.manner][0](self)

    def on_data(self, data: Data) -> None:
        self._must_be_alive("on_data")
        must(self.head is not None, "a body before its head")
        must(not self.is_paused, "a body while it was paused")
        must(len(data), "a piece of nothing")
        self.pieces.append(bytes(data))
        MANNERS[self.manner][1](self)

    def on_end(self, trailers: Pairs) -> None:
        self._must_be_alive("on_end")
        must(self.head is not None, "an end before its head")
        must(not self.is_paused, "an end while it was paused")
        self.trailers, self.is_complete = trailers, True

    def on_failed(self, error: WireError) -> None:
        self._must_be_alive("on_failed")
        must(error.reason in REASONS, "a reason that there is not", error.reason)
        self.error = error

    def on_writable(self) -> None:
        self._must_be_alive("on_writable")
        must(self.exchange is not None and not self.exchange.is_congested, "writable, congested")

    def _must_be_alive(self, call: str) -> None:
        must(self.exchange is not None, f"{call} before request() has returned")
        must(not self.is_over, f"{call} on an exchange that is over")

    # ---- what is done with it --------------------

    def write(self, data: bytes) -> None:
        if self.exchange is None or self.is_sent or self.is_over:
            return
        if self.length is not None:
            data = data[: self.length - len(self.written)]
        self.written += data
        self.exchange.write(data)

    def end(self) -> None:
        if self.exchange is None or self.is_sent or self.is_over:
            return
        if self.length is not None:
            self.write(bytes(self.length - len(self.written)))
        self.is_sent = True
        self.exchange.end()

    def pause(self) -> None:
        if self.exchange is not None and not self.is_over:
            self.is_paused = True
            self.exchange.pause()

    def resume(self) -> None:
        if self.exchange is not None and not self.is_over:
            self.is_paused = False
            self.exchange.resume()

    def cancel(self) -> None:
        if self.exchange is not None and not self.is_over:
            self.is_cancelled = True
            self.exchange.cancel()

    def poke(self) -> None:
        """Use an exchange that is over in every way: nothing may come of it."""
        if self.exchange is not None:
            self.exchange.pause()
            self.exchange.resume()
            self.exchange.write(b"too late")
            self.exchange.end()
            self.exchange.cancel()


def _nothing(asking: Asking) -> None: ...


Deed = Callable[[Asking], None]
MANNERS: tuple[tuple[Deed, Deed], ...] = (
    (_nothing, _nothing),  # what is done at the head, and at each piece
    (Asking.pause, _nothing),
    (_nothing, Asking.pause),
    (Asking.cancel, _nothing),
    (_nothing, Asking.cancel),
    (Asking.end, Asking.end),
)
