"""Target: heads. HPACK against another decoder; what one protocol lets through, written to the
other, must be read there as the same and as nothing else."""

from __future__ import annotations

from collections.abc import Callable

import hpack

from gateway.wire.exchange import RequestHead
from gateway.wire.fields import Fields, Pairs
from gateway.wire.h1_chunked import ChunkedDecoder
from gateway.wire.h1_client_connection import request_head as written_request
from gateway.wire.h1_exchange import status_line
from gateway.wire.h1_heads import BadHead, H1Request, parse_request, parse_response
from gateway.wire.h2_frames import H2Error
from gateway.wire.h2_heads import (
    HeadTooLarge,
    Malformed,
    check_size,
    request_head,
    response_head,
    trailers,
)
from gateway.wire.hpack import BlockReader, RawFields, keep
from tests.fuzz.h1_readings import h11_answers, h11_requests, is_target, llhttp_requests
from tests.fuzz.script import Script, must

_MAX_BYTES = 600
_MAX_COUNT = 12

NAMES = (
    b":method", b":path", b":scheme", b":authority", b":status", b"host", b"content-length",
    b"transfer-encoding", b"connection", b"te", b"expect", b"cookie", b"x-a", b"upgrade",
)  # fmt: skip
VALUES = (
    b"GET", b"POST", b"/", b"/a?b", b"http", b"h:1", b"200", b"204", b"5", b"chunked", b"close",
    b"trailers", b"100-continue", b"a=b", b"", b"*", b"OPTIONS", b"HEAD", b"5, 5", b"+5", b"\r\n",
)  # fmt: skip

_BY_US = frozenset(("host", "content-length", "transfer-encoding", "expect", "connection", "te"))
"""Fields that a forwarder leaves out, because each connection has its own."""


def run(data: bytes) -> None:
    """One case. The first byte says of which kind."""
    if data:
        _KINDS[data[0] % len(_KINDS)](data[1:])


# ---- HPACK --------------------


def _blocks(data: bytes) -> None:
    """Several blocks of one connection: a length, then so many bytes of one."""
    script, reader, other = Script(data), BlockReader(_MAX_BYTES), hpack.Decoder(1 << 16)
    while not script.is_empty:
        block = script.take(script.byte())
        try:
            raw, may_keep = reader.read(block)
        except H2Error:
            return  # The connection ends, and its table with it.
        theirs = [(bytes(n), bytes(v)) for n, v in other.decode(block, raw=True)]
        must(raw == theirs, "another decoder reads another list", raw, theirs)
        if may_keep:
            keep(reader.kept, block, raw)
        for kept, made in reader.kept.items():
            again = [(bytes(n), bytes(v)) for n, v in other.decode(kept, raw=True)]
            must(made == again, "what is remembered of a block is not true any more", kept)


def _fields(script: Script) -> RawFields:
    """Names and values, from the tables or as they come."""
    found: RawFields = []
    while not script.is_empty:
        name, value = script.byte(), 0
        text = NAMES[name % len(NAMES)] if name & 0x80 else script.take(name % 16)
        value = script.byte()
        found.append((text, VALUES[value % len(VALUES)] if value & 0x80 else script.take(value)))
    return found


# ---- from HTTP/2 to HTTP/1.1 --------------------


def _sizes_hold(raw: RawFields) -> bool:
    try:
        check_size(raw, _MAX_BYTES, _MAX_COUNT)
    except HeadTooLarge:
        return False
    return True


def _h2_request(data: bytes) -> None:
    raw = _fields(Script(data))
    try:
        head = request_head(raw)
    except Malformed:
        return
    if not _sizes_hold(raw):
        return
    _same_over_h2(head.fields)
    fields = _forwarded(head.fields)
    sent = written_request("h:1", head.method, head.path, (Fields(fields),), b"")
    _one_request(sent, head.method, head.path, fields)


def _one_request(sent: bytes, method: str, path: str, fields: Pairs) -> None:
    """These bytes are this request for everybody, and nothing follows it; or they are refused, for
    a method or a control character that HTTP/2 does not mind."""
    try:
        parsed = parse_request(sent, _MAX_COUNT + 2)
    except BadHead:
        return
    must((parsed.head.method, parsed.head.path) == (method, path), "another request line", sent)
    must(parsed.head.fields == fields, "other fields over HTTP/1.1", parsed.head.fields, fields)
    for reading in (h11_requests(sent), llhttp_requests(sent)):
        if reading.messages and not reading.error:
            [message] = reading.messages
            must(message.is_complete and not message.body, "it has a body for others", sent)
            must((message.method, message.target) == (method, path), "another request for others")
            rest = tuple(pair for pair in message.fields if pair[0] != "host")
            must(rest == fields, "other fields for others", rest, fields)


