"""Realistic traffic to begin with: what clients and servers say, in the form that targets read."""

from __future__ import annotations

import gzip

from gateway.wire import h2_frames as h2
from gateway.wire.grpc_messages import frame
from tests.fuzz.h2_frames import answer_block, request_block, trailer_block
from tests.fuzz.script import joined

# ---- HTTP/1.1 --------------------

_HOST = b"Host: 127.0.0.1:8501\r\n"
_AGENT = b"User-Agent: curl/7.88.1\r\nAccept: */*\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n"


def _post(path: bytes, body: bytes, more: bytes = b"") -> bytes:
    head = b"POST " + path + b" HTTP/1.1\r\n" + _HOST + more
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


_CHUNKS = b"5\r\nhello\r\n1;x=y\r\n \r\nA\r\n0123456789\r\n0\r\n"
_REQUESTS = (
    b"GET /v1/models/m0 HTTP/1.1\r\n" + _HOST + _AGENT + b"\r\n",
    b"HEAD /v1/models/m; HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"GET http://h/0 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    _post(b"/v1/models/m:predict0", b'{"instances": [[1.0, 2.0, 5.0]]}', _AGENT),
    _post(b"/5", b"held back", b"Content-Type: application/json\r\n"),
    _post(b"/4", b"x" * 300),
    _post(b"/2", b"later"),
    _post(b"/0", b"hello", b"Expect: 100-continue\r\n"),
    _post(b"/1", b"refused", b"Expect: 100-continue\r\n"),
    _post(b"/4", b"answered before", b"Expect: 100-continue\r\n"),
    _post(b"/1", b"dropped"),
    _post(b"/>", b"", b"Connection: close\r\n"),
    b"POST /0 HTTP/1.1\r\n" + _HOST + _CHUNKED + b"\r\n" + _CHUNKS + b"\r\n",
    b"PUT /? HTTP/1.1\r\n" + _HOST + _CHUNKED + b"\r\n" + _CHUNKS + b"T: u\r\nV: w\r\n\r\n",
    b"GET /= HTTP/1.1\r\n" + _HOST + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n",
)
_ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\n" + _CHUNKED + b"\r\n" + _CHUNKS + b"T: u\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + b"x" * 500,
)
_SMUGGLED = b"0\r\n\r\nGET /0 HTTP/1.1\r\nHost: a\r\n\r\n"
_AMBIGUOUS = (
    _post(b"/0", _SMUGGLED, _CHUNKED),
    _post(b"/0", _SMUGGLED, b"Transfer-Encoding: xchunked\r\n"),
    _post(b"/0", _SMUGGLED, b"Transfer-Encoding: chunked, identity\r\n"),
    _post(b"/0", _SMUGGLED, b"Transfer-Encoding : chunked\r\n"),
    _post(b"/0", _SMUGGLED, b"X: y\r\n Transfer-Encoding: chunked\r\n"),
    _post(b"/0", _SMUGGLED, b"X: y\nTransfer-Encoding: chunked\r\n"),
    _post(b"/0", _SMUGGLED, b"X: y\rTransfer-Encoding: chunked\r\n"),
    _post(b"/0", _SMUGGLED, b"Content-Length: 0\r\n"),
    _post(b"/0", _SMUGGLED, b"Content-Length: +5\r\n"),
    _post(b"/0", _SMUGGLED, b"Content-Length: 5, 5\r\n"),
    b"POST /0 HTTP/1.0\r\n" + _CHUNKED + b"\r\n" + _SMUGGLED,
    b"POST /0 HTTP/1.1\r\n" + _HOST + _CHUNKED + b"\r\n5 ;x\r\nhello\r\n+0\r\n\r\n" + _SMUGGLED,
    b"POST /0 HTTP/1.1\r\n" + _HOST + _CHUNKED + b"\r\n5\nhello\r\n0\r\n\r\n" + _SMUGGLED,
    b"POST /0 HTTP/1.1\r\n" + _HOST + _CHUNKED + b"\r\n5\r\nhello0\r\n\r\n" + _SMUGGLED,
    b"GET /0 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET  /0  HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"\r\n\r\nGET /0 HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"GET /0\r\n\r\n",
    b"GET /0 HTTP/1.1\n" + _HOST + b"\n\r\n\r\n",
)
"""What two parties might read in two ways."""
_CUTS = (b"", b"\x30" * 12, b"\x11" * 30, b"\x60\x01\x40\x02\x30\x07")


