"""Read and pin the fields that route, in a serialized request, without decoding its tensors.

A request is walked field by field at the top level only; tensors are stepped over by their length.
Protobuf says that a message field which occurs several times is the merge of its occurrences, and
that of a oneof the member seen last wins (protobuf.dev, "Last One Wins"). So the payloads of all
`model_spec` occurrences are read as one stream, and a version is pinned by appending one more
occurrence: the label before it is cleared, everything else stays as it was, byte for byte.

Bounds and the wire format itself are in proto_walk.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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

__all__ = ["MAX_DEPTH", "MAX_FIELDS", "SpecFields", "pin_version", "scan"]

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
    walk = Walk()
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
    for start, end, task in _messages(Walk(), view, _TASKS):
        parts += [view[copied:start], b"\x0a", varint(len(task) + len(pin)), task, pin]
        copied = end
    parts.append(view[copied:])
    return b"".join(parts)


def _check_names_a_model(method: Method) -> None:
    if method is Method.HANDLE_RELOAD_CONFIG:
        raise ValueError("HandleReloadConfigRequest names no one model")


def _pin(version: Version) -> bytes:
    """`model_spec { version { value: … } }`. The value is written even when it is 0, because it has
    to replace the one before it."""
    value = b"\x08" + varint(version)
    spec = b"\x12" + varint(len(value)) + value
    return b"\x0a" + varint(len(spec)) + spec


# ---- ModelSpec ---------------------------------------------------------------


def _spec(walk: Walk, payloads: list[memoryview]) -> SpecFields:
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
