"""Connections say and do the same however the bytes are cut, and whether heads are remembered."""

from __future__ import annotations

import asyncio
import re
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import h1_client_connection, h1_server
from gateway.wire.exchange import WireError
from gateway.wire.h1_client_connection import H1ClientConnection, H1ClientExchange
from gateway.wire.h1_heads import Memo
from gateway.wire.h1_server import H1ServerConnection
from gateway.wire.settings import ClientWireSettings, ServerWireSettings
from tests.parts.wire_h1 import Counts, Front


class Wire:
    """A transport without a socket."""

    def __init__(self) -> None:
        self.said = b""
        self.closed = False
        self.reading = True

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.said += bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = close
    write_eof = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return ("192.0.2.1", 1)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None: ...


MESSAGES = [
    b"GET /v1/models/m HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nworld",
    b"\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n1;x\r\nd\r\n0\r\nT: u\r\n\r\n",
    b"POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\nGET / H",
    b"HEAD /known HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /pieces HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /none HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /pieces HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"garbage\r\n\r\n",
]

messages = st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=6)
cuts = st.lists(st.integers(0, 10_000), max_size=12)


def _cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = sorted({c % (len(data) + 1) for c in at} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(edges)]


def _served(pieces: list[bytes]) -> tuple[bytes, list[str], list[str]]:
    """What a server says to it, which requests it saw, what it counted."""

    async def main() -> tuple[bytes, list[str], list[str]]:
        front, counts, wire = Front(), Counts(), Wire()
        connection = H1ServerConnection(front, ServerWireSettings(), counts)
        connection.connection_made(cast(asyncio.Transport, wire))
        for piece in pieces:
            connection.data_received(piece)
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        connection.connection_lost(None)
        said = re.sub(rb"date: [^\r]*", b"date", wire.said)
        return said, [f"{head.method} {head.path}" for head in front.heads], counts.causes

    return asyncio.run(main())


@given(messages, cuts)
def test_a_server_does_not_care_how_bytes_are_cut(parts: list[bytes], at: list[int]) -> None:
    data = b"".join(parts)
    assert _served(_cut(data, at)) == _served([data])


@given(messages)
def test_a_server_does_not_care_whether_it_remembers(parts: list[bytes]) -> None:
    data = b"".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(h1_server, "_REQUESTS", Memo(limit=1000))
        fresh = _served([data])
        remembered = _served([data])
        patch.setattr(h1_server._REQUESTS, "get", lambda raw: None)
        forgotten = _served([data])
    assert fresh == remembered == forgotten


@given(st.binary(max_size=80), cuts)
def test_a_server_survives_whatever_comes(data: bytes, at: list[int]) -> None:
    _served(_cut(data, at))
    _served(_cut(MESSAGES[1] + data, at))


class Heard:
    """What a sink is told, with pieces joined."""

    def __init__(self) -> None:
        self.status, self.body, self.trailers, self.end = 0, b"", (), ""

    def on_whole(self, head, body, trailers):
        self.on_head(head)
        self.on_data(body)
        self.on_end(trailers)

    def on_head(self, head):
        assert not self.status
        self.status = head.status

    def on_data(self, data):
        assert self.status
        self.body += bytes(data)

    def on_end(self, trailers):
        assert not self.end
        self.end, self.trailers = "end", trailers

    def on_failed(self, error: WireError):
        assert not self.end
        self.end = error.reason

    def on_writable(self) -> None: ...


ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: u\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n",
    b"nonsense\r\n\r\n",
    b"",
]


def _asked(pieces: list[bytes], method: str = "GET") -> tuple[object, ...]:
    async def main() -> tuple[object, ...]:
        freed: list[object] = []
        heard, wire = Heard(), Wire()
        connection = H1ClientConnection("a:1", ClientWireSettings(), freed.append, lambda _: None)
        connection.connection_made(cast(asyncio.Transport, wire))
        exchange = H1ClientExchange("a:1", heard, b"GET / ...", is_head=method == "HEAD")
        exchange.is_sent = True
        connection.begin(exchange, b"")
        for piece in pieces:
            if not wire.closed:
                connection.data_received(piece)
        is_free = bool(freed) and not wire.closed
        connection.connection_lost(None)
        if heard.end != "end":
            return heard.end, is_free  # how much of it was told before it broke is chance
        return heard.status, heard.body, heard.trailers, heard.end, is_free

    return asyncio.run(main())


@given(st.sampled_from(ANSWERS), cuts, st.sampled_from(["GET", "HEAD"]))
def test_a_client_does_not_care_how_bytes_are_cut(data: bytes, at: list[int], method: str) -> None:
    if method == "HEAD":
        data = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert _asked(_cut(data, at), method) == _asked([data], method)


@given(st.binary(max_size=80), cuts)
def test_a_client_survives_whatever_comes(data: bytes, at: list[int]) -> None:
    assert _asked(_cut(data, at))[-2]
    _asked(_cut(ANSWERS[1] + data, at))
    assert h1_client_connection._ANSWERS.get(ANSWERS[8]) is None
