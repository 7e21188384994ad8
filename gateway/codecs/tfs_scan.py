"""Read and pin the fields that route, in a serialized request, without decoding its tensors.

A request is walked field by field at the top level only; tensors are stepped over by their length.
Protobuf says that a message field which occurs several times is the merge of its occurrences, and
that of a oneof the member seen last wins (protobuf.dev, "Last One Wins"). So the payloads of all
`model_spec` occurrences are read as one stream, and a version is pinned by appending one more
occurrence: the label before it is cleared, everything else stays as it was, byte for byte.

Bounds: the walk stops with an error at MAX_FIELDS fields and MAX_DEPTH nested groups, so that no
body holds up the loop that reads it. What protobuf refuses in the fields we read is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.codecs.tfs_methods import Method
from gateway.domain.errors import InvalidRequest
from gateway.domain.names import INT64_MAX, Version

MAX_FIELDS = 4096
"""Fields looked at in one request. 2 ms of walking (8 at worst), and far above what requests have:
one for each input, output filter and task. Beyond it a request is refused, whatever protobuf would
say."""

MAX_DEPTH = 100
"""Nested groups, protobuf's own limit. Groups are only ever unknown fields here."""

_VARINT, _FIXED64, _BYTES, _START, _END, _FIXED32 = range(6)
_MODEL_SPEC = 1  # in every request of this protocol but MultiInference …
_TASKS = 1  # … where tasks are field 1 and hold the model_spec, again as field 1


@dataclass(frozen=True, slots=True)
class SpecFields:
    """What a request says of where it wants to go. At most one of `version` and `label` is set."""

    name: str
    version: Version | None = None
    label: str | None = None
    signature: str = ""


def scan(method: Method, body: bytes) -> SpecFields:
    """Read the ModelSpec of a serialized request; of MultiInference's tasks, the first one's.

    Raises:
        InvalidRequest: `bad_message` (no protobuf, truncated, or beyond the bounds),
            `model_missing` (`Missing ModelSpec`, or one without a name), `bad_version` (negative),
            `bad_task` (tasks that name different models).
        ValueError: HANDLE_RELOAD_CONFIG, which names no one model.
    """
    walk = _Walk()
    view = memoryview(body)
    if method is not Method.MULTI_INFERENCE:
        _check_names_a_model(method)
        return _spec(walk, [p for _, _, p in _messages(walk, view, _MODEL_SPEC)])
    specs = []
    for _, _, task in _messages(walk, view, _TASKS):
        specs.append(_spec(walk, [p for _, _, p in _messages(walk, task, _MODEL_SPEC)]))
    if not specs:
        raise InvalidRequest("ModelSpec has no name specified.", reason="model_missing")
    if any(spec.name != specs[0].name for spec in specs):
        raise InvalidRequest(
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
            reason="bad_task",
        )
    return specs[0]


def pin_version(method: Method, body: bytes, version: Version) -> bytes:
    """The same request for exactly `version` and no label.

    One copy of the body; of MultiInference every task is pinned.

    Raises:
        InvalidRequest: as `scan`, for what has to be walked to find the tasks.
    """
    if not 0 <= version <= INT64_MAX:
        raise ValueError(f"no version: {version}")
    pin = _pin(version)
    if method is not Method.MULTI_INFERENCE:
        _check_names_a_model(method)
        return body + pin
    parts: list[bytes | memoryview] = []
    view = memoryview(body)
    copied = 0
    for start, end, task in _messages(_Walk(), view, _TASKS):
        parts += [view[copied:start], b"\x0a", _varint(len(task) + len(pin)), task, pin]
        copied = end
    parts.append(view[copied:])
    return b"".join(parts)


def _check_names_a_model(method: Method) -> None:
    if method is Method.HANDLE_RELOAD_CONFIG:
        raise ValueError("HandleReloadConfigRequest names no one model")


def _pin(version: Version) -> bytes:
    """`model_spec { version { value: … } }`. The value is written even when it is 0, because it has
    to replace the one before it."""
    value = b"\x08" + _varint(version)
    spec = b"\x12" + _varint(len(value)) + value
    return b"\x0a" + _varint(len(spec)) + spec


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# ---- ModelSpec ---------------------------------------------------------------


