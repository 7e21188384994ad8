"""A tensor comes out of every pair of dialects to the bit as it went in, where both can carry it.

Callers write in each form that their dialect has (rows and columns, content and typed lists, bytes
and JSON), without the codecs under test where the form is simple enough; replicas are what
translation talks to. What cannot be carried must be refused, never changed.
"""

from __future__ import annotations

import base64
import json
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.codecs import oip_json
from gateway.codecs.json_write import WRITABLE
from gateway.codecs.oip_dtypes import BINARY_ONLY, DATATYPE
from gateway.codecs.oip_infer import OipInfer
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_dtypes import PROTO_ENUM
from gateway.codecs.tfs_tensors import numpy_dtype, to_proto
from gateway.codecs.translate import (
    CanonicalRequest,
    CanonicalResponse,
    Dialect,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from gateway.domain.errors import GatewayError
from gateway.domain.tensors import DType, Signature, TensorSpec

pytestmark = pytest.mark.slow

EXAMPLES = 50
LONG_EXAMPLES = 10_000

DTYPES = list(DType)
SHAPES = [(), (1,), (3,), (2, 2), (0,), (2, 0), (0, 3), (1, 2, 3)]
TFS_JSON = WRITABLE | {DType.STRING}
V2_JSON = set(DATATYPE) - BINARY_ONLY


def strings(items, shape):
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(shape)


SPECIAL = {
    DType.FLOAT: [0x80000000, 1, 0x7F800001, 0xFFC12345, 0x7F800000, 0xFF800000, 0x7F7FFFFF],
    DType.DOUBLE: [1 << 63, 1, 0x7FF0000000000001, 0xFFF8000000001234, 0x7FF0000000000000],
    DType.HALF: [0x8000, 1, 0x7C01, 0xFE12, 0x7C00],
    DType.BFLOAT16: [0x8000, 1, 0x7F81, 0xFFC1, 0x7F80],
    DType.INT64: [1 << 63, (1 << 63) - 1, (1 << 53) + 1, (1 << 64) - 1],
    DType.UINT64: [(1 << 64) - 1, 1 << 63, (1 << 53) + 1],
}


@st.composite
def tensors(draw, dtype):
    shape = draw(st.sampled_from(SHAPES))
    count = math.prod(shape)
    if dtype is DType.STRING:
        words = st.binary(max_size=5) | st.sampled_from(
            [b"\0", b"a\0b", b"\xff\xfe", 'é:"'.encode()]
        )
        return strings(draw(st.lists(words, min_size=count, max_size=count)), shape)
    size = dtype.itemsize
    special = SPECIAL.get(dtype)
    if special and draw(st.booleans()):
        raw = b"".join(
            draw(st.sampled_from(special)).to_bytes(size, "little") for _ in range(count)
        )
    else:
        raw = draw(st.binary(min_size=count * size, max_size=count * size))
    if dtype is DType.BOOL:
        raw = bytes(byte & 1 for byte in raw)
    return np.frombuffer(raw, numpy_dtype(dtype)).reshape(shape)


# ---- callers ----------------------------------------------------------------------------


def json_value(array, dtype):
    if dtype is DType.STRING:
        return json.dumps(nested(array, lambda b: {"b64": base64.b64encode(b).decode()}))
    return json.dumps(array.tolist())


def nested(array, leaf):
    flat = [leaf(item) for item in array.reshape(-1).tolist()]
    for size in reversed(array.shape[1:]):
        flat = [flat[at : at + size] for at in range(0, len(flat), size)] if size else []
    if 0 in array.shape:
        return array.tolist()
    return flat if array.ndim else flat[0]


def columns(array, dtype):
    if dtype not in TFS_JSON or 0 in array.shape[:-1]:
        return None
    return Dialect.TFS_REST, f'{{"inputs":{json_value(array, dtype)}}}'.encode(), None


def rows(array, dtype):
    if dtype not in TFS_JSON or array.ndim == 0 or 0 in array.shape[:-1] or not array.shape[0]:
        return None
    return Dialect.TFS_REST, f'{{"instances":{json_value(array, dtype)}}}'.encode(), None


def predict(proto):
    request = tfs_pb2.PredictRequest()
    request.model_spec.name = "m"
    request.inputs["x"].CopyFrom(proto)
    return Dialect.TFS_GRPC, request.SerializeToString(), None


def content(array, dtype):
    return predict(to_proto(array))


LISTS = {
    DType.BOOL: "bool_val", DType.INT8: "int_val", DType.INT16: "int_val", DType.INT32: "int_val",
    DType.INT64: "int64_val", DType.UINT8: "int_val", DType.UINT16: "int_val",
    DType.UINT32: "uint32_val", DType.UINT64: "uint64_val", DType.DOUBLE: "double_val",
    DType.STRING: "string_val", DType.HALF: "half_val", DType.BFLOAT16: "half_val",
}  # fmt: skip


def values(array, dtype):
    """Typed lists; of floats as packed bytes, for Python has no single precision."""
    proto = tfs_pb2.TensorProto(dtype=PROTO_ENUM[dtype])
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if dtype in (DType.FLOAT, DType.COMPLEX64):
        raw = array.tobytes()
        proto.MergeFromString(bytes([0x2A if dtype is DType.FLOAT else 0x4A, len(raw)]) + raw)
    elif dtype is DType.COMPLEX128:
        proto.dcomplex_val.extend(array.reshape(-1).view(np.float64).tolist())
    elif dtype in (DType.HALF, DType.BFLOAT16):
        proto.half_val.extend(array.reshape(-1).view(np.uint16).tolist())
    else:
        getattr(proto, LISTS[dtype]).extend(array.reshape(-1).tolist())
    return predict(proto)


def packed_bytes(array, dtype):
    if dtype is DType.STRING:
        return b"".join(len(b).to_bytes(4, "little") + b for b in array.reshape(-1).tolist())
    return array.tobytes()


def raw(array, dtype):
    if dtype not in DATATYPE:
        return None
    request = oip_pb2.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype=DATATYPE[dtype], shape=array.shape)
    request.raw_input_contents.append(packed_bytes(array, dtype))
    return Dialect.V2_GRPC, request.SerializeToString(), None


