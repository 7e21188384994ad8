"""Compressed bodies, read within bounds: a kilobyte of gzip may mean a gigabyte of zeros."""

from __future__ import annotations

import zlib

from gateway.domain.errors import InvalidRequest, TooLarge

_GZIP = zlib.MAX_WBITS | 16


def decompressed(body: bytes, encoding: str | None, limit_bytes: int) -> bytes:
    """`body` without its Content-Encoding: `gzip`, `deflate` (with or without zlib's header), or
    none.

    Raises:
        TooLarge: it would become larger than `limit_bytes` (`too_large`).
        InvalidRequest: another encoding, several of them, or data that is none of it
            (`bad_encoding`).
    """
    match (encoding or "identity").strip().lower():
        case "identity" | "":
            return body
        case "gzip" | "x-gzip":
            return _inflated(body, _GZIP, limit_bytes)
        case "deflate":
            # RFC 9110 means zlib's format; some callers send the bare stream (its section 8.4.1.2).
            is_zlib = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0
            return _inflated(body, zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS, limit_bytes)
        case other:
            raise InvalidRequest(
                f"Content-Encoding {other[:64]!r} is not read here; send gzip, deflate or none",
                reason="bad_encoding",
            )


def _inflated(body: bytes, wbits: int, limit_bytes: int) -> bytes:
    parts: list[bytes] = []
    left = limit_bytes
    while body:
        stream = zlib.decompressobj(wbits)
        try:
            part = stream.decompress(body, left + 1)
        except zlib.error as error:
            raise InvalidRequest(
                f"The request's body is not what its Content-Encoding says: {error}",
                reason="bad_encoding",
            ) from error
        left -= len(part)
        if left < 0:
            raise TooLarge(
                f"The request's body is larger than {limit_bytes} bytes when decompressed",
                reason="too_large",
            )
        if not stream.eof:
            raise InvalidRequest("The request's compressed body was cut off", reason="bad_encoding")
        parts.append(part)
        if len(parts) > 1024:
            raise InvalidRequest(
                "The request's body has more than 1024 gzip members", reason="bad_encoding"
            )
        # Only gzip may go on with another member.
        body = stream.unused_data if wbits == _GZIP else b""
    return b"".join(parts)
