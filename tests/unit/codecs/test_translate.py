"""What goes over between the dialects besides the tensors, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gateway.codecs.oip_infer import OipOutput
from gateway.codecs.oip_json import decode_answer, decode_infer
from gateway.codecs.oip_proto import decode_infer_bytes
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_tensors import to_array, to_proto
from gateway.codecs.translate import (
    CanonicalRequest,
    CanonicalResponse,
    Dialect,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from gateway.domain.errors import InvalidRequest, Unimplemented, UpstreamFailed
from gateway.domain.tensors import DType, Signature, TensorSpec

X = np.array([[1, 2], [3, 4]], np.float32)
KNOWN = {
    "serving_default": Signature(
        {"x": TensorSpec("x", DType.FLOAT, (-1, 2))},
        {"y": TensorSpec("y", DType.FLOAT, (-1, 2)), "z": TensorSpec("z", DType.INT64, (-1,))},
    )
}
ANSWER = CanonicalResponse({"y": X, "z": np.array([5, 6], np.int64)}, "m", "3")
V2 = [Dialect.V2_REST, Dialect.V2_GRPC]
TFS = [Dialect.TFS_REST, Dialect.TFS_GRPC]


def length(encoded):
    found = encoded.headers.get("Inference-Header-Content-Length")
    return None if found is None else int(found)


def predict(**fields):
    request = tfs_pb2.PredictRequest()
    request.model_spec.name = "m"
    request.model_spec.signature_name = fields.pop("signature", "")
    request.inputs["x"].CopyFrom(to_proto(X))
    request.output_filter.extend(fields.pop("outputs", ()))
    return request.SerializeToString()


def test_dialects_are_those_of_the_domain():
    assert [d.value for d in Dialect] == ["tfs-rest", "tfs-grpc", "v2-rest", "v2-grpc"]


def test_a_predict_call_asks_a_v2_replica_for_the_same():
    request = decode_request(Dialect.TFS_GRPC, predict(outputs=["z"]), KNOWN)
    assert (request.model, request.signature_name) == ("m", "serving_default")
    made = encode_request(Dialect.V2_GRPC, request, model="m", version=3)
    infer = decode_infer_bytes(made.body)
    assert (infer.model, infer.version, [o.name for o in infer.outputs]) == ("m", "3", ["z"])
    assert made.headers == {}
    made = encode_request(Dialect.V2_REST, request, model="m", version=3)
    infer = decode_infer(made.body, length(made))
    assert [(o.name, o.binary) for o in infer.outputs] == [("z", True)]
    assert infer.binary_output
    assert made.headers["Content-Type"] == "application/octet-stream"


def test_a_v2_call_asks_a_tfs_replica_for_the_same():
    made = oip_pb2.ModelInferRequest(model_name="m", model_version="2", id="i")
    made.inputs.add(name="x", datatype="FP32", shape=[2, 2])
    made.raw_input_contents.append(X.tobytes())
    made.outputs.add(name="y")
    made.parameters["timeout"].int64_param = 5
    made.parameters["signature_name"].string_param = "other"
    request = decode_request(Dialect.V2_GRPC, made.SerializeToString(), KNOWN)
    assert (request.version, request.id, request.signature_name) == (2, "i", "other")
    sent = encode_request(Dialect.TFS_GRPC, request, model="m", version=3)
    got = tfs_pb2.PredictRequest.FromString(sent.body)
    assert (got.model_spec.version.value, got.model_spec.signature_name) == (3, "other")
    assert list(got.output_filter) == ["y"]
    assert to_array(got.inputs["x"]).tolist() == X.tolist()
    sent = encode_request(Dialect.TFS_REST, request, model="m", version=3)
    assert json.loads(sent.body) == {"signature_name": "other", "inputs": {"x": X.tolist()}}


def test_v2_means_the_only_signature_where_none_is_the_default():
    made = oip_pb2.ModelInferRequest(model_name="m").SerializeToString()
    only = {"other": KNOWN["serving_default"]}
    assert decode_request(Dialect.V2_GRPC, made, only).signature_name == "other"
    assert decode_request(Dialect.V2_GRPC, made, KNOWN).signature_name == "serving_default"


@pytest.mark.parametrize("replica", V2)
def test_another_signature_cannot_be_asked_of_v2(replica):
    request = decode_request(Dialect.TFS_GRPC, predict(signature="other"), KNOWN)
    with pytest.raises(InvalidRequest, match='"other" cannot be asked for') as caught:
        encode_request(replica, request, model="m", version=3)
    assert caught.value.reason == "not_expressible"


@pytest.mark.parametrize("replica", TFS)
def test_parameters_cannot_be_passed_on_to_tfs(replica):
    request = CanonicalRequest({"x": X}, parameters={"sequence_id": 3})
    with pytest.raises(Unimplemented, match="parameter 'sequence_id' cannot be passed on"):
        encode_request(replica, request, model="m", version=3)
    hints = CanonicalRequest({"x": X}, parameters={"timeout": 3, "priority": 1})
    encode_request(replica, hints, model="m", version=3)


@pytest.mark.parametrize("dtype", [np.float16, np.uint16, np.complex64])
def test_what_tfs_rest_has_no_form_for(dtype):
    request = CanonicalRequest({"x": X.astype(dtype)})
    with pytest.raises(Unimplemented, match=r"has no form; a server that speaks gRPC takes it"):
        encode_request(Dialect.TFS_REST, request, model="m", version=3)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 1)])
def test_empty_tensors_that_tfs_rest_cannot_say(shape):
    request = CanonicalRequest({"x": np.zeros(shape, np.float32)})
    with pytest.raises(InvalidRequest, match="cannot say"):
        encode_request(Dialect.TFS_REST, request, model="m", version=3)


def test_an_empty_tensor_must_not_become_the_whole_memory():
    request = CanonicalRequest({"x": np.zeros((2**40, 0), np.float32)})
    with pytest.raises(InvalidRequest, match="more than 65536 lists"):
        encode_request(Dialect.TFS_REST, request, model="m", version=3)


@pytest.mark.parametrize("replica", V2)
def test_complex_numbers_cannot_go_to_v2(replica):
    request = CanonicalRequest({"x": X.astype(np.complex64)})
    with pytest.raises(Unimplemented, match="no datatype"):
        encode_request(replica, request, model="m", version=3)


# ---- answers -----------------------------------------------------------------------------


def test_an_answer_for_every_caller():
    row = CanonicalRequest({}, row_form=True)
    said = encode_response(Dialect.TFS_REST, row, ANSWER, KNOWN, model="m", version=3)
    assert json.loads(said.body) == {
        "predictions": [{"y": [1.0, 2.0], "z": 5}, {"y": [3.0, 4.0], "z": 6}]
    }
    column = CanonicalRequest({}, outputs=(OipOutput("z"),))
    said = encode_response(Dialect.TFS_REST, column, ANSWER, KNOWN, model="m", version=3)
    assert json.loads(said.body) == {"outputs": [5, 6]}
    said = encode_response(Dialect.TFS_GRPC, column, ANSWER, KNOWN, model="m", version=9)
    got = tfs_pb2.PredictResponse.FromString(said.body)
    assert (got.model_spec.name, got.model_spec.version.value) == ("m", 3)
    assert got.model_spec.signature_name == "serving_default"
    assert list(got.outputs) == ["z"]
    v2 = CanonicalRequest({}, id="i", outputs=(OipOutput("y", True), OipOutput("z")))
    said = encode_response(Dialect.V2_REST, v2, ANSWER, KNOWN, model="m", version=9)
    answer = decode_answer(said.body, length(said))
    assert (answer.id, answer.version, answer.model) == ("i", "3", "m")
    assert answer.outputs["y"].tolist() == X.tolist()
    said = encode_response(Dialect.V2_GRPC, v2, ANSWER, KNOWN, model="m", version=9)
    proto = oip_pb2.ModelInferResponse.FromString(said.body)
    assert (proto.id, proto.model_version, len(proto.raw_output_contents)) == ("i", "3", 2)


def test_what_the_replica_did_not_say_is_filled_in():
    bare = CanonicalResponse(ANSWER.outputs)
    request = CanonicalRequest({})
    said = encode_response(Dialect.TFS_GRPC, request, bare, KNOWN, model="m", version=9)
    spec = tfs_pb2.PredictResponse.FromString(said.body).model_spec
    assert (spec.name, spec.version.value) == ("m", 9)
    named = CanonicalResponse(ANSWER.outputs, "m", "v1")
    said = encode_response(Dialect.TFS_GRPC, request, named, KNOWN, model="m", version=9)
    assert tfs_pb2.PredictResponse.FromString(said.body).model_spec.version.value == 9
    said = encode_response(Dialect.V2_REST, request, named, KNOWN, model="m", version=9)
    assert json.loads(said.body)["model_version"] == "v1"


@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_replica_s_answer_is_read(dialect):
    asked = CanonicalRequest({}, binary_output=True)
    made = encode_response(dialect, asked, ANSWER, KNOWN, model="m", version=3)
    got = decode_response(dialect, made.body, KNOWN, asked, header_length=length(made))
    assert {n: a.tolist() for n, a in got.outputs.items()} == {"y": X.tolist(), "z": [5, 6]}
    assert got.version == ("" if dialect is Dialect.TFS_REST else "3")


def test_an_empty_answer_gets_its_shape_from_the_signature():
    got = decode_response(
        Dialect.TFS_REST, b'{"outputs":{"y":[],"z":[]}}', KNOWN, CanonicalRequest({})
    )
    assert {n: a.shape for n, a in got.outputs.items()} == {"y": (0, 2), "z": (0,)}


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (Dialect.TFS_REST, b"<html>"),
        (Dialect.TFS_REST, b"{}"),
        (Dialect.TFS_REST, b'{"outputs":1}'),
        (Dialect.TFS_REST, b'{"outputs":{"y":["a"]}}'),
        (Dialect.TFS_GRPC, b"\xff"),
        (Dialect.V2_REST, b"{}"),
        (Dialect.V2_GRPC, b"\xff"),
    ],
)
def test_an_answer_that_is_none_is_the_replica_s_fault(dialect, body):
    with pytest.raises(UpstreamFailed, match=f"cannot be read as {dialect}") as caught:
        decode_response(dialect, body, KNOWN, CanonicalRequest({}))
    assert caught.value.reason == "bad_answer"


def test_an_output_that_nobody_has():
    request = CanonicalRequest({}, outputs=(OipOutput("nope"),))
    with pytest.raises(InvalidRequest, match="unexpected inference output 'nope'"):
        encode_response(Dialect.V2_REST, request, ANSWER, KNOWN, model="m", version=3)


@pytest.mark.parametrize("classified", [False, True])
def test_classes_are_counted_here_unless_the_replica_has(classified):
    response = CanonicalResponse(ANSWER.outputs, "m", "3", classified=classified)
    request = CanonicalRequest({}, outputs=(OipOutput("y", classification=1),))
    said = encode_response(Dialect.V2_REST, request, response, KNOWN, model="m", version=3)
    [output] = json.loads(said.body)["outputs"]
    if classified:
        assert output["data"] == [1.0, 2.0, 3.0, 4.0]
    else:
        assert (output["datatype"], output["shape"]) == ("BYTES", [2, 1])
        assert output["data"] == ["2.000000:1", "4.000000:1"]


def test_half_floats_are_refused_in_the_caller_s_words():
    half = CanonicalResponse({"y": X.astype(np.float16)}, "m", "3")
    for dialect, words in (
        (Dialect.V2_REST, "sending FP16 data via JSON is not supported"),
        (Dialect.TFS_REST, "Failed to write JSON value for tensor type: half"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            encode_response(dialect, CanonicalRequest({}), half, KNOWN, model="m", version=3)
