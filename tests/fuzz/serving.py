"""Plays the caller of one server connection: sends pieces, reads or not, leaves, lets time pass."""

from __future__ import annotations

from collections.abc import Callable

from gateway.wire.h1_server import H1ServerConnection
from gateway.wire.h2_server import H2ServerConnection
from tests.fuzz.front import ManneredFront, Served
from tests.fuzz.script import Script, must
from tests.parts.scripted_transport import ScriptedTransport
from tests.parts.virtual_loop import VirtualLoop

_SHORTEST_PIECE = 16
"""Decisions below are events, all others say how long the next piece is."""


Connection = H1ServerConnection | H2ServerConnection


class Counts:
    """exchange.Watch that adds up."""

    def __init__(self) -> None:
        self.causes: list[str] = []
        self.open = 0

    def opened(self, protocol: str) -> None:
        self.open += 1

    def closed(self, protocol: str) -> None:
        self.open -= 1

    def refused(self, cause: str) -> None:
        self.causes.append(cause)


class Serving:
    """One connection on a scripted transport. `look` is called whenever something has happened."""

    def __init__(
        self,
        loop: VirtualLoop,
        connection: Connection,
        front: ManneredFront,
        look: Callable[[], None],
    ) -> None:
        self.loop = loop
        self.connection = connection
        self.front = front
        self.transport = ScriptedTransport(loop, connection)
        self.largest = 0
        """The longest piece that was sent."""
        self._look = look

    def run(self, script: Script, sent: bytes, *, has_events: bool = True) -> None:
        """Follow the script, and send what is left. Without events all of it is cuts."""
        at = 0
        while not script.is_empty and not self.transport.is_lost:
            step = script.byte()
            if has_events and 0 < step < _SHORTEST_PIECE:
                EVENTS[step](self, script)
                self._settle(b"")
                continue
            at = self._send(sent, at, max(1, step - _SHORTEST_PIECE) if step else len(sent))
        self._send(sent, at, len(sent))

    def end(self) -> None:
        """The caller goes; afterwards nothing may be left, and nothing may come of anything."""
        self.transport.cut(None)
        self._settle(b"")
        must(self.transport.is_lost, "the connection was never told that it is lost")
        left = [s.head.path for s in self.front.served if not s.is_over]
        must(not left, "requests of a lost connection that were never told", left)
        size = len(self.transport.written)
        for served in self.front.served:
            served.poke()
        self._settle(b"")
        self.loop.advance(7200.0)
        must(len(self.transport.written) == size, "something was written after the end")

    def _send(self, sent: bytes, at: int, size: int) -> int:
        piece = sent[at : at + size]
        if piece:
            self._settle(piece)
        return at + len(piece)

    def _settle(self, piece: bytes) -> None:
        self.largest = max(self.largest, len(piece))
        self.transport.deliver(piece)
        self.loop.run_ready()
        self._look()


def _first(found: list[Served]) -> Served | None:
    return found[0] if found else None


def _answer(serving: Serving, script: Script) -> None:
    held = [s for s in serving.front.open if s.is_complete or s.manner == 2]
    served = _first(held)
    if served is not None:
        served.finish()


def _resume(serving: Serving, script: Script) -> None:
    served = _first([s for s in serving.front.open if s.is_paused])
    if served is not None:
        served.go_on()


def _accept(serving: Serving, script: Script) -> None:
    served = _first([s for s in serving.front.open if not s.is_accepted])
    if served is not None:
        served.accept()


def _write(serving: Serving, script: Script) -> None:
    for served in serving.front.open:
        if served.is_started:
            served.write(b"more" * script.below(64))


def _abort(serving: Serving, script: Script) -> None:
    served = _first(serving.front.open)
    if served is not None:
        served.abort()


def _stop_taking(serving: Serving, script: Script) -> None:
    serving.transport.takes = False


def _take_all(serving: Serving, script: Script) -> None:
    serving.transport.takes = True
    serving.transport.take()


EVENTS: dict[int, Callable[[Serving, Script], None]] = {
    1: _answer,
    2: _resume,
    3: _accept,
    4: _write,
    5: _abort,
    6: _stop_taking,
    7: _take_all,
    8: lambda serving, script: serving.transport.take(script.byte() * 16),
    9: lambda serving, script: serving.loop.advance(1.0),
    10: lambda serving, script: serving.loop.advance(float(script.byte())),
    11: lambda serving, script: serving.transport.deliver_eof(),
    12: lambda serving, script: serving.connection.drain(),
    13: lambda serving, script: serving.connection.retire(),
    14: lambda serving, script: serving.connection.close(),
    15: lambda serving, script: serving.transport.cut(ConnectionResetError()),
}
