"""The headers of V2 over HTTP that say where the JSON ends and the tensors' bytes begin."""

from __future__ import annotations

import re

from gateway.domain.errors import InvalidRequest

HEADER_LENGTH = "Inference-Header-Content-Length"
"""How many bytes of the (decompressed) body are JSON; the rest is tensors. 0: all of it is the
single input's bytes."""

OCTETS = "application/octet-stream"
JSON = "application/json"

_INT32_MIN, _INT32_MAX = -(2**31), 2**31 - 1
_INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)
_SHOWN_CHARS = 64


def header_length(value: str | None, content_length: int) -> int | None:
    """What the header's `value` means for a body of `content_length` (decompressed) bytes; None
    where it was not sent.

    Raises:
        InvalidRequest: no integer, or outside of the body; Triton's words (`bad_header_length`).
    """
    if value is None:
        return None
    if len(value) <= 9 and value.isascii() and value.isdigit() and int(value) <= content_length:
        return int(value)  # as every client writes it
    shown = value[:_SHOWN_CHARS]
    if not _INTEGER.fullmatch(value):
        raise _refuse(f"Unable to parse {HEADER_LENGTH}, got: {shown}")
    # Python refuses to convert thousands of digits; eleven characters hold every int32.
    number = int(value) if len(value.strip()) <= 40 else _INT32_MAX + 1
    if not _INT32_MIN <= number <= _INT32_MAX:
        raise _refuse(
            f"Unable to parse {HEADER_LENGTH}, value is out of range "
            f"[ {_INT32_MIN}, {_INT32_MAX} ], got: {shown}"
        )
    if not 0 <= number <= content_length:
        raise _refuse(
            f"inference header size should be in range (0, {content_length}), got: {shown}"
        )
    return number


def body_headers(json_length: int | None) -> dict[str, str]:
    """The headers of a body whose JSON has `json_length` bytes; None where it is JSON alone."""
    if json_length is None:
        return {"Content-Type": JSON}
    return {"Content-Type": OCTETS, HEADER_LENGTH: str(json_length)}


def _refuse(message: str) -> InvalidRequest:
    return InvalidRequest(message, reason="bad_header_length")