def _h1_server() -> list[bytes]:
    both = [a + b for a, b in zip(_REQUESTS, reversed(_REQUESTS), strict=True)]
    all_of_them = (*_REQUESTS, *_AMBIGUOUS, *both)
    found = [joined(b"\0" + cuts, sent) for cuts in _CUTS for sent in all_of_them]
    for sent in _REQUESTS:
        after_head = bytes((16 + sent.index(b"\r\n\r\n") + 4,))
        found.append(joined(b"\1" + after_head + b"\1\3\2", sent))
    events = bytes((1, 0x40, 1, 0x40, 2, 0x60, 6, 0x60, 7, 2, 1, 9, 3, 1, 12, 1, 10, 80, 15))
    return found + [joined(b"\1" + events, sent) for sent in both]


def _h1_client() -> list[bytes]:
    steady = [joined(bytes(5) + cuts, sent) for cuts in _CUTS for sent in _ANSWERS]
    events = bytes((3, 20, 0x30, 3, 9, 4, 0x60, 1, 0x60, 1, 9, 0x60, 6, 7, 14, 11))
    kinds = [bytes((n, n + 7, n + 13, n + 20, 1)) for n in range(30)]
    # One after the other on one connection: the second is paused, the first is used once more.
    pause = bytes((0, 0, 0, 0, 1, 15 + len(_ANSWERS[0]), 5, 14))
    steady.append(joined(pause, _ANSWERS[0] + _ANSWERS[0]))
    two = [a + b for a in _ANSWERS for b in _ANSWERS[:4]]
    return steady + [joined(k + events, two[n % len(two)]) for n, k in enumerate(kinds)]


# ---- HTTP/2, as the records of h2_frames.Frames --------------------


def _head(number: int, *, ends: bool, flags: int = 0, stream: int = 0x80) -> bytes:
    return bytes((10, flags | ends, stream, number))


def _data(body: bytes, *, ends: bool, stream: int = 0x40) -> bytes:
    return bytes((0, ends, stream, len(body))) + body


_TRAILERS = b"\x0c\x40\x10"
_PING = b"\x06\x00\x00\x0812345678"
_RECORDS = (
    _head(0x90, ends=True) * 3,
    _head(0x00, ends=False) + _data(b"hello", ends=True),
    _head(0x30, ends=False, flags=0x68) + _data(b"hello", ends=True),
    _head(0x54, ends=False) + _data(frame(b"a tensor"), ends=False) + _TRAILERS,
    _head(0x45, ends=False) + _data(b"one", ends=False) + _PING + _data(b"two", ends=True),
    _head(0x02, ends=False) + b"\x0b\x00\x40\xff\x0b\x09\x40\x80" + b"\x0e\x00\x10",
    b"\x0f\x03\x02" + _head(0x1D, ends=True) + b"\x0e\x40\x0a\x0e\x00\x14\x0f\x03\x05",
    _head(0x0E, ends=True) + b"\x03\x00\x40\x04\x00\x00\x00\x08" + _head(0x04, ends=False),
    _head(0x80, ends=True) + b"\x0f\x00\x00" + _head(0xF0, ends=True),
    b"\x0f\x04\x07" + _head(0x0D, ends=True) + b"\x07\x00\x00\x08\x7f\xff\xff\xff\0\0\0\0",
    b"\x02\x00\x40\x05\0\0\0\0\x10" + _head(0x70, ends=True, flags=0x40),
)
_ANSWER_RECORDS = (
    _head(0x10, ends=True) * 3,
    _head(0x00, ends=False, stream=1) + _data(b"hello", ends=True, stream=1),
    _head(0x08, ends=False, flags=0x68, stream=3) + _data(b"hello", ends=True, stream=3),
    _head(0x04, ends=False, stream=1) + _head(0x90, ends=False, stream=1)
    + _data(frame(b"a tensor"), ends=False, stream=1) + b"\x0c\x01\x10",
    b"\x0f\x03\x02\x0f\x02\x02" + _head(0x80, ends=True) + b"\x0e\x01\x0a\x0e\x00\x14",
    _head(0x00, ends=False) + b"\x07\x00\x00\x08\x00\x00\x00\x01\0\0\0\0" + _TRAILERS,
    b"\x03\x00\x01\x04\x00\x00\x00\x07\x03\x00\x03\x04\x00\x00\x00\x08" + _PING,
    _head(0x00, ends=False, stream=1) + b"\x0b\x00\x01\xff\x0b\x09\x01\x80\x0b\x01\x01\x10",
)  # fmt: skip


