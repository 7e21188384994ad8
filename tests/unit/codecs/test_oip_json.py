"""V2 over HTTP to the byte: what is read, what is written, and the words of refusals."""

from __future__ import annotations

import json
import struct

import ml_dtypes
import numpy as np
import pytest

from gateway.codecs.oip_infer import OipInfer, OipOutput
from gateway.codecs.oip_json import decode_answer, decode_infer, encode_infer, encode_request
from gateway.domain.errors import InvalidRequest, Unimplemented
from gateway.domain.tensors import DType, Signature, TensorSpec


def one(**fields):
    tensor = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2], **fields}
    return {k: v for k, v in tensor.items() if v is not None}


def request(*inputs, **rest):
    return json.dumps({"inputs": list(inputs) or [one()], **rest}).encode()


# ---- reading -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [[1, 2, 3, 4], [[1, 2], [3, 4]], [[1, 2, 3], [4]], [[[1], 2], 3, 4]]
)
def test_data_is_flat_or_nested(data):
    infer = decode_infer(request(one(shape=[2, 2], data=data)))
    assert infer.inputs["x"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("datatype", "data", "wanted"),
    [
        ("BOOL", [True, False], [True, False]),
        ("INT8", [-128, 127], [-128, 127]),
        ("UINT8", [0, 255], [0, 255]),
        ("UINT16", [0, 65535], [0, 65535]),
        ("INT64", [-(2**63), 2**63 - 1], [-(2**63), 2**63 - 1]),
        ("UINT64", [0, 2**64 - 1], [0, 2**64 - 1]),
        ("FP32", [1, 0.1], [1.0, np.float32(0.1)]),
        ("FP64", [-0.0, 5e-324], [-0.0, 5e-324]),
        ("BYTES", ["a\0b", "é"], [b"a\0b", "é".encode()]),
    ],
)
def test_every_datatype_that_json_has(datatype, data, wanted):
    array = decode_infer(request(one(datatype=datatype, data=data))).inputs["x"]
    assert array.tolist() == wanted
    _, body = encode_infer("m", 1, "", {"x": array})
    assert json.loads(body)["outputs"][0]["data"] == pytest.approx(data)


def test_what_is_not_finite_and_not_utf8():
    body = (
        b'{"inputs":[{"name":"x","shape":[3],"datatype":"FP32","data":[NaN,Infinity,-Infinity]},'
        b'{"name":"s","shape":[1],"datatype":"BYTES","data":["\xff"]}]}'
    )
    infer = decode_infer(body)
    assert np.isnan(infer.inputs["x"][0])
    assert infer.inputs["x"][1:].tolist() == [np.inf, -np.inf]
    assert infer.inputs["s"].tolist() == [b"\xff"]
    _, answer = encode_infer("m", 1, "", infer.inputs)
    assert b'"data":[NaN,Infinity,-Infinity]' in answer
    assert b'"data":["\xff"]' in answer


def test_id_parameters_outputs():
    infer = decode_infer(
        request(
            id="7",
            parameters={"a": 1, "b": 1.5, "c": True, "d": "s", "binary_data_output": True},
            outputs=[
                {"name": "y"},
                {"name": "z", "parameters": {"binary_data": False, "classification": 3, "k": "v"}},
            ],
        )
    )
    assert infer.id == "7"
    assert infer.parameters == {"a": 1, "b": 1.5, "c": True, "d": "s"}
    assert infer.binary_output
    assert infer.outputs == (
        OipOutput("y", True),
        OipOutput("z", False, 3, {"k": "v"}),
    )


@pytest.mark.parametrize("shape", [[], [0], [0, 3], [1], [2, 0]])
def test_empty_tensors_and_those_without_dimensions(shape):
    count = int(np.prod(shape))
    infer = decode_infer(request(one(shape=shape, data=[5] * count)))
    assert infer.inputs["x"].shape == tuple(shape)
    _, body = encode_infer("m", 1, "", infer.inputs)
    assert json.loads(body)["outputs"][0]["data"] == [5.0] * count


# ---- bytes behind the JSON ---------------------------------------------------------------


def test_binary_and_json_inputs_mix():
    head = request(
        one(name="a", data=None, parameters={"binary_data_size": 8}),
        one(name="b"),
        one(name="s", datatype="BYTES", data=None, parameters={"binary_data_size": 10}),
        one(name="h", datatype="FP16", data=None, parameters={"binary_data_size": 4}),
        one(name="e", shape=[0], data=None, parameters={"binary_data_size": 0}),
    )
    tail = struct.pack("<2f", 1, 2) + b"\2\0\0\0a\0\0\0\0\0" + struct.pack("<2e", 3, 4)
    infer = decode_infer(head + tail, len(head))
    assert {n: a.tolist() for n, a in infer.inputs.items()} == {
        "a": [1, 2], "b": [1, 2], "s": [b"a\0", b""], "h": [3, 4], "e": [],
    }  # fmt: skip
    assert all(a.flags.aligned for a in infer.inputs.values())