def _spec(walk: _Walk, payloads: list[memoryview]) -> SpecFields:
    """Merge the occurrences of a ModelSpec as protobuf does."""
    if not payloads:
        raise InvalidRequest("Missing ModelSpec", reason="model_missing")
    name = signature = ""
    version: int | None = None
    label: str | None = None
    for payload in payloads:
        for number, wire, _, _, value in walk.fields(payload):
            if wire != _BYTES or not isinstance(value, memoryview):
                continue
            if number == 1:
                name = _text(value, "name")
            elif number == 3:
                signature = _text(value, "signature_name")
            elif number == 2:
                version, label = _int64_value(walk, value, version or 0), None
            elif number == 4:
                version, label = None, _text(value, "version_label")
    if not name:
        raise InvalidRequest("ModelSpec has no name specified.", reason="model_missing")
    if version is not None and version < 0:
        raise InvalidRequest(
            f"ModelSpec has version {version}; versions are 0 or more", reason="bad_version"
        )
    return SpecFields(name, version, label, signature)


def _int64_value(walk: _Walk, payload: memoryview, before: int) -> int:
    """The value of a google.protobuf.Int64Value that is merged into `before`."""
    value = before
    for number, wire, _, _, found in walk.fields(payload):
        if number == 1 and wire == _VARINT and isinstance(found, int):
            value = found - (1 << 64) if found > INT64_MAX else found
    return value


def _text(value: memoryview, field: str) -> str:
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise _bad(f"ModelSpec.{field} is not UTF-8") from error


# ---- the wire format -----------------------------------------------------------


def _messages(walk: _Walk, view: memoryview, number: int) -> Iterator[tuple[int, int, memoryview]]:
    """Start, end (with the tag) and payload of each length-delimited field `number`."""
    for found, wire, start, end, value in walk.fields(view):
        if found == number and wire == _BYTES and isinstance(value, memoryview):
            yield start, end, value


class _Walk:
    """Steps through messages, counting fields over the whole request."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_FIELDS

    def fields(
        self, view: memoryview
    ) -> Iterator[tuple[int, int, int, int, int | memoryview | None]]:
        """(number, wire type, start, end, value) of each field; value is an int for varints, the
        payload for length-delimited ones, None for the rest."""
        at, size = 0, len(view)
        while at < size:
            start = at
            number, wire, at = self._tag(view, at, in_group=False)
            value: int | memoryview | None = None
            if wire == _VARINT:
                value, at = _read_varint(view, at)
            elif wire == _BYTES:
                length, at = _read_varint(view, at)
                if length > size - at:
                    raise _bad(f"field {number} claims {length} bytes and has {size - at}")
                value = view[at : at + length]
                at += length
            else:
                at = self._skip(view, at, number, wire)
            yield number, wire, start, at, value

    def _tag(self, view: memoryview, at: int, *, in_group: bool) -> tuple[int, int, int]:
        self._left -= 1
        if self._left < 0:
            raise _bad(f"it has more than {MAX_FIELDS} fields outside of its tensors")
        tag, at = _read_varint(view, at, bits=32)
        # Inside of unknown groups upb steps over the illegal field number 0, so we do, too.
        if (tag >> 3 == 0 and not in_group) or tag & 7 > _FIXED32:
            raise _bad(f"there is no field with tag {tag}")
        return tag >> 3, tag & 7, at

    def _skip(self, view: memoryview, at: int, number: int, wire: int) -> int:
        """Step over a fixed-size field, or over a group with everything in it."""
        open_groups: list[int] = []
        while True:
            if wire == _VARINT:
                _, at = _read_varint(view, at)
            elif wire == _BYTES:
                length, at = _read_varint(view, at)
                at += length
            elif wire == _START:
                open_groups.append(number)
                if len(open_groups) > MAX_DEPTH:
                    raise _bad(f"its groups are nested deeper than {MAX_DEPTH}")
            elif wire == _END:
                if not open_groups or open_groups.pop() != number:
                    raise _bad(f"group {number} ends where it has not begun")
            else:
                at += 8 if wire == _FIXED64 else 4
            if at > len(view):
                raise _bad(f"field {number} ends behind the end of the message")
            if not open_groups:
                return at
            number, wire, at = self._tag(view, at, in_group=True)


def _read_varint(view: memoryview, at: int, bits: int = 64) -> tuple[int, int]:
    value = shift = 0
    try:
        while True:
            byte = view[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift >= bits:
                raise _bad("a number in it has too many bytes")
    except IndexError:
        raise _bad("it ends within a number; the message was cut off") from None
    if bits == 64:
        return value & 0xFFFF_FFFF_FFFF_FFFF, at
    if value >> bits:
        raise _bad("a number in it has too many bits")
    return value, at


def _bad(what: str) -> InvalidRequest:
    return InvalidRequest(f"The request is no valid protobuf message: {what}", reason="bad_message")
