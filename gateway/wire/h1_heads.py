"""HTTP/1.1 heads: bytes to RequestHead and ResponseHead, remembered by their bytes.

llhttp judges the syntax of every head. What it leaves open, or leaves open in some releases, is
judged here, because a head that two parties may read in two ways is how requests are smuggled
(RFC 9112 section 11.2): bare CR or LF, folded lines, both ways of framing, two lengths, a
transfer-coding that is not exactly `chunked`.

A caller on a kept connection sends the same head again and again. So heads that were accepted are
remembered whole, and the same bytes give the same object without being parsed; `kept` then spares
the user of the wire as much again.
"""

from __future__ import annotations

import re
from typing import Any

import httptools

from gateway.wire.exchange import RequestHead, ResponseHead

UNKNOWN_LENGTH = -1
"""Of an answer: it ends with its connection."""

NO_ANSWER = 0
"""In place of a status: these bytes are no HTTP/1.1 at all, so that whoever sent them (a broken
HTTP/2 preface, say) would not understand an answer either."""

_LENGTH = re.compile(r"[0-9]{1,18}")
_TARGET = re.compile(r"[\x21\x22\x24-\x7e\x80-\xff]*")
"""No blanks, no control characters and no fragment."""
_LINE = re.compile(rb"[^ \r]+ [^ \r]+ HTTP/[0-9]\.[0-9]\r\n")
"""llhttp takes several blanks for one."""
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-5][0-9]{2}[ \r]")
"""llhttp takes an empty line for an answer with status 0, and statuses that HTTP does not have."""
_ABSOLUTE = re.compile(r"https?://([^/?]*)(.*)", re.IGNORECASE)
_HOST = re.compile(r"[^\x00-\x20\x7f-\xa0,/?#@]*")
"""No more than HTTP/2 takes for an authority."""

_MEMO_HEADS = 1024
_MEMO_BYTES = 4096
"""A thousand heads of at most 4 KB: 4 MB, whatever callers send."""


class BadHead(Exception):
    """A head that is refused: the status that says so, and why."""

    def __init__(self, status: int, message: str, cause: str = "bad_request") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.cause = cause


class H1Request:
    """A parsed request head, with what its connection must know."""

    __slots__ = ("head", "is_chunked", "keep_alive", "length", "version")

    def __init__(
        self, head: RequestHead, length: int, is_chunked: bool, keep_alive: bool, version: str
    ) -> None:
        self.head = head
        self.length = length
        self.is_chunked = is_chunked
        self.keep_alive = keep_alive
        self.version = version


class H1Response:
    """A parsed answer head, with what its connection must know."""

    __slots__ = ("head", "is_chunked", "keep_alive", "length")

    def __init__(self, head: ResponseHead, length: int, is_chunked: bool, keep_alive: bool) -> None:
        self.head = head
        self.length = length
        self.is_chunked = is_chunked
        self.keep_alive = keep_alive


class Memo:
    """Heads by their bytes. Forgotten all at once when full, which needs no order and no clock."""

    __slots__ = ("_heads", "_limit", "get")

    def __init__(self, limit: int = _MEMO_HEADS) -> None:
        self._heads: dict[bytes, Any] = {}
        self._limit = limit
        self.get = self._heads.get
        """`get(raw)`: what was put under these bytes, or None."""

    def put(self, raw: bytes, parsed: object) -> None:
        """Remember, unless it is too large to be worth it."""
        if len(raw) > _MEMO_BYTES:
            return
        if len(self._heads) >= self._limit:
            self._heads.clear()
        self._heads[raw] = parsed