def test_any_byte_but_zero_is_true():
    head = request(one(datatype="BOOL", data=None, parameters={"binary_data_size": 2}))
    assert decode_infer(head + b"\0\7", len(head)).inputs["x"].tolist() == [False, True]


def test_outputs_as_bytes_and_as_json_mix():
    wanted = OipInfer("", {}, (OipOutput("a", True), OipOutput("b")))
    arrays = {
        "a": np.array([1, 2], np.float16),
        "b": np.array([3], np.int32),
        "c": np.array([4], np.uint8),
    }
    length, body = encode_infer("m", 3, "i", arrays, wanted, {"p": True})
    assert json.loads(body[:length]) == {
        "id": "i",
        "model_name": "m",
        "model_version": "3",
        "parameters": {"p": True},
        "outputs": [
            {"name": "a", "datatype": "FP16", "shape": [2], "parameters": {"binary_data_size": 4}},
            {"name": "b", "datatype": "INT32", "shape": [1], "data": [3]},
            {"name": "c", "datatype": "UINT8", "shape": [1], "data": [4]},
        ],
    }
    assert body[length:] == arrays["a"].tobytes()
    length, body = encode_infer("m", 3, "", arrays, OipInfer("", {}, binary_output=True))
    assert body[length:] == b"".join(a.tobytes() for a in arrays.values())


def test_an_answer_to_the_byte():
    made = encode_infer("m", 1, "", {"y": np.array([[0.1, 2]], np.float32)})
    assert made == (
        None,
        b'{"model_name":"m","model_version":"1","outputs":'
        b'[{"name":"y","datatype":"FP32","shape":[1,2],"data":[0.1,2.0]}]}',
    )


def test_a_request_is_written_as_it_is_read():
    inputs = {"x": np.array([1, 2], ml_dtypes.bfloat16), "s": np.array([b"\xff\0"], object)}
    asked = OipInfer("i", inputs, (OipOutput("y", True, 2),), {"p": 1}, True)
    length, body = encode_request(asked)
    back = decode_infer(body, length)
    assert (back.id, back.outputs, back.parameters, back.binary_output) == (
        "i", asked.outputs, {"p": 1}, True,
    )  # fmt: skip
    assert back.inputs["x"].dtype == ml_dtypes.bfloat16
    assert back.inputs["s"].tolist() == [b"\xff\0"]


# ---- the raw request -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "shape", "body", "made"),
    [
        (DType.FLOAT, (-1, 2), 8, (1, 2)),
        (DType.FLOAT, (-1, 2), 24, (3, 2)),
        (DType.FLOAT, (-1, -1, 2), 16, (1, 2, 2)),
        (DType.FLOAT, (2, 2), 16, (2, 2)),
        (DType.UINT8, (-1,), 5, (5,)),
        (DType.UINT8, None, 5, (5,)),
        (DType.STRING, (-1, 1), 5, (1, 1)),
        (DType.STRING, (), 5, ()),
    ],
)
def test_a_raw_request_has_the_shape_that_its_bytes_leave(dtype, shape, body, made):
    signature = Signature({"x": TensorSpec("x", dtype, shape)})
    infer = decode_infer(b"\1" * body, 0, signature)
    assert infer.inputs["x"].shape == made
    assert infer.binary_output
    if dtype is DType.STRING:
        assert infer.inputs["x"].reshape(-1).tolist() == [b"\1" * body]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], "Raw request must only have 1 input"),
        ([("x", DType.FLOAT, (1,)), ("y", DType.FLOAT, (1,))], "but got 2 inputs"),
        ([("x", DType.FLOAT, (2, -1, -1))], "more than one variable-sized dimension"),
        ([("x", DType.STRING, (2,))], r"must have input shape \[1\]"),
        ([("x", DType.FLOAT, (3,))], "Expected 12, got 8"),
    ],
)
def test_a_raw_request_that_means_nothing(inputs, words):
    signature = Signature({n: TensorSpec(n, d, s) for n, d, s in inputs})
    with pytest.raises(InvalidRequest, match=words):
        decode_infer(b"\0" * 8, 0, signature)


# ---- refusals ------------------------------------------------------------------------------

