"""Read and pin the fields that route, in a serialized V2 request, without decoding its tensors.

The fields are scalars at the top level of the message, and of a scalar that occurs several times
protobuf takes the last. So a version is pinned by appending it: one copy of the body, everything
else stays as it was, byte for byte (see tfs_scan.py for the same over ModelSpec).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.oip_routes import bad_version
from gateway.codecs.proto_feed import FieldFeed
from gateway.codecs.proto_walk import BYTES, VARINT, Walk, bad, signed, text, varint
from gateway.domain.names import INT64_MAX, Version

_INFER = (OipMethod.MODEL_INFER, OipMethod.MODEL_STREAM_INFER)

_NAME_FIELD: dict[OipMethod, int] = {
    OipMethod.MODEL_INFER: 1,
    OipMethod.MODEL_STREAM_INFER: 1,
    OipMethod.MODEL_READY: 1,
    OipMethod.MODEL_METADATA: 1,
    OipMethod.MODEL_CONFIG: 1,
    OipMethod.MODEL_STATISTICS: 1,
    OipMethod.REPOSITORY_MODEL_LOAD: 2,
    OipMethod.REPOSITORY_MODEL_UNLOAD: 2,
    OipMethod.TRACE_SETTING: 2,
}
"""Where the model's name is. The first six have their version in field 2."""

_VERSION = 2
_ID = 3
_PARAMETERS = 4

_NAME_TAG, _VERSION_TAG, _ID_TAG, _PARAMETERS_TAG = (n << 3 | BYTES for n in (1, 2, 3, 4))
_QUICK_FIELDS = 64
"""More inputs and outputs than requests have; beyond, the walk that counts them looks."""


@dataclass(frozen=True, slots=True)
class OipFields:
    """What a request says of where it wants to go."""

    model: str = ""
    version: Version | None = None
    id: str = ""
    timeout_us: int | None = None
    """The parameter `timeout` of an inference request, Triton's deadline in microseconds."""


def scan(method: OipMethod, body: bytes | bytearray | memoryview) -> OipFields:
    """Read name, version, id and timeout of a serialized request.

    Raises:
        InvalidRequest: `bad_message` (no protobuf, truncated, or beyond the bounds of the walk),
            `bad_version` (no integer from 0 to 2^63 - 1).
        ValueError: the method names no model.
    """
    name_field = _name_field(method)
    walk = Walk()
    fields = (
        (number, value)
        for number, wire, _, _, value in walk.fields(memoryview(body))
        if wire == BYTES and isinstance(value, memoryview)
    )
    return _read(method, name_field, walk, fields)


def route_fields(method: OipMethod, body: bytes | bytearray | memoryview, at: int = 0) -> OipFields:
    """As `scan` of the message that begins at `at`, but the id may be missing: what is needed to
    pass a request on. A fifth of the cost for messages in the layout that nearly all have.

    Raises:
        InvalidRequest, ValueError: as `scan`.
    """
    if method in _INFER:
        found = _quick(body, at)
        if found is not None:
            return found
    return scan(method, memoryview(body)[at:])


def feeding(method: OipMethod) -> FieldFeed:
    """Reads the same from a message that comes in pieces: settled, or finished, it is given to
    `read_fed`.

    Raises:
        ValueError: as `scan`.
    """
    name_field = _name_field(method)
    if method in _INFER:
        return FieldFeed((name_field, _VERSION, _ID, _PARAMETERS), name_field)
    return FieldFeed((name_field, _VERSION) if name_field == 1 else (name_field,), name_field)


def read_fed(method: OipMethod, feed: FieldFeed) -> OipFields:
    """What `scan` would say of the message. Raises as it does."""
    fields = ((number, memoryview(payload)) for number, payload in feed.taken)
    return _read(method, _name_field(method), feed.walk, fields)