CONTENTS = {
    DType.BOOL: "bool", DType.INT8: "int", DType.INT16: "int", DType.INT32: "int",
    DType.INT64: "int64", DType.UINT8: "uint", DType.UINT16: "uint", DType.UINT32: "uint",
    DType.UINT64: "uint64", DType.DOUBLE: "fp64", DType.STRING: "bytes",
}  # fmt: skip


def contents(array, dtype):
    if dtype not in V2_JSON:
        return None
    request = oip_pb2.ModelInferRequest(model_name="m")
    one = request.inputs.add(name="x", datatype=DATATYPE[dtype], shape=array.shape)
    one.contents.SetInParent()
    if dtype is DType.FLOAT:
        data = array.tobytes()
        one.contents.MergeFromString(bytes([0x32, len(data)]) + data)
    else:
        getattr(one.contents, CONTENTS[dtype] + "_contents").extend(array.reshape(-1).tolist())
    return Dialect.V2_GRPC, request.SerializeToString(), None


def binary(array, dtype):
    if dtype not in DATATYPE:
        return None
    data = packed_bytes(array, dtype)
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": DATATYPE[dtype],
                    "shape": array.shape,
                    "parameters": {"binary_data_size": len(data)},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    return Dialect.V2_REST, head + data, len(head)


def as_json(array, dtype):
    if dtype not in V2_JSON:
        return None
    request = OipInfer("", {"x": array})
    return Dialect.V2_REST, oip_json.encode_request(request, binary=False)[1], None