def _raw_frames(is_client: bool) -> list[bytes]:
    make = request_block if is_client else answer_block
    greeting = h2.PREFACE if is_client else b""
    found = []
    for number in (0x00, 0x10, 0x54, 0x84):
        head = h2.frame(h2.HEADERS, h2.END_HEADERS, 1, make(number))
        body = h2.frame(h2.DATA, 0, 1, frame(b"a tensor"))
        tail = h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1, trailer_block(number))
        update = h2.window_update(0, 1 << 20) + h2.window_update(1, 100)
        hello = greeting + h2.settings_frame({3: 100, 4: 1 << 20, 5: 16_384}) + h2.SETTINGS_ACK
        found.append(hello + update + head + body + tail + h2.ping(b"12345678"))
    return found


def _h2(is_client: bool) -> list[bytes]:
    records = _RECORDS if is_client else _ANSWER_RECORDS
    kinds = b"" if is_client else b"\2\3\0\1\4\x0d"
    events = bytes((0x60, 1, 0x60, 2, 4, 9, 6, 0xA0, 3, 15, 7, 8, 40, 1, 5, 12, 10, 90, 14))
    found = [joined(b"\0" + kinds + cuts, sent) for cuts in _CUTS for sent in records]
    found += [joined(b"\1" + kinds + events, sent) for sent in records]
    found += [joined(b"\x31" + kinds[::-1] + cuts, b"".join(records)) for cuts in _CUTS]
    return found + [
        joined(b"\2" + kinds + cuts, s) for cuts in _CUTS for s in _raw_frames(is_client)
    ]


# ---- heads and gRPC --------------------


def _heads() -> list[bytes]:
    blocks = [request_block(n) for n in (0x00, 0x74, 0x90, 0xD4)] + [answer_block(0x88)]
    blocks += [
        b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
        b"\x3f\xe1\x1f",
    ]
    sized = b"".join(bytes((len(b),)) + b for b in blocks)
    pseudo = bytes((0x8C, 0x94, 0x8D, 0x95, 0x8E, 0x97, 0x8F, 0x9A))
    fields = pseudo + b"\x03x-a\x02bc" + bytes((0x89, 0x97, 0x91, 0x8D)) + b"\x06cookie\x03a=b" * 2
    status = bytes((0x82, 0x84)) + b"\x0bgrpc-status\x010\x03x-a\x00"
    # What an index of the table means changes with the block between.
    table = (b"\x40\x03x-i\x01\x31", b"\xbe", b"\x40\x03x-j\x01\x32", b"\xbe", b"\xbf")
    indexed = b"".join(bytes((len(b),)) + b for b in table)
    found = [
        b"\0" + sized,
        b"\0" + indexed,
        b"\1" + fields,
        b"\2" + status,
        b"\3\x0bgrpc-status\x010\x03x-t\x01u",
    ]
    heads = [r[: r.index(b"\r\n\r\n") + 4] for r in _REQUESTS]
    return (
        found
        + [b"\4" + h for h in heads]
        + [b"\5" + a[: a.index(b"\r\n\r\n") + 4] for a in _ANSWERS]
    )


def _grpc() -> list[bytes]:
    zipped = gzip.compress(b"a tensor" * 9, mtime=0)
    packed = b"\1" + len(zipped).to_bytes(4) + zipped
    two = frame(b"one") + frame(b"")
    sent = (
        two,
        frame(b"x" * 290),
        packed,
        two + packed,
        frame(b"x" * 301),
        b"\2\0\0\0\0",
        two[:-2],
    )
    found = [b"\0" + joined(bytes((n,)) + b"\3\7", s) for n in range(3) for s in sent]
    found += [
        b"\1" + w for w in (b"100m", b"99999999H", b"0n", b"no such model: 100 %", b" \xc3\xa4%41")
    ]
    found += [
        b"\2\x32\1\1\0\x80\0\x81" + two,
        b"\2\x7d\0\2\0\x80\1\x86",
        b"\2\x32\1\0\3\x84" + packed,
    ]
    for path in range(6):
        for fields, steps in (
            (0, b"\0"),
            (0x22, b"\0\5\1\3\0\2\0\4\1"),
            (0x0C, b"\1"),
            (0x40, b"\0\2"),
        ):
            found.append(b"\3" + joined(bytes((path, fields)) + steps, sent[(path + fields) % 4]))
    return found


def seeds(target: str) -> list[bytes]:
    """Cases for a target, made and not found."""
    match target:
        case "h1_server":
            return _h1_server()
        case "h1_client":
            return _h1_client()
        case "h2_server":
            return _h2(is_client=True)
        case "h2_client":
            return _h2(is_client=False)
        case "heads":
            return _heads()
        case _:
            return _grpc()
