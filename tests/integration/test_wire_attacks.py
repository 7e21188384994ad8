"""Attacks on a listener of the wire: each is bounded, refused, counted, and felt by nobody else.

The server is a process of its own, on either event loop. While an attack lasts, and afterwards, a
caller on connections of its own is answered over both protocols; the server's memory, measured at
its peak, stays flat; the causes it counts are those, and only those, that the table names. Bounds
are the defaults, but for time: nobody waits a minute here.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.wire import h2_frames as h2
from gateway.wire.h1_client import Http1Client
from gateway.wire.h2_client import Http2Client
from gateway.wire.settings import CAUSES
from tests.parts import wire_attacks as wire
from tests.parts.attacked_server import Attacked
from tests.parts.certificates import self_signed, trusting
from tests.parts.h2_peer import HELLO, REQUEST, data, headers
from tests.parts.h2_sockets import ask
from tests.parts.waiting import until

pytestmark = pytest.mark.slow

MIB = 1 << 20
SOON = {"head_timeout_s": 0.3, "body_timeout_s": 0.3, "write_timeout_s": 0.3}
ALIVE = {"ping_interval_s": 0.2, "ping_timeout_s": 0.2}


@dataclass(frozen=True)
class Case:
    """An attack, what of it is counted, and what memory it may cost at most."""

    attack: wire.Attack
    causes: frozenset[str] = frozenset()
    settings: dict[str, float] = field(default_factory=dict)
    memory_bytes: int = 4 * MIB
    is_tls: bool = False


def case(attack, *causes, memory_mib=4, is_tls=False, **settings):
    return Case(attack, frozenset(causes), settings, memory_mib * MIB, is_tls)


def post(*fields: str, body: bytes = b"", path: str = "/") -> bytes:
    lines = "".join(f"{one}\r\n" for one in ("Host: a", *fields))
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


CHUNKED = "Transfer-Encoding: chunked"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
WINDOWS = headers(1, *REQUEST) + b"".join(wire.asks(n, "/hold") for n in wire.odd(500, 3))

HTTP2 = {
    # ---- what costs its sender nothing
    "rapid reset": case(wire.rapid_reset, "reset_flood"),
    "rapid reset, at once": case(wire.h2_says(wire.RESETS), "reset_flood"),
    "made you reset": case(wire.h2_says(wire.MADE_YOU_RESET), "reset_flood", "protocol_error"),
    "malformed heads": case(wire.h2_says(wire.MALFORMED), "reset_flood", "protocol_error"),
    "too many streams": case(wire.h2_says(wire.TOO_MANY), "streams_limit", "reset_flood"),
    "PING": case(wire.h2_says(h2.ping(b"12345678") * 40_000), "control_flood"),
    "PING, answers unread": case(
        wire.floods(HELLO, h2.ping(b"12345678") * 1000, 100), "control_flood"
    ),
    "SETTINGS": case(wire.h2_says(h2.settings_frame({}) * 40_000), "control_flood"),
    "SETTINGS, many in each": case(
        wire.h2_says(h2.settings_frame(dict.fromkeys(range(7, 2000), 1)) * 100), "control_flood"
    ),
    "SETTINGS that move all windows": case(
        wire.h2_says(WINDOWS, h2.settings_frame({4: 1000}) * 40_000), "control_flood"
    ),
    "PRIORITY": case(
        wire.h2_says(h2.frame(h2.PRIORITY, 0, 1, b"\0\0\0\7\1") * 40_000), "control_flood"
    ),
    "WINDOW_UPDATE": case(wire.h2_says(h2.window_update(0, 1) * 40_000), "control_flood"),
    "unknown frames": case(wire.h2_says(h2.frame(0xBE, 0, 0, b"") * 40_000), "control_flood"),
    "empty DATA": case(
        wire.h2_says(wire.asks(1, "/hold", ends=False), data(1, b"") * 40_000), "control_flood"
    ),
    "DATA of padding": case(
        wire.h2_says(wire.asks(1, "/", ends=False), data(1, b"", pad=9) * 40_000), "control_flood"
    ),
    # ---- heads
    "CONTINUATION": case(wire.h2_says(wire.CONTINUATIONS), "continuation_flood"),
    "CONTINUATION, empty": case(wire.h2_says(wire.EMPTY_CONTINUATIONS), "continuation_flood"),
    "CONTINUATION, long": case(wire.h2_says(wire.LONG_CONTINUATIONS), "head_too_large"),
    "an HPACK bomb": case(wire.h2_says(wire.HPACK_BOMB), "head_too_large"),
    "small HPACK bombs": case(wire.hpack_bombs, "head_too_large"),
    "games with the HPACK table": case(wire.table_games),
    "heads that could be remembered": case(wire.distinct_heads),
    "a large head": case(wire.floods(HELLO + wire.LARGE_HEAD, b"", 0), "head_too_large"),
    "no HPACK": case(wire.h2_says(h2.frame(h2.HEADERS, 5, 1, b"\x80")), "protocol_error"),
    "a slow preface": case(wire.trickles(b"", h2.PREFACE), "head_timeout", **SOON),
    "a preface and no more": case(wire.says(h2.PREFACE), "head_timeout", **SOON),
    "half a head": case(wire.h2_says(wire.OPEN_BLOCK), "head_timeout", **SOON),
    "a slow head": case(
        wire.trickles(HELLO, headers(1, ("x", "y" * 1000))), "head_timeout", **SOON
    ),
    # ---- bodies and windows
    "a body that stops": case(
        wire.floods(HELLO + wire.asks(1, "/", ends=False), b"", 0), "body_timeout", **SOON
    ),
    "more than the window": case(
        wire.floods(HELLO + wire.BEYOND_THE_WINDOW, b"", 0), "protocol_error"
    ),
    "all of the window": case(wire.fills_the_window, memory_mib=20),
    "no window, 1 GB asked for": case(wire.zero_window, "write_timeout", memory_mib=24, **SOON),
    "a window of bytes": case(wire.byte_by_byte, memory_mib=24),
    "an endless answer unread": case(
        wire.floods(wire.WIDE + wire.asks(1, "/stream"), b"", 0),
        "write_timeout",
        memory_mib=8,
        **SOON,
    ),
    "heads unread": case(wire.reads_no_heads, "write_timeout", **SOON),
    # ---- half-open
    "no answer to PING": case(wire.h2_says(wire.asks(1, "/hold")), "ping_timeout", **ALIVE),
    "a half-closed connection": case(wire.half_closes(HELLO + wire.asks(1, "/hold"))),
}

HTTP1 = {
    # ---- what could be read in two ways
    "both framings": case(
        wire.is_told(
            post("Content-Length: 5", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED), b"HTTP/1.1 400"
        ),
        "bad_request",
    ),
    "both framings, reversed": case(
        wire.is_told(
            post(CHUNKED, "Content-Length: 44", body=b"0\r\n\r\n" + SMUGGLED), b"HTTP/1.1 400"
        ),
        "bad_request",
    ),
    "two lengths": case(
        wire.is_told(
            post("Content-Length: 0", "Content-Length: 38", body=SMUGGLED), b"HTTP/1.1 400"
        ),
        "bad_request",
    ),
    "a coding that nobody knows": case(
        wire.is_told(post("Transfer-Encoding: xchunked", body=SMUGGLED), b"HTTP/1.1 400"),
        "bad_request",
    ),
    "chunked, folded": case(
        wire.is_told(post("Transfer-Encoding:\r\n chunked", body=SMUGGLED), b"HTTP/1.1 400"),
        "bad_request",
    ),
    "a folded line": case(
        wire.is_told(post("X: a\r\n Content-Length: 38", body=SMUGGLED), b"HTTP/1.1 400"),
        "bad_request",
    ),
    "a bare LF in a head": case(
        wire.is_told(post("X: a\nContent-Length: 38", body=SMUGGLED), b"HTTP/1.1 400"),
        "bad_request",
    ),
    "bare LFs only": case(
        wire.is_told(SMUGGLED.replace(b"\r\n", b"\n"), b"HTTP/1.1 400"), "bad_request"
    ),
    "a bare CR in a head": case(
        wire.is_told(post("X: a\rContent-Length: 38", body=SMUGGLED), b"HTTP/1.1 400"),
        "bad_request",
    ),
    "a blank before the colon": case(
        wire.is_told(post("Content-Length : 38", body=SMUGGLED), b"HTTP/1.1 400"), "bad_request"
    ),
    "a chunk longer than it says": case(
        wire.is_told(post(CHUNKED, body=b"1\r\nabc\r\n0\r\n\r\n" + SMUGGLED), b"HTTP/1.1 400"),
        "bad_request",
    ),
    "a bare LF behind a chunk's size": case(
        wire.is_told(post(CHUNKED, body=b"0\n\r\n" + SMUGGLED), b"HTTP/1.1 400"), "bad_request"
    ),
    "a size that is no number": case(
        wire.is_told(post(CHUNKED, body=b"0x1\r\na\r\n0\r\n\r\n"), b"HTTP/1.1 400"), "bad_request"
    ),
    "a size beyond all numbers": case(
        wire.is_told(post(CHUNKED, body=b"f" * 17 + b"\r\n"), b"HTTP/1.1 400"), "bad_request"
    ),
    "a huge chunk extension": case(
        wire.is_told(post(CHUNKED, body=b"1;" + b"x" * 100_000 + b"\r\na"), b"HTTP/1.1 400"),
        "bad_request",
    ),
    "endless trailers": case(
        wire.is_told(post(CHUNKED, body=b"0\r\n" + b"A: b\r\n" * 10_000), b"HTTP/1.1 400"),
        "bad_request",
    ),
    "a smuggler's trailer": case(
        wire.is_told(post(CHUNKED, body=b"0\r\nA: b\n\r\n" + SMUGGLED), b"HTTP/1.1 400"),
        "bad_request",
    ),
    "another protocol": case(wire.says(b"\x16\x03\x01\x02\0\x01\0\r\n\r\n"), "bad_request"),
    "empty lines": case(wire.says(b"\r\n" * 10_000), "bad_request"),
    # ---- too much
    "a long line": case(wire.is_told(b"GET /" + b"a" * MIB, b"HTTP/1.1 414"), "head_too_large"),
    "a large field": case(
        wire.is_told(GET[:-2] + b"X: " + b"a" * MIB, b"HTTP/1.1 431"), "head_too_large"
    ),
    "many fields": case(
        wire.is_told(GET[:-2] + b"A: b\r\n" * 1000 + b"\r\n", b"HTTP/1.1 431"), "head_too_large"
    ),
    "a refused body that goes on": case(wire.endless_refused_body),
    "pipelined requests, answers unread": case(
        wire.floods(b"", GET * 4000, 2000), "write_timeout", memory_mib=12, **SOON
    ),
    "tiny chunks": case(
        wire.is_told(post(CHUNKED, body=b"1\r\nx\r\n" * 100_000 + b"x\r\n"), b"HTTP/1.1 400"),
        "bad_request",
        memory_mib=12,
    ),
    # ---- too slow
    "a slow head": case(wire.trickles(b"", GET), "head_timeout", **SOON),
    "half a head": case(wire.is_told(GET[:20], b"HTTP/1.1 408"), "head_timeout", **SOON),
    "a body that stops": case(
        wire.says(post("Content-Length: 9", body=b"x")), "body_timeout", **SOON
    ),
    "an answer unread": case(
        wire.floods(GET.replace(b"/", b"/stream", 1), b"", 0), "write_timeout", **SOON
    ),
    "a large answer unread": case(
        wire.floods(GET.replace(b"/", b"/big", 1) * 100, b"", 0), "write_timeout", **SOON
    ),
    # ---- connections
    "a half-closed connection": case(wire.half_closes(GET.replace(b"/", b"/hold", 1))),
    "connections that say nothing": case(wire.half_open, "head_timeout", memory_mib=8, **SOON),
    "too many connections": case(
        wire.too_many_connections, "connections_limit", max_connections=50
    ),
    "TLS that is none": case(wire.says(GET, repeat=20), "tls_handshake", is_tls=True),
    "a handshake that stops": case(
        wire.says(b"\x16\x03\x01\x02\0\x01\0"), "tls_handshake", is_tls=True, **SOON
    ),
}

CASES = {
    **{f"HTTP/2: {name}": one for name, one in HTTP2.items()},
    **{f"HTTP/1.1: {name}": one for name, one in HTTP1.items()},
}


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def server(request):
    with Attacked.running(request.param) as attacked:
        yield attacked


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("tls"))


class Bystander:
    """A caller on connections of its own, over both protocols."""

    def __init__(self, port: int, cert: Path | None) -> None:
        h1_tls, h2_tls = (cert and trusting(cert, name) for name in ("http/1.1", "h2"))
        self._address = f"127.0.0.1:{port}"
        self._clients = (Http1Client(ssl=h1_tls), Http2Client(ssl=h2_tls))
        self.answers = 0

    async def is_answered(self) -> None:
        for client in self._clients:
            answer = await ask(client, self._address, b"x" * 1000).wait()
            assert answer.error is None, answer.error
            assert (answer.head.status, answer.body) == (200, b"1000")
            self.answers += 1

    async def aclose(self) -> None:
        for client in self._clients:
            await client.aclose()


@asynccontextmanager
async def bystander(port: int, cert: Path | None):
    one = Bystander(port, cert)
    await one.is_answered()
    try:
        yield one
    finally:
        await one.aclose()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_attack(case, server, certificate):
    server.listen(case.settings, certificate if case.is_tls else None)
    target = wire.Target(server.address)
    cert = certificate[0] if case.is_tls else None
    async with bystander(server.port, cert) as caller, asyncio.TaskGroup() as tasks:
        before = server.mark()
        answered = caller.answers
        attack = tasks.create_task(asyncio.to_thread(case.attack, target))
        while not attack.done():
            await caller.is_answered()
            if case.causes and case.causes <= server.look()["causes"].keys():
                target.over.set()
            await asyncio.sleep(0.01)
        await caller.is_answered()
        seen = server.look()
        assert caller.answers > answered + 2, "nobody asked in the meantime"
    assert set(seen["causes"]) == case.causes
    assert "/smuggled" not in seen["paths"]
    assert seen["VmHWM"] - before < case.memory_bytes
    await until(lambda: server.look()["connections"] == 0)
    seen = server.look()
    assert not any(seen["open"].values())
    assert set(seen["causes"]) == case.causes
    assert seen["gone"].get("/hold", 0) == seen["paths"].get("/hold", 0), "work for nobody goes on"
    server.stop()


def test_every_cause_that_is_counted_is_shown():
    assert {cause for case in CASES.values() for cause in case.causes} == set(CAUSES)
