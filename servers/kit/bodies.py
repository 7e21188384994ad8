"""HTTP bodies: read within a bound, decompressed within the same bound, compressed for who asks.

The bound holds after decompression too, and both directions of compression happen on a thread: a
kilobyte can become the whole bound, and a megabyte takes zlib tens of milliseconds.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Collection
from functools import partial

from gateway.domain.errors import DeadlineExceeded, InvalidRequest, TooLarge, Unimplemented
from gateway.wire.exchange import RequestHead
from gateway.wire.tasks import Awaited

TIMEOUT_HEADER = "x-request-timeout-ms"

GZIP = ("gzip", "x-gzip")
GZIP_OR_DEFLATE = (*GZIP, "deflate")

_WORTH_BYTES = 1024
"""Answers below this fit one packet; compressing them saves nobody anything."""
_LEVEL = 1
"""zlib's fastest: on tensors the higher levels gain a few percent for several times the work."""


def timeout_s(head: RequestHead) -> float | None:
    """Seconds that the caller gives this request, by header; None where it does not say.

    Raises:
        InvalidRequest: the header is no whole number (`bad_timeout`).
    """
    given = head.get(TIMEOUT_HEADER)
    if given is None:
        return None
    if not given.isascii() or not given.isdigit() or len(given) > 12:
        raise InvalidRequest(
            f"{TIMEOUT_HEADER} must be whole milliseconds, was {given[:64]!r}", reason="bad_timeout"
        )
    return int(given) / 1000


def is_plain(head: RequestHead) -> bool:
    """Whether the body is what it looks like."""
    return head.get("content-encoding") in (None, "", "identity")


async def read_body(
    request: Awaited, limit: int, deadline_at: float, encodings: Collection[str] = GZIP
) -> bytes:
    """The request's body, decompressed, at most `limit` bytes before and after.

    Raises:
        DeadlineExceeded: it had not all come by `deadline_at`.
        TooLarge: it is longer.
        InvalidRequest: it is not what Content-Encoding says it is (`bad_encoding`).
        Unimplemented: an encoding that is not among `encodings`.
    """
    encoding = (request.head.get("content-encoding") or "").strip().lower()
    if encoding not in ("", "identity", *encodings):
        raise Unimplemented(
            f"Content-Encoding {encoding[:64]!r} is not offered; send "
            f"{', '.join(e for e in encodings if e[1] != '-')} or none",
            reason="bad_encoding",
        )
    try:
        body = await request.body(limit, deadline_at)
    except TooLarge:
        raise _too_large(limit) from None
    except DeadlineExceeded:
        raise DeadlineExceeded(
            "Deadline exceeded before the request's body had come", reason="call"
        ) from None
    if encoding in ("", "identity") or not body:
        return body
    unpack = inflate if encoding == "deflate" else gunzip
    return await asyncio.get_running_loop().run_in_executor(None, unpack, body, limit)


def gunzip(body: bytes, limit: int) -> bytes:
    """Decompress gzip, one or more members, to at most `limit` bytes."""
    return _unpack(body, limit, "gzip", 16 + zlib.MAX_WBITS)


def inflate(body: bytes, limit: int) -> bytes:
    """Decompress `deflate`: zlib's format, as the standard says, or raw, as some clients send."""
    is_zlib = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return _unpack(body, limit, "deflate", zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)


def _unpack(body: bytes, limit: int, kind: str, window: int) -> bytes:
    pieces: list[bytes] = []
    left = limit
    while body:
        member = zlib.decompressobj(window)
        try:
            piece = member.decompress(body, left + 1)
        except zlib.error as error:
            raise _bad(kind, str(error)) from error
        left -= len(piece)
        if left < 0 or member.unconsumed_tail:
            raise _too_large(limit)
        if not member.eof:
            raise _bad(kind, "it ends too early")
        pieces.append(piece)
        body = member.unused_data
        if body and kind == "deflate":
            raise _bad(kind, "something follows it")
    return b"".join(pieces)


async def packed(head: RequestHead, body: bytes) -> tuple[str, bytes]:
    """Content-Encoding ("" is none) and body of an answer, as Accept-Encoding asks."""
    wanted = head.get("accept-encoding")
    if wanted is None or len(body) < _WORTH_BYTES:
        return "", body
    encoding = preferred(wanted)
    if not encoding:
        return "", body
    pack = partial(_pack, body, 16 + zlib.MAX_WBITS if encoding == "gzip" else zlib.MAX_WBITS)
    return encoding, await asyncio.get_running_loop().run_in_executor(None, pack)


def _pack(body: bytes, window: int) -> bytes:
    made = zlib.compressobj(_LEVEL, zlib.DEFLATED, window)
    return made.compress(body) + made.flush()


def preferred(accept_encoding: str) -> str:
    """`gzip`, `deflate`, or "" for neither: the highest quality wins, then the first named."""
    best, best_quality = "", 0.0
    for part in accept_encoding[:256].lower().split(","):
        name, _, parameter = part.partition(";")
        name = name.strip()
        if name not in ("gzip", "deflate", "identity"):
            continue
        key, _, text = parameter.strip().partition("=")
        try:
            quality = float(text) if key.strip() == "q" else 1.0
        except ValueError:
            quality = 0.0
        if quality > best_quality:
            best, best_quality = name, quality
    return "" if best == "identity" else best


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The request body is over the limit of {limit} bytes; send fewer rows at once, or raise "
        "--max-body",
        reason="too_large",
    )


def _bad(kind: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The body is not valid {kind}, as Content-Encoding says: {why}", reason="bad_encoding"
    )
