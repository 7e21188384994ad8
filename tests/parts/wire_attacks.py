"""What an attacker does to a server of HTTP, with plain sockets and bytes made beforehand.

Each attack is a function of its target; bounded in count and time. Attackers who are to be let go
wait for that, those who are to be borne hold out until the test says that it is `over`.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gateway.wire import h2_frames as h2
from gateway.wire.fields import hpack_int
from tests.parts.h2_peer import HELLO, REQUEST, block, data, headers

PATIENCE_S = 10.0
_PONG = h2.ping(b"12345678", is_ack=True)


@dataclass
class Target:
    """A server, and whether it has shown what it was to show."""

    address: tuple[str, int]
    over: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def connected(self, first: bytes = b"", *, receive_bytes: int = 0) -> Iterator[Raw]:
        """A connection that begins with these bytes. What it does not read stays within
        `receive_bytes` (and the server's own socket)."""
        sock = socket.socket()
        try:
            if receive_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.settimeout(PATIENCE_S)
            sock.connect(self.address)
            raw = Raw(sock)
            raw.send(first)
            yield raw
        finally:
            sock.close()

    def hold_out(self) -> None:
        """Stay as one is until the test is over."""
        assert self.over.wait(PATIENCE_S), "the server did not show what it was to show"


Attack = Callable[[Target], None]


class Raw:
    """A connection. Sending to a server that has closed it, or does not read, is no failure."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, data: bytes, within_s: float = PATIENCE_S) -> bool:
        """False when not all of it was taken."""
        self.sock.settimeout(within_s)
        try:
            self.sock.sendall(data)
        except OSError:
            return False
        return True

    def ends_within(self, seconds: float) -> bool:
        """Read for that long; whether the server closes."""
        end_at = time.perf_counter() + seconds
        while select.select([self.sock], [], [], max(0.0, end_at - time.perf_counter()))[0]:
            try:
                if not self.sock.recv(1 << 16):
                    return True
            except ConnectionError:
                return True
        return False

    def rest(self) -> bytes:
        """All that comes until the server closes, which it must do in time."""
        self.sock.settimeout(PATIENCE_S)
        came = bytearray()
        with contextlib.suppress(ConnectionError):
            while piece := self.sock.recv(1 << 16):
                came += piece
        return bytes(came)

    def until_pong(self) -> None:
        """Read until everything that was sent before this has been looked at."""
        self.send(h2.ping(b"12345678"))
        came = b""
        while _PONG not in came:
            piece = self.sock.recv(1 << 16)
            assert piece, "it was closed"
            came = came[-len(_PONG) :] + piece


def asks(stream_id: int, path: str, *, ends: bool = True) -> bytes:
    """HEADERS of a request."""
    return headers(stream_id, *REQUEST[:2], (":path", path), ends=ends)


def odd(count: int, start: int = 1) -> range:
    """Numbers for so many streams."""
    return range(start, start + 2 * count, 2)


# ---- told by bytes alone --------------------


def says(first: bytes, *, repeat: int = 1) -> Attack:
    """Say this, and be let go."""

    def attack(target: Target) -> None:
        for _ in range(repeat):
            with target.connected(first) as raw:
                raw.rest()

    return attack


def h2_says(*pieces: bytes) -> Attack:
    """As `says`, in HTTP/2."""
    return says(HELLO + b"".join(pieces))


def is_told(first: bytes, status: bytes, *, repeat: int = 1) -> Attack:
    """Say this in HTTP/1.1, be answered once and with this, and be let go."""

    def attack(target: Target) -> None:
        for _ in range(repeat):
            with target.connected(first) as raw:
                said = raw.rest()
                assert said.startswith(status), said[:300]
                assert said.count(b"HTTP/1.1 ") <= 1, "a second request was read"

    return attack


def trickles(first: bytes, then: bytes) -> Attack:
    """Say this, and then a byte from time to time, until one is let go."""

    def attack(target: Target) -> None:
        with target.connected(first) as raw:
            for at in range(len(then)):
                if not raw.send(then[at : at + 1]) or raw.ends_within(0.05):
                    break
            else:
                raise AssertionError("it was borne to the end")

    return attack


def half_closes(first: bytes) -> Attack:
    """Say this, and that one sends no more; be let go."""

    def attack(target: Target) -> None:
        with target.connected(first) as raw:
            raw.sock.shutdown(socket.SHUT_WR)
            raw.rest()

    return attack


def floods(first: bytes, again: bytes, times: int, *, receive_bytes: int = 4096) -> Attack:
    """Say this, and that again and again as fast as it is taken; read nothing."""

    def attack(target: Target) -> None:
        with target.connected(first, receive_bytes=receive_bytes) as raw:
            for _ in range(times):
                if target.over.is_set() or not raw.send(again, 1.0):
                    break
            target.hold_out()

    return attack


# ---- HTTP/2: resets --------------------


def rapid_reset(target: Target) -> None:
    """CVE-2023-44487, with requests begun before they are reset."""
    with target.connected(HELLO) as raw:
        for start in range(1, 6001, 100):
            numbers = odd(50, start)
            raw.send(b"".join(asks(n, "/hold") for n in numbers))
            if raw.ends_within(0.001):
                return
            raw.send(b"".join(h2.rst_stream(n, h2.CANCEL) for n in numbers))
        raw.rest()


RESETS = b"".join(asks(n, "/hold") + h2.rst_stream(n, h2.CANCEL) for n in odd(5000))
MADE_YOU_RESET = b"".join(asks(n, "/hold") + h2.window_update(n, 0) for n in odd(3000))
MALFORMED = b"".join(headers(n, ("A", "b"), ends=True) for n in odd(3000))
TOO_MANY = b"".join(asks(n, "/hold") for n in odd(3000))

# ---- HTTP/2: heads --------------------

OPEN_BLOCK = h2.frame(h2.HEADERS, 0, 1, b"")
CONTINUATIONS = OPEN_BLOCK + h2.frame(h2.CONTINUATION, 0, 1, b"\x82") * 100_000
EMPTY_CONTINUATIONS = OPEN_BLOCK + h2.frame(h2.CONTINUATION, 0, 1, b"") * 100_000
LONG_CONTINUATIONS = OPEN_BLOCK + h2.frame(h2.CONTINUATION, 0, 1, b"\0" * 16_384) * 100

ENTRY = b"\x40\x01a" + hpack_int(4000, 7) + b"x" * 4000
"""One field of 4 KB into the table; 0xbe then means it, with one byte."""

HPACK_BOMB = h2.frame(h2.HEADERS, 5, 1, ENTRY + b"\xbe" * 12_000)
LARGE_HEAD = headers(1, *REQUEST, ("x", "v" * 16_300), ends=True)


def hpack_bombs(target: Target) -> None:
    """Each of 20 KB for a few bytes, which is below what ends the connection; 2,000 times."""
    head = block(*REQUEST)
    with target.connected(HELLO + h2.frame(h2.HEADERS, 5, 1, head + ENTRY)) as raw:
        for start in range(3, 4003, 200):
            raw.send(
                b"".join(h2.frame(h2.HEADERS, 5, n, head + b"\xbe" * 5) for n in odd(100, start))
            )
            raw.until_pong()


def table_games(target: Target) -> None:
    """The table emptied a thousand times and filled again by every request."""
    head = b"\x20\x3f\xe1\x1f" * 1000 + block(*REQUEST) + ENTRY
    with target.connected(HELLO) as raw:
        for start in range(1, 401, 200):
            raw.send(b"".join(h2.frame(h2.HEADERS, 5, n, head) for n in odd(100, start)))
            raw.until_pong()


def distinct_heads(target: Target) -> None:
    """A thousand heads that mean 4 KB each and could all be remembered."""
    plain = block(*REQUEST)
    with target.connected(HELLO + h2.frame(h2.HEADERS, 5, 1, plain + ENTRY)) as raw:
        for start in range(3, 2003, 200):
            raw.send(
                b"".join(
                    h2.frame(h2.HEADERS, 5, n, plain + b"\xbe" + block(("x-n", str(n))))
                    for n in odd(100, start)
                )
            )
            raw.until_pong()


# ---- windows --------------------

NO_WINDOW = h2.PREFACE + h2.settings_frame({h2.INITIAL_WINDOW_SIZE: 0})
WIDE = (
    h2.PREFACE
    + h2.settings_frame({h2.INITIAL_WINDOW_SIZE: 1 << 30, h2.MAX_FRAME_SIZE: (1 << 24) - 1})
    + h2.window_update(0, 1 << 30)
)
"""A caller who seems to take everything."""


def zero_window(target: Target) -> None:
    """Asks for 1 GB in 1,000 answers, and takes none of it."""
    with target.connected(NO_WINDOW + b"".join(asks(n, "/big") for n in odd(1000))):
        target.hold_out()


def byte_by_byte(target: Target) -> None:
    """The same, but takes a byte of each now and then, so that none is given up."""
    with target.connected(NO_WINDOW + b"".join(asks(n, "/big") for n in odd(1000))) as raw:
        for _ in range(20):
            raw.send(b"".join(h2.window_update(n, 1) for n in odd(100)))
            raw.until_pong()
            time.sleep(0.02)


def reads_no_heads(target: Target) -> None:
    """Heads without end: they wait for no window. The questions are so long that no more of them
    come at once than there may be streams."""
    ask = (":method", "HEAD"), *REQUEST[1:], ("x", "v" * 1000)
    with target.connected(WIDE, receive_bytes=4096) as raw:
        for start in range(1, 200_001, 200):
            burst = b"".join(headers(n, *ask, ends=True) for n in odd(100, start))
            if target.over.is_set() or not raw.send(burst, 1.0):
                break
        target.hold_out()


BEYOND_THE_WINDOW = asks(1, "/hold", ends=False) + data(1, bytes(1 << 14)) * 1024


def fills_the_window(target: Target) -> None:
    """As much of bodies that nobody takes as one connection may, by single bytes in part."""
    with target.connected(HELLO) as raw:
        raw.send(asks(1, "/hold", ends=False) + data(1, b"x") * 100_000)
        for n in odd(95, 3):
            raw.send(asks(n, "/hold", ends=False) + data(n, bytes(1 << 14)) * 5)
        raw.until_pong()


# ---- connections --------------------


def too_many_connections(target: Target) -> None:
    """100 at once, each with half a word."""
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(target.connected(b"GET / HT")) for _ in range(100)]
        for raw in many[-10:]:
            assert raw.rest() == b""


def half_open(target: Target) -> None:
    """300 connections that never say anything; every other is reset at once."""
    reset = struct.pack("ii", 1, 0)
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(target.connected()) for _ in range(300)]
        for raw in many[::2]:
            raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            raw.sock.close()
        for raw in many[1::2]:
            assert raw.rest() == b""


# ---- HTTP/1.1 --------------------


def endless_refused_body(target: Target) -> None:
    """Goes on sending what was refused."""
    head = b"POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n"
    with target.connected(head) as raw:
        for _ in range(16_000):
            if not raw.send(bytes(1 << 16)):
                return
        raise AssertionError("all of it was read")
