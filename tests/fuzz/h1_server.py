"""Target: bytes of a caller into an HTTP/1.1 server connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from gateway.wire import h1_server
from gateway.wire.h1_heads import Memo
from gateway.wire.h1_server import H1ServerConnection
from gateway.wire.settings import ServerWireSettings
from tests.fuzz.front import Bugs, ManneredFront, Served
from tests.fuzz.h1_readings import (
    Message,
    Reading,
    answers,
    h11_requests,
    is_target,
    llhttp_requests,
)
from tests.fuzz.script import Script, must, split
from tests.fuzz.serving import Counts, Serving
from tests.parts.virtual_loop import VirtualLoop, virtual_loop

SETTINGS = ServerWireSettings(max_head_bytes=512, max_header_count=12, write_high_bytes=1024)
_PIPELINED_BYTES = 700
_LINGER_BYTES = 1500


def run(data: bytes) -> None:
    """One case: anything may happen, or bytes are cut and all else is steady."""
    script, sent = split(data)
    with Bugs(), virtual_loop() as loop:
        if script.byte() & 1:
            with _small_bounds():
                served = _Run(loop, ManneredFront(), script, sent).front.served
        else:
            cut = _Run(loop, ManneredFront(is_steady=True), script, sent, has_events=False)
            whole = _Run(loop, ManneredFront(is_steady=True), Script(b""), sent)
            must(cut.told == whole.told, "cutting changed what was told", cut.told, whole.told)
            served = cut.front.served
    if served:
        _same("h11", h11_requests(sent), served)
        _same("llhttp", llhttp_requests(sent), served)


@contextmanager
def _small_bounds() -> Iterator[None]:
    with (
        patch.object(h1_server, "_PIPELINED_BYTES", _PIPELINED_BYTES),
        patch.object(h1_server, "_LINGER_BYTES", _LINGER_BYTES),
    ):
        yield


Told = tuple[list[tuple[str, str]], list[tuple[int, bytes]], int]
"""What is seen of a connection, whatever the cutting: requests, answers, and how many faults."""


class _Run:
    """One connection from its beginning to its end."""

    def __init__(
        self,
        loop: VirtualLoop,
        front: ManneredFront,
        script: Script,
        sent: bytes,
        *,
        has_events: bool = True,
    ) -> None:
        self.front, self.counts = front, Counts()
        with patch.object(h1_server, "_REQUESTS", Memo()):
            self.connection = H1ServerConnection(self.front, SETTINGS, self.counts)
            self.serving = Serving(loop, self.connection, self.front, self._look)
            self.serving.run(script, sent, has_events=has_events)
            self.told = self._told()
            self.serving.end()
        must(self.counts.open == 0, "opened and closed do not match")

    def _look(self) -> None:
        held = len(self.connection._waiting)
        bound = max(h1_server._PIPELINED_BYTES, SETTINGS.max_head_bytes)
        most = bound + self.serving.largest
        must(held <= most, "more is held than the bounds allow", held, most)
        is_held_back = any(s.is_paused for s in self.front.open)
        must(len(self.front.open) <= 1, "two requests at once")
        if not is_held_back and held <= h1_server._PIPELINED_BYTES:
            must(self.serving.transport.hears, "it does not read, so nobody can leave")

    def _told(self) -> Told:
        served = self.front.served
        found = answers(bytes(self.serving.transport.written), [s.head.method for s in served])
        _check_answers(served, found)
        return (
            [(s.head.method, s.head.path) for s in served],
            [_seen(a, served[n] if n < len(served) else None) for n, a in enumerate(found)],
            len(self.counts.causes),
        )


def _seen(answer: Message, served: Served | None) -> tuple[int, bytes]:
    if served is None or not served.is_ended:
        # By the connection itself, or broken off: which of several faults it finds first, and how
        # much it has told by then, may depend on how the bytes were cut.
        return 0, b""
    return answer.status, answer.body


def _check_answers(served: list[Served], found: list[Message]) -> None:
    """Every answer that was given is on the wire, whole and in its place."""
    for n, one in enumerate(served):
        if one.is_ended:
            must(n < len(found), "an answer that was given was not written", one.head.path)
            answer = found[n]
            has_body = one.head.method != "HEAD" and one.status not in (204, 304)
            must(answer.is_complete, "an answer is not complete", one.head.path)
            must(answer.status == one.status, "another status", answer.status, one.status)
            must(answer.body == (bytes(one.answer) if has_body else b""), "another body")
    must(len(found) <= len(served) + 1, "answers that nobody gave")


def _same(who: str, theirs: Reading, served: list[Served]) -> None:
    for n, mine in enumerate(served):
        path = mine.head.path
        if n >= len(theirs.messages):
            must(theirs.error in _STRICTER, f"{who} refuses what we take", theirs.error, path)
            return
        other = theirs.messages[n]
        is_same = mine.head.method == other.method and is_target(other.target, path)
        must(is_same, f"{who} reads another request", path, other.target)
        if theirs.error and not other.is_complete:
            return  # They take less of chunk extensions than RFC 9112 and we.
        if mine.is_complete:
            must(other.is_complete, f"{who} sees no end", path, mine.body, other.body)
            must(mine.body == other.body, f"{who} reads another body", mine.body, other.body)
            must(mine.trailers == other.trailers, f"{who} reads other trailers", mine.trailers)
        else:
            must(other.body.startswith(mine.body), f"{who} reads another beginning", mine.body)


_STRICTER = frozenset(("", "no request line received"))
"""They may close earlier than we, and h11 takes no empty line before a request."""
