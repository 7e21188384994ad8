from __future__ import annotations

import json

import numpy as np
import pytest

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_metadata import (
    check_metadata_request,
    metadata_json,
    metadata_proto,
    signature_from_proto,
    signature_to_proto,
    signatures_from_metadata,
)
from gateway.codecs.tfs_tensors import to_proto
from gateway.domain.errors import InvalidRequest, Unimplemented
from gateway.domain.tensors import CLASSIFY_METHOD, DType, Signature, TensorSpec

HALF_PLUS_TWO = {
    "serving_default": Signature(
        {"x": TensorSpec("x", DType.FLOAT, (-1, 1), "x:0")},
        {"y": TensorSpec("y", DType.FLOAT, (-1, 1), "y:0")},
    ),
    "classify_x_to_y": Signature(
        {"inputs": TensorSpec("inputs", DType.STRING, None, "tf_example:0")},
        {"scores": TensorSpec("scores", DType.FLOAT, (-1, 1), "y:0")},
        CLASSIFY_METHOD,
    ),
}


def test_the_json_has_the_layout_of_the_original_golden_file():
    def column(name):
        dims = [{"size": "-1", "name": ""}, {"size": "1", "name": ""}]
        shape = {"dim": dims, "unknown_rank": False}
        return {"dtype": "DT_FLOAT", "tensor_shape": shape, "name": name}

    examples = {
        "dtype": "DT_STRING",
        "tensor_shape": {"dim": [], "unknown_rank": True},
        "name": "tf_example:0",
    }
    assert json.loads(metadata_json("m", 123, HALF_PLUS_TWO)) == {
        "model_spec": {"name": "m", "signature_name": "", "version": "123"},
        "metadata": {
            "signature_def": {
                "signature_def": {
                    "serving_default": {
                        "inputs": {"x": column("x:0")},
                        "outputs": {"y": column("y:0")},
                        "method_name": "tensorflow/serving/predict",
                        "defaults": {},
                    },
                    "classify_x_to_y": {
                        "inputs": {"inputs": examples},
                        "outputs": {"scores": column("y:0")},
                        "method_name": "tensorflow/serving/classify",
                        "defaults": {},
                    },
                }
            }
        },
    }


def test_signatures_survive_the_grpc_answer():
    answer = tfs_pb2.GetModelMetadataResponse.FromString(
        metadata_proto("m", 3, HALF_PLUS_TWO).SerializeToString()
    )
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("m", 3)
    assert signatures_from_metadata(answer) == HALF_PLUS_TWO


def test_the_any_carries_the_original_type_name():
    packed = metadata_proto("m", 3, HALF_PLUS_TWO).metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"


def test_an_unknown_rank_is_not_a_scalar():
    signature = Signature(
        {
            "any": TensorSpec("any", DType.HALF, None, "any"),
            "one": TensorSpec("one", DType.HALF, (), "one"),
        }
    )
    assert signature_from_proto(signature_to_proto(signature)) == signature


def test_a_missing_graph_name_is_shown_as_the_alias():
    proto = signature_to_proto(Signature({"x": TensorSpec("x", DType.INT8, ())}))
    assert proto.inputs["x"].name == "x"


def test_defaults_survive_and_are_shown():
    default = to_proto(np.array([1.5], np.float32)).SerializeToString()
    signature = Signature({"x": TensorSpec("x", DType.FLOAT, (1,), "x:0", default)})
    assert signature_from_proto(signature_to_proto(signature)) == signature
    shown = json.loads(metadata_json("m", 1, {"s": signature}))
    one = shown["metadata"]["signature_def"]["signature_def"]["s"]["defaults"]["x"]
    assert one["dtype"] == "DT_FLOAT"
    assert one["tensor_content"] == "AADAPw=="


def test_an_answer_without_signatures_says_what_to_ask_for():
    with pytest.raises(InvalidRequest, match="metadata_field 'signature_def'"):
        signatures_from_metadata(tfs_pb2.GetModelMetadataResponse())


def test_a_broken_answer_is_an_error():
    answer = metadata_proto("m", 3, HALF_PLUS_TWO)
    answer.metadata["signature_def"].value = b"\x0a\xff"
    with pytest.raises(InvalidRequest, match="SignatureDefMap cannot be read"):
        signatures_from_metadata(answer)


def test_a_dtype_that_we_do_not_carry_is_named():
    proto = signature_to_proto(HALF_PLUS_TWO["serving_default"])
    proto.inputs["x"].dtype = tfs_pb2.DT_QINT8
    with pytest.raises(Unimplemented, match="DT_QINT8"):
        signature_from_proto(proto)


@pytest.mark.parametrize(
    ("has_spec", "fields", "words"),
    [
        (False, ["signature_def"], "Missing ModelSpec"),
        (True, [], "GetModelMetadataRequest must specify at least one metadata_field"),
        (True, ["signature_def", "x"], "Metadata field x is not supported"),
    ],
)
def test_a_wrong_request_has_the_original_words(has_spec, fields, words):
    request = tfs_pb2.GetModelMetadataRequest(metadata_field=fields)
    if has_spec:
        request.model_spec.name = "m"
    with pytest.raises(InvalidRequest) as caught:
        check_metadata_request(request)
    assert caught.value.message == words


def test_a_right_request_passes():
    request = tfs_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "m"
    check_metadata_request(request)
