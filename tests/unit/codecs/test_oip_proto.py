"""ModelInferRequest: the two ways to carry tensors, and the words of refusals."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.codecs.oip_infer import OipInfer, OipOutput
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.oip_proto import (
    decode_answer_bytes,
    decode_infer_bytes,
    decode_infer_proto,
    encode_infer_bytes,
    encode_infer_proto,
    encode_request_bytes,
)
from gateway.codecs.oip_scan import OipFields, pin_version, scan, version_of
from gateway.codecs.pb import oip_pb2
from gateway.domain.errors import InvalidRequest, Unimplemented


def request(*inputs, raw=(), **fields):
    made = oip_pb2.ModelInferRequest(model_name="m", **fields)
    for name, datatype, shape, contents in inputs:
        one = made.inputs.add(name=name, datatype=datatype, shape=shape)
        for key, values in (contents or {}).items():
            getattr(one.contents, key).extend(values)
    made.raw_input_contents.extend(raw)
    return made


def decode(made):
    return decode_infer_bytes(made.SerializeToString())


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT16", "int_contents", [-32768, 32767]),
        ("INT32", "int_contents", [-(2**31), 2**31 - 1]),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
        ("UINT8", "uint_contents", [0, 255]),
        ("UINT16", "uint_contents", [0, 65535]),
        ("UINT32", "uint_contents", [0, 2**32 - 1]),
        ("UINT64", "uint64_contents", [0, 2**64 - 1]),
        ("FP32", "fp32_contents", [0.5, -0.0]),
        ("FP64", "fp64_contents", [0.1, 5e-324]),
        ("BYTES", "bytes_contents", [b"a\0", b"\xff"]),
    ],
)
def test_typed_lists(datatype, field, values):
    array = decode(request(("x", datatype, [2, 1], {field: values}))).inputs["x"]
    assert array.reshape(-1).tolist() == values
    assert array.shape == (2, 1)


def test_all_of_a_request():
    made = request(("x", "FP32", [1], None), raw=[b"\0\0\x80?"], model_version="3", id="i")
    made.parameters["b"].bool_param = True
    made.parameters["u"].uint64_param = 2**64 - 1
    made.parameters["d"].double_param = 0.5
    made.parameters["s"].string_param = "t"
    made.parameters["i"].int64_param = -1
    output = made.outputs.add(name="y")
    output.parameters["classification"].int64_param = 3
    output.parameters["k"].string_param = "v"
    parameters = {"b": True, "u": 2**64 - 1, "d": 0.5, "s": "t", "i": -1}
    for infer in (decode(made), decode_infer_proto(made)):
        assert infer.inputs["x"].tolist() == [1.0]
        assert (infer.model, infer.version, infer.id) == ("m", "3", "i")
        assert infer.parameters == parameters
        assert infer.outputs == (OipOutput("y", False, 3, {"k": "v"}),)
    again = decode_infer_bytes(encode_request_bytes(infer))
    assert (again.parameters, again.outputs) == (infer.parameters, infer.outputs)


LIST = {"fp32_contents": [1.0]}
REFUSED = [
    (request(("x", "FP32", [1], None)),
     "unable to find data for input tensor 'x' for model 'm' in request."),
    (request(("x", "FP32", [1], LIST), raw=[b"1234"]),
     "contents field must not be specified when using raw_input_contents for 'x' for model 'm'"),
    (request(("x", "FP32", [1], None), ("y", "FP32", [1], None), raw=[b"1234"]),
     "unable to find data for input tensor 'y'"),
    (request(("x", "FP32", [1], None), raw=[b"1234", b"1234"]), "unexpected additional input data"),
    (request(("x", "FP32", [2], None), raw=[b"1234"]),
     "input byte size mismatch for input 'x'. Expected 8, got 4"),
    (request(("x", "FP32", [2], LIST)), "Expected 2 elements, got 1"),
    (request(("x", "FP64", [1], LIST)),
     "unexpected explicit tensor data for input tensor 'x' for model 'm' of type 'FP32', expected "
     "datatype 'FP64'"),
    (request(("x", "FP16", [1], LIST)), "of type 'FP32', expected datatype 'FP16'"),
    (request(("x", "INT8", [1], {"int_contents": [128]})), "INT8's range of -128 to 127"),
    (request(("x", "UINT16", [1], {"uint_contents": [65536]})), "UINT16's range of 0 to 65535"),
    (request(("x", "FP32", [-1], LIST)), "contains one or more invalid dimensions"),
    (request(("x", "NO", [1], LIST)), "invalid datatype for input x"),
    (request(("x", "FP32", [1], LIST), ("x", "FP32", [1], LIST)), "already exists in request"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "words"), REFUSED)
def test_refusals(made, words):
    with pytest.raises(InvalidRequest) as caught:
        decode(made)
    assert words in caught.value.message


def test_parameters_that_are_refused():
    made = request()
    made.parameters["p"].SetInParent()
    with pytest.raises(InvalidRequest, match="invalid value type for 'p' parameter"):
        decode(made)
    made = request()
    made.parameters["triton_x"].bool_param = True
    with pytest.raises(InvalidRequest, match="reserved"):
        decode(made)
    made.parameters["triton_enable_empty_final_response"].bool_param = True
    del made.parameters["triton_x"]
    decode(made)
    with pytest.raises(InvalidRequest, match="beyond 64 bits"):
        encode_request_bytes(OipInfer("", {}, parameters={"p": 2**64}))


def test_shared_memory_is_not_here():
    made = request(("x", "FP32", [1], None))
    made.inputs[0].parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(Unimplemented, match="shared memory region"):
        decode(made)


def test_what_is_no_message():
    with pytest.raises(InvalidRequest, match="no valid protobuf message"):
        decode_infer_bytes(b"\x0a\xff")
    with pytest.raises(InvalidRequest, match="no valid protobuf message"):
        decode_infer_bytes(b"\x0a\x01\xff")  # a name that is not UTF-8


def test_answers_are_raw():
    arrays = {"y": np.array([[1, 2]], np.int16), "s": np.array([b"a"], object)}
    proto = encode_infer_proto("m", 3, "i", arrays, parameters={"p": 1})
    assert list(proto.raw_output_contents) == [b"\1\0\2\0", b"\1\0\0\0a"]
    data = encode_infer_bytes("m", 3, "i", arrays, parameters={"p": 1})
    assert oip_pb2.ModelInferResponse.FromString(data) == proto
    answer = decode_answer_bytes(data)
    assert (answer.model, answer.version, answer.id, answer.parameters) == ("m", "3", "i", {"p": 1})
    assert {n: a.tolist() for n, a in answer.outputs.items()} == {"y": [[1, 2]], "s": [b"a"]}
    only = decode_answer_bytes(encode_infer_bytes("m", None, "", arrays, ["s"]))
    assert (list(only.outputs), only.version) == (["s"], "")


# ---- the scan ------------------------------------------------------------------------------


def test_the_scan():
    made = request(model_version="007", id="i")
    made.parameters["timeout"].int64_param = 5
    made.parameters["other"].int64_param = 6
    body = made.SerializeToString()
    assert scan(OipMethod.MODEL_INFER, body) == OipFields("m", 7, "i", 5)
    pinned = oip_pb2.ModelInferRequest.FromString(pin_version(OipMethod.MODEL_INFER, body, 9))
    assert (pinned.model_version, pinned.id) == ("9", "i")


@pytest.mark.parametrize(
    ("method", "message", "fields"),
    [
        (OipMethod.MODEL_READY, oip_pb2.ModelReadyRequest(name="m", version="1"), ("m", 1)),
        (OipMethod.MODEL_METADATA, oip_pb2.ModelMetadataRequest(name="m"), ("m", None)),
        (OipMethod.REPOSITORY_MODEL_LOAD,
         oip_pb2.RepositoryModelLoadRequest(repository_name="r", model_name="m"), ("m", None)),
        (OipMethod.TRACE_SETTING, oip_pb2.TraceSettingRequest(model_name="m"), ("m", None)),
    ],
)  # fmt: skip
def test_the_scan_of_other_methods(method, message, fields):
    found = scan(method, message.SerializeToString())
    assert (found.model, found.version) == fields


def test_methods_without_a_model():
    with pytest.raises(ValueError, match="names no model"):
        scan(OipMethod.SERVER_LIVE, b"")
    with pytest.raises(ValueError, match="has no version"):
        pin_version(OipMethod.REPOSITORY_MODEL_LOAD, b"", 1)


@pytest.mark.parametrize("version", ["x", "-1", "1.0", str(2**63), "9" * 5000, "٣"])
def test_what_is_no_version(version):
    with pytest.raises(InvalidRequest, match="failed to get model version"):
        version_of(version)


def test_methods():
    assert OipMethod.MODEL_INFER.path == "/inference.GRPCInferenceService/ModelInfer"
    assert OipMethod.CUDA_SHARED_MEMORY_STATUS.is_shared_memory
    assert not OipMethod.MODEL_INFER.is_shared_memory


def test_an_answer_may_have_empty_contents_beside_its_raw_ones():
    """As MLServer's have; in a request it stays an error, as it is in Triton."""
    made = oip_pb2.ModelInferResponse(model_name="m")
    one = made.outputs.add(name="y", datatype="FP32", shape=[2])
    one.contents.SetInParent()
    made.raw_output_contents.append(np.array([1, 2], np.float32).tobytes())
    answer = decode_answer_bytes(made.SerializeToString())
    np.testing.assert_array_equal(answer.outputs["y"], np.array([1, 2], np.float32))
    one.contents.fp32_contents.append(1.0)
    with pytest.raises(InvalidRequest, match="contents field must not be specified"):
        decode_answer_bytes(made.SerializeToString())