class _Collected:
    """What llhttp calls."""

    def __init__(self) -> None:
        self.url = b""
        self.fields: list[tuple[str, str]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")))


def parse_request(raw: bytes, max_count: int) -> H1Request:
    """Parse one whole head, its empty line included.

    Raises:
        BadHead: with the status to answer.
    """
    _check_lines(raw)
    if not _LINE.match(raw):
        first = raw.partition(b"\r\n")[0]
        status = 400 if b" HTTP/" in first else NO_ANSWER
        why = "A request line is a method, a target and HTTP/1.1, one blank between"
        raise BadHead(status, why)
    seen = _Collected()
    parser = httptools.HttpRequestParser(seen)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # Not offered; the request is answered as what it is without it (RFC 9110, 7.8).
    except httptools.HttpParserError as error:
        raise BadHead(400, f"The request's head is no HTTP/1.1: {error}") from error
    method = parser.get_method().decode("latin-1")
    version = parser.get_http_version()
    if version not in ("1.1", "1.0"):
        raise BadHead(505, f"HTTP/{version} is not spoken here", "bad_request")
    fields = _counted(seen.fields, max_count)
    length, is_chunked = _framing(fields, version)
    if method == "CONNECT":
        raise BadHead(405, "CONNECT is not offered")
    hosts = [value for name, value in fields if name == "host"]
    if len(hosts) > 1 or (not hosts and version == "1.1") or not all(map(_is_host, hosts)):
        raise BadHead(400, "A request of HTTP/1.1 has exactly one Host")
    path, authority = _target(method, seen.url.decode("latin-1"), hosts[0] if hosts else "")
    expect = next((value for name, value in fields if name == "expect"), None)
    if expect is not None and expect.lower() != "100-continue":
        raise BadHead(417, f"Expect: {expect[:64]} cannot be met")
    head = RequestHead(
        method,
        path,
        tuple((name, value) for name, value in fields if name != "host"),
        authority=authority,
        content_length=None if is_chunked or length < 0 else length,
        expects_continue=expect is not None and version == "1.1",
    )
    keep_alive = _keeps_alive(fields, version)
    return H1Request(head, max(0, length), is_chunked, keep_alive, version)


def parse_response(raw: bytes, max_count: int) -> H1Response:
    """Parse one whole head of an answer, its empty line included.

    Raises:
        BadHead: it is no HTTP/1.1 (the status means nothing here).
    """
    _check_lines(raw)
    if not _STATUS_LINE.match(raw):
        raise BadHead(502, "the answer does not begin with a status line of HTTP/1.1")
    seen = _Collected()
    parser = httptools.HttpResponseParser(seen)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise BadHead(502, f"the answer's head is no HTTP/1.1: {error}") from error
    status, version = parser.get_status_code(), parser.get_http_version()
    fields = _counted(seen.fields, max_count)
    length, is_chunked = _framing(fields, version)
    known = None if is_chunked or length < 0 else length
    keep_alive = _keeps_alive(fields, version)
    return H1Response(ResponseHead(status, fields, known), length, is_chunked, keep_alive)


def _check_lines(raw: bytes) -> None:
    ends = raw.count(b"\r\n")
    if raw.count(b"\n") != ends or raw.count(b"\r") != ends or b"\0" in raw:
        raise BadHead(400, "A head's lines end with CR LF, and hold no CR, LF or NUL")
    if b"\r\n " in raw or b"\r\n\t" in raw:
        raise BadHead(400, "Folded header lines are not accepted (RFC 9112 section 5.2)")


def _counted(fields: list[tuple[str, str]], most: int) -> tuple[tuple[str, str], ...]:
    if len(fields) > most:
        raise BadHead(431, f"More than {most} header fields", "head_too_large")
    return tuple(fields)


def _framing(fields: tuple[tuple[str, str], ...], version: str) -> tuple[int, bool]:
    """Content length (-1: none said) and whether the body is chunked."""
    lengths = [value for name, value in fields if name == "content-length"]
    codings = [value for name, value in fields if name == "transfer-encoding"]
    if codings:
        if lengths:
            raise BadHead(400, "Content-Length and Transfer-Encoding exclude one another")
        if version != "1.1":
            raise BadHead(400, "Transfer-Encoding is no part of HTTP/1.0")
        if len(codings) > 1 or codings[0].lower() != "chunked":
            raise BadHead(501, "The only Transfer-Encoding that is read here is chunked")
        return UNKNOWN_LENGTH, True
    if not lengths:
        return UNKNOWN_LENGTH, False
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise BadHead(400, "Content-Length must be one decimal number")
    return int(lengths[0]), False


def _target(method: str, target: str, host: str) -> tuple[str, str]:
    """Path (with query) and authority."""
    if not _TARGET.fullmatch(target):
        raise BadHead(400, "The request target holds what no target may")
    if target.startswith("/") or (target == "*" and method == "OPTIONS"):
        return target, host
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not absolute[1] or not _is_host(absolute[1]):
        raise BadHead(400, "The request target must be a path")
    path = absolute[2]
    # RFC 9112 section 3.2.2: the target's authority replaces Host.
    return (path if path.startswith("/") else f"/{path}"), absolute[1]


def _is_host(host: str) -> bool:
    return _HOST.fullmatch(host) is not None


def _keeps_alive(fields: tuple[tuple[str, str], ...], version: str) -> bool:
    keep = version == "1.1"
    for name, value in fields:
        if name == "connection":
            options = {option.strip(" \t").lower() for option in value.split(",")}
            if "close" in options:
                return False
            keep = keep or "keep-alive" in options
    return keep
