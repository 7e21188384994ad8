"""Whatever comes, the V2 codecs answer or refuse; the scan reads what protobuf reads."""

from __future__ import annotations

import json

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.codecs import oip_json, oip_proto, oip_routes, oip_scan, tfs_predict
from gateway.codecs.oip_data import parse_document
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_tensors import to_array
from gateway.domain.errors import GatewayError
from gateway.domain.tensors import DType, Signature, TensorSpec

pytestmark = pytest.mark.slow

DATATYPES = [
    "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64",
    "FP16", "BF16", "FP32", "FP64", "BYTES", "COMPLEX", "",
]  # fmt: skip
SIGNATURE = Signature({"x": TensorSpec("x", DType.FLOAT, (-1, 2))})


def outcome(decode, *args):
    try:
        return decode(*args)
    except GatewayError as error:
        return error


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=4)
    | st.just({"binary_data_size": 4}),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xab"), inner, max_size=2)
    ),
    max_leaves=8,
)
sizes = st.integers(-2, 4) | st.integers(0, 2**64) | st.just(0.5)


@st.composite
def records(draw):
    record = {}
    for key, value in {
        "name": st.sampled_from(["x", "y", "\ud800", 1]),
        "datatype": st.sampled_from([*DATATYPES, 3]),
        "shape": st.lists(sizes, max_size=3) | values,
        "data": values | st.lists(values, max_size=4),
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "shared_memory_region", "binary_data", "p"]),
            values | st.integers(0, 9),
            max_size=2,
        ),
    }.items():
        if draw(st.integers(0, 4)):
            record[key] = draw(value)
    return record


@st.composite
def documents(draw):
    document = {"inputs": draw(st.lists(records(), max_size=2) | values)}
    for key in ("id", "parameters", "outputs"):
        if draw(st.booleans()):
            document[key] = draw(values | st.lists(records(), max_size=2))
    return document


@settings(max_examples=600, deadline=None)
@given(documents(), st.binary(max_size=12), st.booleans())
def test_a_document_is_a_request_or_refused(document, tail, says_length):
    head = json.dumps(document).encode()
    outcome(oip_json.decode_infer, head + tail, len(head) if says_length else None, SIGNATURE)
    outcome(oip_json.decode_answer, head.replace(b'"inputs"', b'"outputs"') + tail, len(head))


@settings(max_examples=400, deadline=None)
@given(
    st.binary(max_size=80)
    | st.text(alphabet='{}[]",:\\ub64inputsdata0.1e-NaI', max_size=60).map(str.encode),
    st.none() | st.integers(-3, 90),
)
@pytest.mark.parametrize("prefix", [b"", b'{"inputs":[{"name":"x","data":'])
def test_no_body_fails_in_any_other_way_than_a_refusal(prefix, body, length):
    outcome(oip_json.decode_infer, prefix + body, length, SIGNATURE)
    outcome(oip_json.decode_answer, prefix + body, length if length and length > 0 else None)
    outcome(oip_proto.decode_infer_bytes, body)
    outcome(oip_proto.decode_answer_bytes, body)


@settings(max_examples=400, deadline=None)
@given(documents())
def test_the_quick_and_the_careful_parser_agree(document):
    body = json.dumps(document).encode()
    # A byte order mark keeps orjson out of it, and the other reader takes it off.
    quick, careful = outcome(parse_document, body), outcome(parse_document, b"\xef\xbb\xbf" + body)
    assert repr(quick) == repr(careful)


def test_of_a_key_that_occurs_twice_the_first_counts():
    body = (
        b'{"inputs":[{"name":"x","shape":[1],"shape":[2],"datatype":"FP32","data":[1]}],"id":"a",'
        b'"id":"b"}'
    )
    infer = oip_json.decode_infer(body)
    assert (infer.id, infer.inputs["x"].tolist()) == ("a", [1.0])


@pytest.mark.parametrize("depth", [99, 100, 101, 500, 2000, 100_000])
@pytest.mark.parametrize("place", ["data", "parameters"])
def test_deep_nesting_is_refused_and_costs_nothing(depth, place):
    nest = b"[" * depth + b"1" + b"]" * depth
    if place == "data":
        body = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":' + nest + b"}]}"
        got = outcome(oip_json.decode_infer, body)
        assert isinstance(got, GatewayError) == (depth >= 100)
    else:
        body = b'{"inputs":[],"parameters":{"a":' + nest + b"}}"
        assert isinstance(outcome(oip_json.decode_infer, body), GatewayError)


lists = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(2**31), 2**31 - 1),
    "int64_contents": st.integers(-(2**63), 2**63 - 1),
    "uint_contents": st.integers(0, 2**32 - 1),
    "uint64_contents": st.integers(0, 2**64 - 1),
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=4),
}


