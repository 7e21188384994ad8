"""Read and pin the fields that route, in a serialized V2 request, without decoding its tensors.

The fields are scalars at the top level of the message, and of a scalar that occurs several times
protobuf takes the last. So a version is pinned by appending it: one copy of the body, everything
else stays as it was, byte for byte (see tfs_scan.py for the same over ModelSpec).
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.oip_routes import bad_version
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


@dataclass(frozen=True, slots=True)
class OipFields:
    """What a request says of where it wants to go."""

    model: str = ""
    version: Version | None = None
    id: str = ""
    timeout_us: int | None = None
    """The parameter `timeout` of an inference request, Triton's deadline in microseconds."""


def scan(method: OipMethod, body: bytes) -> OipFields:
    """Read name, version, id and timeout of a serialized request.

    Raises:
        InvalidRequest: `bad_message` (no protobuf, truncated, or beyond the bounds of the walk),
            `bad_version` (no integer from 0 to 2^63 - 1).
        ValueError: the method names no model.
    """
    name_field = _name_field(method)
    has_version = name_field == 1
    model = version = request_id = ""
    timeout_us: int | None = None
    walk = Walk()
    for number, wire, _, _, value in walk.fields(memoryview(body)):
        if wire != BYTES or not isinstance(value, memoryview):
            continue
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


def pin_version(method: OipMethod, body: bytes, version: Version) -> bytes:
    """The same request for exactly `version`; one copy of the body.

    Raises:
        ValueError: the method has no version.
    """
    if not 0 <= version <= INT64_MAX:
        raise ValueError(f"no version: {version}")
    if _name_field(method) != 1:
        raise ValueError(f"{method.path} has no version")
    digits = str(version).encode()
    return body + b"\x12" + varint(len(digits)) + digits


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
