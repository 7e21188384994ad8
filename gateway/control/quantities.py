"""Version policies and sizes as people type them, and back."""

from __future__ import annotations

import re
from decimal import Decimal

from gateway.domain.errors import InvalidRequest
from gateway.domain.models import All, Latest, Specific, VersionPolicy
from gateway.domain.names import parse_version

MAX_VERSIONS = 1000
"""Versions that one policy may name or hold; each costs a replica memory, so more is a slip."""

MAX_BYTES = 2**60
"""An exbibyte; more is a slip too."""

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_SIZE = re.compile(r"(\d{1,20}(?:\.\d{1,9})?)\s*([kmgt]?i?)b?", re.IGNORECASE | re.ASCII)


def parse_policy(text: str) -> VersionPolicy:
    """`latest`, `latest:3`, `all`, or listed versions `3,4`. Listed ones come back ascending, once.

    Raises:
        InvalidRequest: it is none of these (`bad_versions`).
    """
    words = text.strip()
    kind, colon, count = words.partition(":")
    if words == "all":
        return All()
    if kind == "latest":
        if not colon:
            return Latest()
        held = parse_version(count)
        if held and held <= MAX_VERSIONS:
            return Latest(held)
    elif words and len(words) <= 20 * MAX_VERSIONS:
        versions = [parse_version(part.strip()) for part in words.split(",")]
        known = sorted({v for v in versions if v is not None})
        if None not in versions and len(known) <= MAX_VERSIONS:
            return Specific(tuple(known))
    shown = text if len(text) <= 64 else text[:61] + "..."
    raise InvalidRequest(
        f"versions (--versions) must be `latest`, `latest:N` with N from 1 to {MAX_VERSIONS}, "
        f"`all`, or listed versions as `3,4`; got {shown!r}.",
        reason="bad_versions",
    )


def policy_text(policy: VersionPolicy) -> str:
    """The text that `parse_policy` reads as this policy."""
    match policy:
        case Latest(count):
            return f"latest:{count}"
        case All():
            return "all"
        case Specific(versions):
            return ",".join(str(v) for v in versions)


def parse_size(value: int | str, field: str, flag: str) -> int:
    """Bytes of a size: a number, or a text as `512MB` (10^6) or `8Gi` (2^30), with or without B.

    Raises:
        InvalidRequest: it is no size, or not from 1 byte to 1 EiB (`bad_size`).
    """
    size = Decimal(0)
    if isinstance(value, int):
        size = Decimal(value)
    elif found := _SIZE.fullmatch(value.strip()):
        unit = found[2].lower()
        if unit in _UNITS:
            size = Decimal(found[1]) * _UNITS[unit]
    if not 1 <= size <= MAX_BYTES:
        shown = str(value)[:40]
        raise InvalidRequest(
            f"{field} ({flag}) must be a size as 512MB, 8Gi or a number of bytes; got {shown!r}.",
            reason="bad_size",
        )
    return int(size)


def size_text(size: int) -> str:
    """A short size for people; exact, so that `parse_size` gives the same bytes back."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        factor = _UNITS[unit.lower()]
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)