NO_FIELD = "'shared_memory_region' in 'parameters'. But no field is set"
REFUSED = [
    (b"", "failed to parse the request JSON buffer: The document is empty. at 0"),
    (b"{", "failed to parse the request JSON buffer: Missing a name for object member. at 1"),
    (b'{"inputs":[]} x', "The document root must not be followed by other values. at 14"),
    (b"[]", "attempt to access JSON non-object as object"),
    (b"{}", "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
    (b'{"inputs":1}', "Unable to parse 'inputs': attempt to access JSON non-array as array"),
    (b'{"inputs":[1]}', "Unable to parse 'inputs': attempt to access JSON non-object as object"),
    (request(one(name=None)), "Unable to parse 'name': attempt to access non-existing"),
    (request(one(name=1)), "Unable to parse 'name': attempt to access JSON non-string as string"),
    (request(one(datatype=None)), "Unable to parse 'datatype': attempt to access non-existing"),
    (request(one(datatype="FP8")), "invalid datatype for input x"),
    (request(one(shape=None)), "Unable to parse 'shape': attempt to access non-existing"),
    (request(one(shape=[-1])), "Unable to parse 'shape': attempt to access JSON non-unsigned"),
    (request(one(shape=[2**60, 4])), "causes total element count to exceed maximum size"),
    (request(one(data=None)), NO_FIELD),
    (request(one(parameters={"binary_data_size": 8})), "But set 'data' 'binary_data_size'"),
    (request(one(data=1)), "Unable to parse 'data': attempt to access JSON non-array as array"),
    (request(one(data=[1])), "Unable to parse 'data': Shape does not match true shape of 'data'"),
    (request(one(data=[1, 2, 3])), "Unable to parse 'data': Shape does not match true shape"),
    (request(one(data=[1, "a"])), "attempt to access JSON non-number as double"),
    (request(one(data=[1, True])), "attempt to access JSON non-number as double"),
    (request(one(datatype="BOOL", data=[1, True])), "JSON non-boolean as boolean"),
    (request(one(datatype="INT8", data=[1, 1.0])), "non-signed-integer as signed-integer"),
    (request(one(datatype="UINT8", data=[1, 1.5])), "non-unsigned-integer as unsigned-integer"),
    (request(one(datatype="UINT8", data=[1, 300])), "300 of input 'x' is outside of UINT8's range"),
    (request(one(datatype="INT16", data=[1, -32769])), "range of -32768 to 32767"),
    (request(one(datatype="INT64", data=[1, 2**63])), "is outside of INT64's range"),
    (request(one(datatype="BYTES", data=["a", 1])), "JSON non-string as string"),
    (request(one(datatype="FP16")), "receiving FP16 data via JSON is not supported. Please use the "
                                    "binary data format for input x"),
    (request(one(datatype="BF16")), "receiving BF16 data via JSON is not supported"),
    (request(one(), one()), "input 'x' already exists in request"),
    (request(id=1), "Unable to parse 'id': attempt to access JSON non-string as string"),
    (request(parameters=[]), "Unable to parse 'parameters': attempt to access JSON non-object"),
    (request(parameters={"a": []}), "parameter 'a' has invalid type. It should be either 'int', "
                                    "'bool', 'string', or 'double'."),
    (request(parameters={"triton_x": 1}), "parameter keys starting with 'triton_' are reserved"),
    (request(parameters={"binary_data_output": 1}), "Unable to parse 'binary_data_output'"),
    (request(outputs=[{}]), "Unable to parse 'name'"),
    (request(outputs=[{"name": "y", "parameters": {"classification": -1}}]),
     "Unable to parse 'classification'"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "words"), REFUSED)
def test_refusals_in_triton_s_words(body, words):
    with pytest.raises(InvalidRequest) as caught:
        decode_infer(body)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("size", "tail", "words"),
    [
        (8, b"1234567", "unexpected size for input 'x', expecting 1 additional bytes"),
        (8, b"123456789", "unexpected additional input data"),
        (4, b"1234", "input byte size mismatch for input 'x'. Expected 8, got 4"),
    ],
)
def test_bytes_that_do_not_fit(size, tail, words):
    head = request(one(data=None, parameters={"binary_data_size": size}))
    with pytest.raises(InvalidRequest) as caught:
        decode_infer(head + tail, len(head))
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        (b"\1\0\0\0a\1\0", "incomplete string length indicator"),
        (b"\1\0\0\0a\5\0\0\0bb", "expecting string of length 5 but only 2 bytes available"),
        (b"\1\0\0\0a\1\0\0\0bc", "unexpected number of string elements"),
        (b"\1\0\0\0", "incomplete string length indicator"),
    ],
)
def test_strings_that_do_not_fit(tail, words):
    head = request(one(datatype="BYTES", data=None, parameters={"binary_data_size": len(tail)}))
    with pytest.raises(InvalidRequest, match=words):
        decode_infer(head + tail, len(head))


@pytest.mark.parametrize("length", [-1, 1000])
def test_a_header_length_outside_of_the_body(length):
    with pytest.raises(InvalidRequest, match=r"should be in range \(0, \d+\), got: "):
        decode_infer(request(), length)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_floats_are_not_written_as_json(dtype):
    with pytest.raises(InvalidRequest, match="data via JSON is not supported"):
        encode_infer("m", 1, "", {"y": np.zeros(1, dtype)})


def test_complex_numbers_have_no_datatype():
    with pytest.raises(Unimplemented, match="no datatype"):
        encode_infer("m", 1, "", {"y": np.zeros(1, np.complex64)})


def test_shared_memory_is_not_here():
    body = request(one(data=None, parameters={"shared_memory_region": "r"}))
    with pytest.raises(Unimplemented, match="shared memory region"):
        decode_infer(body)


def test_an_answer_of_another_server():
    body = b'{"model_name":"m","model_version":null,"id":null,"parameters":null,"outputs":[]}'
    answer = decode_answer(body.replace(b'null,"id', b'"v1","id'))
    assert (answer.model, answer.version, answer.id, answer.outputs) == ("m", "v1", "", {})
