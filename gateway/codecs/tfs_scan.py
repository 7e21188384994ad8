"""Read and pin the fields that route, in a serialized request, without decoding its tensors.

A request is walked field by field at the top level only; tensors are stepped over by their length.
Protobuf says that a message field which occurs several times is the merge of its occurrences, and
that of a oneof the member seen last wins (protobuf.dev, "Last One Wins"). So the payloads of all
`model_spec` occurrences are read as one stream, and a version is pinned by appending one more
occurrence: the label before it is cleared, everything else stays as it was, byte for byte.

Bounds and the wire format itself are in proto_walk.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from gateway.codecs.proto_feed import FieldFeed
from gateway.codecs.proto_walk import (
    BYTES,
    MAX_DEPTH,
    MAX_FIELDS,
    VARINT,
    Walk,
    signed,
    text,
    varint,
)
from gateway.codecs.tfs_methods import Method
from gateway.domain.errors import InvalidRequest
from gateway.domain.names import INT64_MAX, Version

__all__ = [
    "MAX_DEPTH",
    "MAX_FIELDS",
    "SpecFields",
    "feeding",
    "pin_of",
    "pin_version",
    "read_fed",
    "scan",
]

_MODEL_SPEC = 1  # in every request of this protocol but MultiInference …
_TASKS = 1  # … where tasks are field 1 and hold the model_spec, again as field 1

_SPEC_TAG = _MODEL_SPEC << 3 | BYTES
_QUICK_FIELDS = 64
"""More inputs than requests have; beyond, the walk that counts them looks."""


@dataclass(frozen=True, slots=True)
class SpecFields:
    """What a request says of where it wants to go. At most one of `version` and `label` is set."""

    name: str
    version: Version | None = None
    label: str | None = None
    signature: str = ""


def scan(method: Method, body: bytes | bytearray | memoryview, at: int = 0) -> SpecFields:
    """Read the ModelSpec of a serialized request; of MultiInference's tasks, the first one's.
    The message begins at `at`.

    Raises:
        InvalidRequest: `bad_message` (no protobuf, truncated, or beyond the bounds),
            `model_missing` (`Missing ModelSpec`, or one without a name), `bad_version` (negative),
            `bad_task` (tasks that name different models).
        ValueError: HANDLE_RELOAD_CONFIG, which names no one model.
    """
    if method is not Method.MULTI_INFERENCE:
        _check_names_a_model(method)
        payload = _only_spec(body, at)
        if payload is not None:
            return _remembered(payload)
    walk = Walk()
    view = memoryview(body)[at:]
    return _read(method, walk, [p for _, _, p in _messages(walk, view, _MODEL_SPEC)])


def feeding(method: Method) -> FieldFeed:
    """Reads the same from a message that comes in pieces: settled, or finished, it is given to
    `read_fed`.

    Raises:
        ValueError: as `scan`.
    """
    _check_names_a_model(method)
    return FieldFeed((_MODEL_SPEC,), _MODEL_SPEC)


def read_fed(method: Method, feed: FieldFeed) -> SpecFields:
    """What `scan` would say of the message. Raises as it does."""
    return _read(method, feed.walk, [memoryview(payload) for _, payload in feed.taken])


def _read(method: Method, walk: Walk, payloads: Sequence[memoryview]) -> SpecFields:
    if method is not Method.MULTI_INFERENCE:
        return _spec(walk, payloads)
    specs = [_spec(walk, [p for _, _, p in _messages(walk, t, _MODEL_SPEC)]) for t in payloads]
    if not specs:
        raise InvalidRequest("ModelSpec has no name specified.", reason="model_missing")
    if any(spec.name != specs[0].name for spec in specs):
        raise InvalidRequest(
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
            reason="bad_task",
        )
    return specs[0]


def _only_spec(body: bytes | bytearray | memoryview, at: int) -> bytes | None:
    """The model_spec of a message in the layout that nearly all have: it is the first field and
    short, and only length-delimited fields with other numbers follow. None: look properly.

    A fifth of what the walk costs, and every request pays it.
    """
    try:
        if body[at] != _SPEC_TAG:
            return None
        start = at + 2
        end = at = start + body[at + 1]
        if end - start > 0x7F:
            return None
        size = len(body)
        for _ in range(_QUICK_FIELDS):
            if at >= size:
                break
            tag = body[at]
            if tag > 0x7F or tag & 7 != BYTES or tag <= _SPEC_TAG:
                return None
            length = body[at + 1]
            at += 2
            if length > 0x7F:
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
    return bytes(body[start:end]) if at == size else None


@lru_cache(maxsize=1024)
def _remembered(payload: bytes) -> SpecFields:
    """One short ModelSpec. Callers send the same ones again and again; 1024 of 127 bytes are little
    enough to remember whatever they send."""
    return _spec(Walk(), [memoryview(payload)])


def pin_version(method: Method, body: bytes, version: Version) -> bytes:
    """The same request for exactly `version` and no label.

    One copy of the body; of MultiInference every task is pinned.

    Raises:
        InvalidRequest: as `scan`, for what has to be walked to find the tasks.
    """
    if not 0 <= version <= INT64_MAX:
        raise ValueError(f"no version: {version}")
    pin = pin_of(version)
    if method is not Method.MULTI_INFERENCE:
        _check_names_a_model(method)
        return body + pin
    parts: list[bytes | memoryview] = []
    view = memoryview(body)
    copied = 0
    for start, end, task in _messages(Walk(), view, _TASKS):
        parts += [view[copied:start], b"\x0a", varint(len(task) + len(pin)), task, pin]
        copied = end
    parts.append(view[copied:])
    return b"".join(parts)


def _check_names_a_model(method: Method) -> None:
    if method is Method.HANDLE_RELOAD_CONFIG:
        raise ValueError("HandleReloadConfigRequest names no one model")


@lru_cache(maxsize=1024)
def pin_of(version: Version) -> bytes:
    """`model_spec { version { value: … } }`: what `pin_version` appends, but for MultiInference.
    The value is written even when it is 0, because it has to replace the one before it."""
    value = b"\x08" + varint(version)
    spec = b"\x12" + varint(len(value)) + value
    return b"\x0a" + varint(len(spec)) + spec


# ---- ModelSpec ---------------------------------------------------------------


def _spec(walk: Walk, payloads: Sequence[memoryview]) -> SpecFields:
    """Merge the occurrences of a ModelSpec as protobuf does."""
    if not payloads:
        raise InvalidRequest("Missing ModelSpec", reason="model_missing")
    name = signature = ""
    version: int | None = None
    label: str | None = None
    for payload in payloads:
        for number, wire, _, _, value in walk.fields(payload):
            if wire != BYTES or not isinstance(value, memoryview):
                continue
            if number == 1:
                name = text(value, "ModelSpec.name")
            elif number == 3:
                signature = text(value, "ModelSpec.signature_name")
            elif number == 2:
                version, label = _int64_value(walk, value, version or 0), None
            elif number == 4:
                version, label = None, text(value, "ModelSpec.version_label")
    if not name:
        raise InvalidRequest("ModelSpec has no name specified.", reason="model_missing")
    if version is not None and version < 0:
        raise InvalidRequest(
            f"ModelSpec has version {version}; versions are 0 or more", reason="bad_version"
        )
    return SpecFields(name, version, label, signature)


def _int64_value(walk: Walk, payload: memoryview, before: int) -> int:
    """The value of a google.protobuf.Int64Value that is merged into `before`."""
    value = before
    for number, wire, _, _, found in walk.fields(payload):
        if number == 1 and wire == VARINT and isinstance(found, int):
            value = signed(found)
    return value


def _messages(walk: Walk, view: memoryview, number: int) -> Iterator[tuple[int, int, memoryview]]:
    """Start, end (with the tag) and payload of each length-delimited field `number`."""
    for found, wire, start, end, value in walk.fields(view):
        if found == number and wire == BYTES and isinstance(value, memoryview):
            yield start, end, value