def _read(
    method: OipMethod, name_field: int, walk: Walk, fields: Iterable[tuple[int, memoryview]]
) -> OipFields:
    has_version = name_field == 1
    model = version = request_id = ""
    timeout_us: int | None = None
    for number, value in fields:
        if number == name_field:
            model = text(value, "the model's name")
        elif number == _VERSION and has_version:
            version = text(value, "the model's version")
        elif method in _INFER and number == _ID:
            request_id = text(value, "id")
        elif method in _INFER and number == _PARAMETERS:
            found = _timeout(walk, value)
            timeout_us = timeout_us if found is None else found
    return OipFields(model, version_of(version), request_id, timeout_us)


def _quick(body: bytes | bytearray | memoryview, at: int) -> OipFields | None:
    """An inference request that has its name first, then perhaps a version and an id, all short,
    and then only length-delimited fields from the inputs on. None: look properly."""
    start, end = at + 2, 0
    version = b""
    try:
        if body[at] != _NAME_TAG or body[at + 1] > 0x7F:
            return None
        end = at = start + body[at + 1]
        size = len(body)
        for _ in range(_QUICK_FIELDS):
            if at >= size:
                break
            tag = body[at]
            length = body[at + 1]
            at += 2
            if tag <= _PARAMETERS_TAG:
                if length > 0x7F or tag not in (_VERSION_TAG, _ID_TAG):
                    return None
                if tag == _VERSION_TAG:
                    version = bytes(body[at : at + length])
                elif not bytes(body[at : at + length]).isascii():
                    return None
            elif tag > 0x7F or tag & 7 != BYTES:
                return None
            elif length > 0x7F:
                length &= 0x7F
                for shift in (7, 14, 21, 28):
                    byte = body[at]
                    at += 1
                    length |= (byte & 0x7F) << shift
                    if byte < 0x80:
                        break
                else:
                    return None
            at += length
    except IndexError:
        return None
    return _remembered(bytes(body[start:end]), version) if at == size else None


@lru_cache(maxsize=1024)
def _remembered(name: bytes, version: bytes) -> OipFields:
    """What callers ask for again and again; 1024 of 254 bytes are little enough to remember
    whatever they send."""
    model = text(memoryview(name), "the model's name")
    return OipFields(model, version_of(text(memoryview(version), "the model's version")))


def pin_version(method: OipMethod, body: bytes, version: Version) -> bytes:
    """The same request for exactly `version`; one copy of the body.

    Raises:
        ValueError: the method has no version.
    """
    if _name_field(method) != 1:
        raise ValueError(f"{method.path} has no version")
    return body + pin_of(version)


@lru_cache(maxsize=1024)
def pin_of(version: Version) -> bytes:
    """What `pin_version` appends."""
    if not 0 <= version <= INT64_MAX:
        raise ValueError(f"no version: {version}")
    digits = str(version).encode()
    return b"\x12" + varint(len(digits)) + digits


def version_of(version: str) -> Version | None:
    """What a version field means; empty leaves the choice to the server.

    Raises:
        InvalidRequest: it is no integer from 0 to 2^63 - 1 (`bad_version`).
    """
    if not version:
        return None
    if not (version.isascii() and version.isdigit()) or len(version) > 40:
        raise bad_version(version)
    number = int(version)
    if number > INT64_MAX:
        raise bad_version(version)
    return number


def _name_field(method: OipMethod) -> int:
    field = _NAME_FIELD.get(method)
    if field is None:
        raise ValueError(f"{method.path} names no model")
    return field


def _timeout(walk: Walk, entry: memoryview) -> int | None:
    """The value of a `parameters` entry if it is the timeout."""
    key, value = "", None
    for number, wire, _, _, found in walk.fields(entry):
        if wire == BYTES and isinstance(found, memoryview):
            if number == 1:
                key = text(found, "a parameter's name")
            elif number == 2:
                value = found
    if key != "timeout" or value is None:
        return None
    timeout: int | None = None
    for number, wire, _, _, found in walk.fields(value):
        if number in (2, 5) and wire == VARINT and isinstance(found, int):
            timeout = signed(found) if number == 2 else found
    if timeout is not None and timeout < 0:
        raise bad("its timeout is negative")
    return timeout