def _h2_answer(data: bytes) -> None:
    raw = _fields(Script(data))
    try:
        head = response_head(raw)
    except Malformed:
        return
    if not _sizes_hold(raw):
        return
    _same_over_h2(head.fields)
    fields = _forwarded(head.fields)
    length = (("content-length", "0"),)
    sent = status_line(head.status) + Fields(fields + length).h1 + b"\r\n"
    try:
        parsed = parse_response(sent, _MAX_COUNT + 1)
    except BadHead:
        return
    must(parsed.head.status == head.status, "another status", sent)
    must(parsed.head.fields == fields + length, "other fields over HTTP/1.1", parsed.head.fields)


def _h2_trailers(data: bytes) -> None:
    raw = _fields(Script(data))
    try:
        pairs = trailers(raw)
    except Malformed:
        return
    if not _sizes_hold(raw):
        return
    _same_over_h2(pairs)
    decoder = ChunkedDecoder()
    pieces, rest = decoder.feed(b"0\r\n" + Fields(pairs).h1 + b"\r\nrest")
    must(not pieces and rest == b"rest" and decoder.is_done, "trailers that end elsewhere", pairs)
    must(decoder.trailers == pairs, "other trailers over HTTP/1.1", decoder.trailers, pairs)


def _forwarded(fields: Pairs) -> Pairs:
    return tuple(pair for pair in fields if pair[0] not in _BY_US)


def _same_over_h2(fields: Pairs) -> None:
    """Written and read again they are the same, by our decoder and by another."""
    block = Fields(fields).h2
    raw = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in fields]
    must(BlockReader(_MAX_BYTES * 4).read(block) == (raw, True), "other fields over HTTP/2", fields)
    theirs = [(bytes(n), bytes(v)) for n, v in hpack.Decoder(1 << 16).decode(block, raw=True)]
    must(theirs == raw, "other fields over HTTP/2 for others", theirs, raw)


# ---- from HTTP/1.1 to HTTP/2 --------------------


def _one_head(data: bytes) -> bytes:
    """Up to the first empty line, as a connection finds a head."""
    whole = data + b"\r\n\r\n"
    return whole[: whole.index(b"\r\n\r\n") + 4]


def _h1_request(data: bytes) -> None:
    raw = _one_head(data)
    if raw[:2] == b"\r\n":
        return  # Not what a connection passes on.
    try:
        parsed = parse_request(raw, _MAX_COUNT)
    except BadHead as error:
        must(error.status == 0 or 400 <= error.status < 600, "refused with no error", error.status)
        return
    head = parsed.head
    theirs = llhttp_requests(raw)
    must(not theirs.error, "llhttp refuses it by itself", theirs.error)
    for reading in (h11_requests(raw), theirs):
        if reading.messages and not reading.error:
            must(len(reading.messages) == 1, "others read another number of requests", raw)
            [other] = reading.messages
            is_same = other.method == head.method and is_target(other.target, head.path)
            must(is_same, "others read another request", raw)
            has_body = parsed.is_chunked or parsed.length > 0
            must(other.is_complete != has_body, "others see another length", raw)
            rest = tuple(pair for pair in other.fields if pair[0] != "host")
            must(rest == head.fields, "others read other fields", rest, head.fields)
    _over_h2(head, parsed)


def _over_h2(head: RequestHead, parsed: H1Request) -> None:
    fields = tuple(p for p in _forwarded(head.fields) if p[0] not in _NOT_OF_H2)
    pseudo: Pairs = ((":method", head.method), (":scheme", "http"), (":path", head.path))
    if head.authority:
        pseudo = (*pseudo, (":authority", head.authority))
    _same_over_h2((*pseudo, *fields))
    raw = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in (*pseudo, *fields)]
    again = request_head(raw)
    must((again.method, again.path) == (head.method, head.path), "another request over HTTP/2")
    cookies = [v for n, v in fields if n == "cookie"]
    if len(cookies) < 2:
        must(sorted(again.fields) == sorted(fields), "other fields over HTTP/2", again.fields)


_NOT_OF_H2 = frozenset(("proxy-connection", "keep-alive", "upgrade", "http2-settings"))


def _h1_answer(data: bytes) -> None:
    raw = _one_head(data)
    try:
        parsed = parse_response(raw, _MAX_COUNT)
    except BadHead:
        return
    head = parsed.head
    must(100 <= head.status <= 599, "a status that there is not", head.status)
    fields = tuple(p for p in _forwarded(head.fields) if p[0] not in _NOT_OF_H2)
    _same_over_h2(fields)
    theirs = h11_answers(raw, ["GET"])
    if theirs.messages and not theirs.error:
        other = theirs.messages[0]
        must(other.status == head.status, "others read another status", raw)
        must(other.fields == head.fields, "others read other fields", other.fields, head.fields)
    if head.status != 101:
        again = response_head([(b":status", b"%d" % head.status), *_raw(fields)])
        must(again.fields == fields, "other fields over HTTP/2", again.fields, fields)


def _raw(fields: Pairs) -> RawFields:
    return [(n.encode("latin-1"), v.encode("latin-1")) for n, v in fields]


_KINDS: tuple[Callable[[bytes], None], ...] = (
    _blocks,
    _h2_request,
    _h2_answer,
    _h2_trailers,
    _h1_request,
    _h1_answer,
)
