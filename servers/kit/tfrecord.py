"""TFRecord files: length, masked crc32c of the length, data, masked crc32c of the data.

(tensorflow/core/lib/io/record_writer.h; crc32c is Castagnoli's polynomial, RFC 3720 B.4, and the
mask rotates right by 15 and adds 0xa282ead8, so that a checksum stored inside data is not its own.)
Only warm-up files are read with this, so a table per byte in Python is fast enough; the bounds keep
it so.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from gateway.domain.errors import InvalidRequest

MAX_RECORDS = 1000
"""TensorFlow Serving's own bound for a warm-up file (kMaxNumRecords)."""

MAX_RECORD_BYTES = 64 * 1024 * 1024
"""Longer than any sensible request; a corrupt length is refused before memory is asked for."""

_MASK_DELTA = 0xA282EAD8


def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """Castagnoli CRC of `data`."""
    crc = 0xFFFFFFFF
    table = _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def masked_crc(data: bytes) -> int:
    """The checksum as TFRecord stores it."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def write_record(data: bytes) -> bytes:
    """One framed record."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        (length, struct.pack("<I", masked_crc(length)), data, struct.pack("<I", masked_crc(data)))
    )


def read_records(path: Path) -> Iterator[bytes]:
    """Records of a file, checked.

    Raises:
        InvalidRequest: truncated, a wrong checksum, or over the bounds (`bad_warmup`); the message
            names the record.
    """
    with path.open("rb") as file:
        number = 0
        while header := file.read(12):
            if number >= MAX_RECORDS:
                raise _bad(path, number, f"more than {MAX_RECORDS} records; keep the best of them")
            if len(header) < 12:
                raise _bad(path, number, "the file ends inside a record's length")
            length, check = struct.unpack("<QI", header)
            if masked_crc(header[:8]) != check:
                raise _bad(path, number, "its length has a wrong checksum")
            if length > MAX_RECORD_BYTES:
                raise _bad(path, number, f"{length} bytes, and {MAX_RECORD_BYTES} are allowed")
            data = file.read(length)
            tail = file.read(4)
            if len(data) < length or len(tail) < 4:
                raise _bad(path, number, "the file ends inside it")
            if masked_crc(data) != struct.unpack("<I", tail)[0]:
                raise _bad(path, number, "its data has a wrong checksum")
            yield data
            number += 1


def _bad(path: Path, number: int, why: str) -> InvalidRequest:
    return InvalidRequest(f"{path.name}, record {number}: {why}", reason="bad_warmup")
