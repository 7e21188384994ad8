"""From decoded fields to heads, with the rules of RFC 9113 section 8.

What is let through here is written to HTTP/1.1 upstreams elsewhere, so nothing may pass that could
be read as something else there: control characters, a second length, a path with a space.
"""

from __future__ import annotations

import re

from gateway.wire.exchange import RequestHead, ResponseHead
from gateway.wire.fields import Pairs
from gateway.wire.hpack import RawFields

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE = re.compile(rb"[\r\n\0]")
_BLANK = (0x20, 0x09)
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PATH = re.compile(rb"/[^\x00-\x20\x7f]*|\*")
_AUTHORITY = re.compile(rb"[^\x00-\x20\x7f/?#@]*")
_DIGITS = re.compile(r"[0-9]{1,18}")

_OF_CONNECTION = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
"""Section 8.2.2: these belong to HTTP/1.1's connections."""

_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))

_names: dict[bytes, str] = {}
"""Names that were found valid, as text: there are few in the world, and callers repeat them."""
_MAX_NAMES = 4096

_FIELD_OVERHEAD_BYTES = 32
"""Section 6.5.2: what a field counts beside its bytes."""


class Malformed(Exception):
    """A message that breaks a rule in a way that ends its stream only."""


class HeadTooLarge(Exception):
    """A message beyond the bounds on heads."""


def check_size(raw: RawFields, max_bytes: int, max_count: int) -> None:
    """Raises:
    HeadTooLarge: the list has more bytes, as RFC 9113 counts them, or more fields.
    """
    if len(raw) > max_count or (
        sum([len(n) + len(v) for n, v in raw]) + _FIELD_OVERHEAD_BYTES * len(raw) > max_bytes
    ):
        raise HeadTooLarge


def request_head(raw: RawFields) -> RequestHead:
    """Raises:
    Malformed: it is no request of HTTP/2. CONNECT counts as such: nothing here is a tunnel.
    """
    pseudo, start = _pseudo_fields(raw, _REQUEST_PSEUDO)
    method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    authority = pseudo.get(b":authority", b"")
    if not pseudo.get(b":scheme") or not _METHOD.fullmatch(method) or not _PATH.fullmatch(path):
        raise Malformed("a pseudo-field is missing or wrong")
    if method == b"CONNECT" or (path == b"*" and method != b"OPTIONS"):
        raise Malformed("a method and a path that do not go together")
    fields, special = _fields(raw, start)
    host = special.get("host")
    if host is not None:
        authority = authority or host.encode("latin-1")
        fields = [pair for pair in fields if pair[0] != "host"]
    if not _AUTHORITY.fullmatch(authority):
        raise Malformed("a wrong authority")
    if "cookie" in special:
        fields = _one_cookie(fields)
    return RequestHead(
        method.decode("latin-1"),
        path.decode("latin-1"),
        tuple(fields),
        authority=authority.decode("latin-1"),
        content_length=_length(special),
        expects_continue=special.get("expect", "").lower() == "100-continue",
        is_h2=True,
    )


def response_head(raw: RawFields) -> ResponseHead:
    """Raises:
    Malformed: it is no answer of HTTP/2.
    """
    pseudo, start = _pseudo_fields(raw, (b":status",))
    status = pseudo.get(b":status", b"")
    if len(status) != 3 or not status.isdigit() or status[0] not in b"12345" or status == b"101":
        raise Malformed("no valid status")
    fields, special = _fields(stripped(raw), start)
    return ResponseHead(int(status), tuple(fields), _length(special))


def trailers(raw: RawFields) -> Pairs:
    """Raises:
    Malformed: a name or a value is wrong, or there is a pseudo-field.
    """
    return tuple(_fields(raw, 0)[0])


def stripped(raw: RawFields) -> RawFields:
    """Without blanks around values, which no field may have and some servers send all the same (a
    `grpc-message` that ends with one, of gRPC core). In an answer they do no harm; to refuse it
    would only lose what it says."""
    for _, value in raw:
        if value and (value[0] in _BLANK or value[-1] in _BLANK):
            return [(name, value.strip(b" \t")) for name, value in raw]
    return raw


def _pseudo_fields(
    raw: RawFields, known: frozenset[bytes] | tuple[bytes, ...]
) -> tuple[dict[bytes, bytes], int]:
    """Those that the list begins with, and where the others start."""
    found: dict[bytes, bytes] = {}
    for at, (name, value) in enumerate(raw):
        if name[:1] != b":":
            return found, at
        if name not in known or name in found:
            raise Malformed("an unknown or repeated pseudo-field")
        found[name] = value
    return found, len(raw)


_SPECIAL = frozenset(("host", "content-length", "expect", "cookie"))


def _fields(raw: RawFields, start: int) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """All fields from `start` as text, and those of them that mean something to us."""
    fields: list[tuple[str, str]] = []
    special: dict[str, str] = {}
    names = _names
    for raw_name, raw_value in raw[start:] if start else raw:
        name = names.get(raw_name) or _new_name(raw_name)
        if raw_value and (
            raw_value[0] in _BLANK or raw_value[-1] in _BLANK or _BAD_VALUE.search(raw_value)
        ):
            raise Malformed("a value that no field may have")
        value = raw_value.decode("latin-1")
        if name == "te" and value.lower() != "trailers":
            raise Malformed("te may only be trailers")
        if name in _SPECIAL and special.setdefault(name, value) != value and name != "cookie":
            raise Malformed("two fields that contradict each other")
        fields.append((name, value))
    return fields, special


def _new_name(raw: bytes) -> str:
    if not _NAME.fullmatch(raw):
        raise Malformed("a name that no field may have")
    if raw in _OF_CONNECTION:
        raise Malformed("a field that belongs to HTTP/1.1's connections")
    name = raw.decode("ascii")
    if len(_names) < _MAX_NAMES and len(raw) <= 64:
        _names[raw] = name
    return name


def _one_cookie(fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Section 8.2.3: HTTP/2 may split it, and nobody behind us expects that."""
    # Without empty ones: a value that ends in a blank is none that we could pass on.
    crumbs = [value for name, value in fields if name == "cookie" and value]
    rest = [pair for pair in fields if pair[0] != "cookie"]
    return [*rest, ("cookie", "; ".join(crumbs))]


def _length(special: dict[str, str]) -> int | None:
    value = special.get("content-length")
    if value is None:
        return None
    if not _DIGITS.fullmatch(value):
        raise Malformed("a content-length that is no number")
    return int(value)