@st.composite
def messages(draw):
    request = oip_pb2.ModelInferRequest(
        model_name=draw(st.text(max_size=3)),
        model_version=draw(st.sampled_from(["", "1", "007", "x", "-1", str(2**63)])),
        id=draw(st.text(max_size=3)),
    )
    for _ in range(draw(st.integers(0, 2))):
        shape = draw(st.lists(st.integers(-1, 3) | st.integers(0, 2**62), max_size=3))
        one = request.inputs.add(
            name=draw(st.sampled_from("xy")), datatype=draw(st.sampled_from(DATATYPES)), shape=shape
        )
        for name in draw(st.sets(st.sampled_from(sorted(lists)), max_size=2)):
            getattr(one.contents, name).extend(draw(st.lists(lists[name], max_size=6)))
    request.raw_input_contents.extend(draw(st.lists(st.binary(max_size=24), max_size=2)))
    if draw(st.booleans()):
        request.parameters["timeout"].int64_param = draw(st.integers(-5, 2**63 - 1))
    return request


def plain(infer):
    if isinstance(infer, GatewayError):
        return repr(infer)
    return {
        "inputs": {n: (a.dtype, a.shape, a.reshape(-1).tolist(), a.dtype != object and a.tobytes())
                   for n, a in infer.inputs.items()},
        "rest": (infer.id, infer.model, infer.version, infer.parameters, infer.outputs),
    }  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(messages())
def test_bytes_and_messages_are_read_alike(request):
    body = request.SerializeToString()
    assert repr(plain(outcome(oip_proto.decode_infer_bytes, body))) == repr(
        plain(outcome(oip_proto.decode_infer_proto, request))
    )


@settings(max_examples=300, deadline=None)
@given(messages(), st.binary(max_size=6))
def test_the_scan_reads_what_protobuf_reads(request, tail):
    body = request.SerializeToString() + tail
    found = outcome(oip_scan.scan, OipMethod.MODEL_INFER, body)
    try:
        known = oip_pb2.ModelInferRequest.FromString(body)
    except DecodeError:
        return
    if isinstance(found, GatewayError):
        assert found.reason in ("bad_version", "bad_message")
        return
    assert (found.model, found.id) == (known.model_name, known.id)
    assert found.version == (int(known.model_version) if known.model_version else None)
    pinned = oip_pb2.ModelInferRequest.FromString(
        oip_scan.pin_version(OipMethod.MODEL_INFER, body, 42)
    )
    known.model_version = "42"
    assert pinned.SerializeToString(deterministic=True) == known.SerializeToString(
        deterministic=True
    )


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["GET", "POST", "PUT"]),
    st.text(alphabet="/v2modelsrpityncg%2F19?", max_size=40),
)
def test_any_path_is_a_call_or_refused(method, path):
    got = outcome(oip_routes.parse, method, "/v2" + path)
    assert isinstance(got, oip_routes.OipCall | GatewayError)


def test_huge_claims_cost_nothing():
    for shape in ([2**40], [0, 2**40, 2**40], [2**62, 4], [2**31, 2**31]):
        body = json.dumps(
            {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": []}]}
        ).encode()
        got = outcome(oip_json.decode_infer, body)
        assert isinstance(got, GatewayError) or got.inputs["x"].size == 0
        proto = oip_pb2.ModelInferRequest()
        proto.inputs.add(name="x", datatype="BYTES", shape=shape)
        proto.raw_input_contents.append(b"")
        got = outcome(oip_proto.decode_infer_bytes, proto.SerializeToString())
        assert isinstance(got, GatewayError) or isinstance(got.inputs["x"], np.ndarray)


@st.composite
def predicts(draw):
    request = tfs_pb2.PredictRequest()
    request.model_spec.name = draw(st.text(max_size=3))
    for name in draw(st.sets(st.sampled_from("xyz"), max_size=2)):
        proto = request.inputs[name]
        proto.dtype = draw(st.sampled_from([1, 2, 3, 4, 7, 9, 10, 14, 19, 21]))
        for size in draw(st.lists(st.integers(0, 3), max_size=3)):
            proto.tensor_shape.dim.add(size=size)
        proto.tensor_content = draw(st.just(b"") | st.binary(max_size=24))
        proto.float_val.extend(draw(st.lists(st.floats(width=32), max_size=4)))
        proto.string_val.extend(draw(st.lists(st.binary(max_size=2), max_size=80)))
    return request.SerializeToString()


def by_protobuf(body):
    request = tfs_pb2.PredictRequest.FromString(body)
    return {name: to_array(proto) for name, proto in request.inputs.items()}


def shown(arrays):
    if isinstance(arrays, GatewayError | DecodeError):
        return "refused"
    return {n: (str(a.dtype), a.shape, a.tolist()) for n, a in sorted(arrays.items())}


@settings(max_examples=500, deadline=None)
@given(st.lists(predicts(), min_size=1, max_size=2).map(b"".join), st.binary(max_size=3))
def test_predict_requests_are_read_as_protobuf_reads_them(body, tail):
    """Also two messages in a row, which protobuf merges."""
    found = outcome(lambda: tfs_predict.decode_request(body + tail)[1])
    try:
        known = outcome(by_protobuf, body + tail)
    except DecodeError as error:
        known = error
    assert repr(shown(found)) == repr(shown(known))
