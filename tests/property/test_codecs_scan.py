"""scan and pin_version agree with what protobuf itself makes of the same bytes."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.codecs.tfs_scan import SpecFields, pin_version, scan
from gateway.domain.errors import InvalidRequest
from gateway.domain.names import INT64_MAX

pytestmark = pytest.mark.slow

texts = st.text(max_size=8)
versions = st.integers(0, INT64_MAX)


@st.composite
def spec_bytes(draw):
    """One occurrence of a ModelSpec, any of its fields set, the oneof possibly several times."""
    parts = []
    for _ in range(draw(st.integers(0, 3))):
        spec = tfs_pb2.ModelSpec()
        field = draw(
            st.sampled_from(["name", "signature_name", "version_label", "version", "empty"])
        )
        if field == "version":
            spec.version.value = draw(versions)
        elif field == "empty":
            spec.version.SetInParent()
        else:
            setattr(spec, field, draw(texts))
        parts.append(spec.SerializeToString())
        parts.append(draw(unknown()))
    return b"".join(parts)


@st.composite
def unknown(draw):
    """Fields that no message of ours has, groups among them; or nothing."""
    return draw(
        st.sampled_from(
            [
                b"",
                b"\xa0\x06\x96\x01",  # 100: varint
                b"\xa1\x06" + b"12345678",  # 100: fixed64
                b"\xa2\x06\x03abc",  # 100: bytes
                b"\xa5\x06" + b"1234",  # 100: fixed32
                b"\xa3\x06\x08\x01\x12\x01x\x13\x14\xa4\x06",  # 100: a group with a group in it
                b"\x08\x05",  # 1 as a varint: not the wire type of model_spec
                b"\x0d1234",
            ]
        )
    )


@st.composite
def predict_bytes(draw):
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        part = tfs_pb2.PredictRequest()
        match draw(st.sampled_from(["spec", "input", "filter", "unknown"])):
            case "spec":
                payload = draw(spec_bytes())
                parts.append(
                    b"\x0a" + bytes([len(payload)]) + payload if len(payload) < 128 else b""
                )
            case "input":
                tensor = part.inputs[draw(texts)]
                tensor.dtype = 1
                tensor.tensor_content = draw(st.binary(max_size=40))
                parts.append(part.SerializeToString())
            case "filter":
                part.output_filter.append(draw(texts))
                parts.append(part.SerializeToString())
            case _:
                parts.append(draw(unknown()))
    return b"".join(parts)


def by_protobuf(body: bytes) -> SpecFields | None:
    """What protobuf reads; None where the request must be refused."""
    request = tfs_pb2.PredictRequest.FromString(body)
    spec = request.model_spec
    if not request.HasField("model_spec") or not spec.name or spec.version.value < 0:
        return None
    choice = spec.WhichOneof("version_choice")
    return SpecFields(
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
        spec.signature_name,
    )


def by_scan(body: bytes) -> SpecFields | None:
    try:
        return scan(Method.PREDICT, body)
    except InvalidRequest:
        return None


@settings(max_examples=400, deadline=None)
@given(predict_bytes())
def test_scan_reads_what_protobuf_reads(body):
    assert by_scan(body) == by_protobuf(body)


@settings(max_examples=400, deadline=None)
@given(predict_bytes(), versions)
def test_a_pinned_request_is_the_same_but_for_its_version(body, version):
    expected = tfs_pb2.PredictRequest.FromString(body)
    expected.model_spec.version.value = version
    assert tfs_pb2.PredictRequest.FromString(pin_version(Method.PREDICT, body, version)) == expected


@settings(max_examples=400, deadline=None)
@given(predict_bytes(), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=4))
def test_what_protobuf_accepts_scan_reads_the_same_way_whatever_the_bytes(body, changes):
    damaged = bytearray(body)
    for at, value in changes:
        if at < len(damaged):
            damaged[at] = value
    try:
        expected = by_protobuf(bytes(damaged))
    except DecodeError:
        by_scan(bytes(damaged))  # may be read, because the tensors are not; must not fail otherwise
        return
    assert by_scan(bytes(damaged)) == expected


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_are_read_as_protobuf_reads_them(body):
    try:
        expected = by_protobuf(body)
    except DecodeError:
        by_scan(body)
        return
    assert by_scan(body) == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(spec_bytes().filter(lambda b: len(b) < 128), min_size=1, max_size=4), versions)
def test_every_task_of_multi_inference_is_pinned(specs, version):
    body = b""
    for payload in specs:
        task = b"\x0a" + bytes([len(payload)]) + payload + b"\x12\x01m"
        body += b"\x0a" + tfs_pb2.TensorProto(tensor_content=task).SerializeToString()[1:]
    body += b"\x12\x00"
    expected = tfs_pb2.MultiInferenceRequest.FromString(body)
    for one in expected.tasks:
        one.model_spec.version.value = version
    pinned = pin_version(Method.MULTI_INFERENCE, body, version)
    assert tfs_pb2.MultiInferenceRequest.FromString(pinned) == expected
