"""What is encoded decodes to the same tensor, and the two ways of decoding agree."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.codecs.tfs_json import decode_examples, decode_predict, encode_predict
from gateway.codecs.tfs_tensors import numpy_dtype
from gateway.domain.errors import GatewayError
from gateway.domain.tensors import DType, Signature, TensorSpec

pytestmark = pytest.mark.slow

NUMBERS = [
    DType.BOOL, DType.INT8, DType.INT16, DType.INT32, DType.INT64, DType.UINT8, DType.UINT32,
    DType.UINT64, DType.FLOAT, DType.DOUBLE,
]  # fmt: skip
SIGNATURES = {
    d.label: Signature({"x_bytes": TensorSpec("x_bytes", d, None)})
    for d in (*NUMBERS, DType.STRING)
}


@st.composite
def arrays(draw, min_dims=0):
    dtype = draw(st.sampled_from(NUMBERS))
    shape = draw(hnp.array_shapes(min_dims=min_dims, max_dims=4, min_side=1, max_side=4))
    return dtype, draw(
        hnp.arrays(numpy_dtype(dtype), shape if draw(st.booleans()) or min_dims else ())
    )


def as_request(answer: bytes, dtype: DType) -> bytes:
    body = answer.replace(b'"outputs"', b'"inputs"').replace(b'"predictions"', b'"instances"')
    return body[:-1] + b', "signature_name": "' + dtype.label.encode() + b'"}'


def same(a, b) -> bool:
    """Equal to the bit, but for what kind of NaN it is."""
    if a.dtype.kind == "f":
        return (
            np.array_equal(a, b, equal_nan=True)
            and (np.signbit(a) == np.signbit(b))[~np.isnan(a)].all()
        )
    return np.array_equal(a, b)


@settings(max_examples=300, deadline=None)
@given(arrays(), st.just(False))
def test_a_tensor_survives_the_column_form(made, row_form):
    dtype, array = made
    call = decode_predict(as_request(encode_predict({"x": array}, row_form), dtype), SIGNATURES)
    back = call.inputs["x_bytes"]
    assert (back.dtype, back.shape, call.row_form) == (array.dtype, array.shape, row_form)
    assert same(array, back)


@settings(max_examples=300, deadline=None)
@given(arrays(min_dims=1))
def test_a_tensor_survives_the_row_form(made):
    dtype, array = made
    call = decode_predict(as_request(encode_predict({"x": array}, True), dtype), SIGNATURES)
    back = call.inputs["x_bytes"]
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert same(array, back)


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(object, hnp.array_shapes(max_dims=3, max_side=3), elements=st.binary(max_size=9)))
def test_bytes_survive_in_base64_and_as_they_are(array):
    for name in ("x_bytes", "x"):
        body = as_request(encode_predict({name: array}, False), DType.STRING)
        back = decode_predict(body, SIGNATURES).inputs["x_bytes"]
        assert (back.shape, back.tolist()) == (array.shape, array.tolist())


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=4)
    | st.builds(lambda t: {"b64": t}, st.sampled_from(["YQ==", "*", ""])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xab"), inner, max_size=2)
    ),
    max_leaves=8,
)


def outcome(body: bytes, decode, *args):
    try:
        return repr(decode(body, *args))
    except GatewayError as error:
        return repr(error)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from([*NUMBERS, DType.STRING, DType.HALF]),
    st.sampled_from(["inputs", "instances"]),
    values | st.lists(values, min_size=1, max_size=4),
)
def test_the_quick_and_the_careful_parser_agree(dtype, key, value):
    signatures = {"serving_default": Signature({"x": TensorSpec("x", dtype, None)})}
    body = json.dumps({key: value}).encode()
    # A byte behind the value keeps orjson out of it.
    assert outcome(body, decode_predict, signatures) == outcome(
        body + b"!", decode_predict, signatures
    )


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([DType.FLOAT, DType.INT8, DType.STRING, DType.BOOL]),
    st.lists(values, min_size=1, max_size=3),
)
def test_quick_and_careful_conversion_agree(dtype, rows):
    """A list of rows is the same as each row by itself, and refused if any of them is."""
    signatures = {"serving_default": Signature({"x": TensorSpec("x", dtype, None)})}

    def one(row):
        body = json.dumps({"inputs": {"x": row}}).encode()
        try:
            return decode_predict(body, signatures).inputs["x"]
        except GatewayError:
            return None

    singles = [one(row) for row in rows]
    fits = all(s is not None and s.shape == singles[0].shape for s in singles)
    body = json.dumps({"instances": [{"x": row} for row in rows]}).encode()
    try:
        joined = decode_predict(body, signatures).inputs["x"]
    except GatewayError:
        assert not fits
        return
    assert fits
    assert joined.tolist() == np.stack(singles).tolist() or np.array_equal(
        joined, np.stack(singles), equal_nan=True
    )


@settings(max_examples=400, deadline=None)
@given(
    st.binary(max_size=80)
    | st.text(alphabet='{}[]",:\\ub64instances0.1e-NaI', max_size=60).map(str.encode)
)
@pytest.mark.parametrize("prefix", [b"", b'{"instances":', b'{"inputs":'])
def test_no_body_fails_in_any_other_way_than_a_refusal(prefix, body):
    outcome(prefix + body, decode_predict, {"serving_default": SIGNATURES["float"]})
    outcome(prefix + body, decode_examples)