FORMS = [columns, rows, content, values, raw, contents, binary, as_json]
ONE_OF_EACH = st.tuples(*(st.sampled_from(FORMS[at : at + 2]) for at in range(0, len(FORMS), 2)))
"""A form of every dialect. The long run takes one each, so that every pair has its ten thousand."""

THROUGH_JSON = {columns, rows, as_json}


def can_carry(dialect, array, dtype):
    if dialect is Dialect.TFS_REST:
        return dtype in TFS_JSON and 0 not in array.shape[:-1]
    return dialect is Dialect.TFS_GRPC or dtype in DATATYPE


def signatures(dtype):
    spec = TensorSpec("x", dtype, None)
    return {"serving_default": Signature({"x": spec}, {"x": spec})}


def assert_same(before, after, is_json):
    assert (after.dtype, after.shape) == (before.dtype, before.shape)
    if before.dtype == object:
        assert after.tolist() == before.tolist()
    elif is_json and before.dtype.kind == "f":
        # JSON has one NaN; all else is there to the bit.
        assert np.array_equal(np.isnan(after), np.isnan(before))
        here = ~np.isnan(before)
        assert after[here].tobytes() == before[here].tobytes()
    else:
        assert after.tobytes() == before.tobytes()


def check(array, dtype, forms=FORMS):
    known = signatures(dtype)
    for form in forms:
        written = form(array, dtype)
        if written is None:
            continue
        caller, body, length = written
        request = decode_request(caller, body, known, header_length=length)
        assert_same(array, request.inputs["x"], form in THROUGH_JSON)
        for replica in Dialect:
            there(array, dtype, request, replica, known, form in THROUGH_JSON)
            back(array, dtype, request, caller, replica, known, form in THROUGH_JSON)


def there(array, dtype, request, replica, known, is_json):
    if not can_carry(replica, array, dtype):
        with pytest.raises(GatewayError):
            encode_request(replica, request, model="m", version=3)
        return
    sent = encode_request(replica, request, model="m", version=3)
    length = sent.headers.get("Inference-Header-Content-Length")
    got = decode_request(
        replica, sent.body, known, header_length=None if length is None else int(length)
    )
    assert_same(array, got.inputs["x"], is_json or replica is Dialect.TFS_REST)


def back(array, dtype, request, caller, replica, known, is_json):
    if not can_carry(replica, array, dtype) or not can_carry(caller, array, dtype):
        return
    answer = CanonicalResponse({"x": array}, "m", "3")
    asked = CanonicalRequest({}, binary_output=True)
    made = encode_response(replica, asked, answer, known, model="m", version=3)
    length = made.headers.get("Inference-Header-Content-Length")
    got = decode_response(
        replica, made.body, known, request, header_length=None if length is None else int(length)
    )
    if request.row_form and array.ndim == 0:
        return
    said = encode_response(caller, request, got, known, model="m", version=3)
    said_body = said.body.replace(b'"predictions"', b'"outputs"')
    length = said.headers.get("Inference-Header-Content-Length")
    heard = decode_response(
        caller, said_body, known, request, header_length=None if length is None else int(length)
    )
    lossy = is_json or Dialect.TFS_REST in (caller, replica)
    assert_same(array, heard.outputs["x"], lossy)


RELAXED = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.label)
def test_every_pair_of_dialects_keeps_every_bit(dtype):
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=RELAXED, database=None)
    @given(tensors(dtype))
    def run(array):
        check(array, dtype)

    run()


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.label)
def test_every_pair_of_dialects_keeps_every_bit_of_ten_thousand(dtype):
    @settings(
        max_examples=LONG_EXAMPLES, deadline=None, suppress_health_check=RELAXED, database=None
    )
    @given(tensors(dtype), ONE_OF_EACH)
    def run(array, forms):
        check(array, dtype, forms)

    run()


def test_bfloat16_is_what_it_says():
    assert numpy_dtype(DType.BFLOAT16) == np.dtype(ml_dtypes.bfloat16)
