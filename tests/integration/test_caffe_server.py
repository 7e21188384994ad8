"""`python -m servers.caffe` over REST and gRPC, with a tiny network."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest

from gateway.codecs import tfs_metadata, tfs_tensors
from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from tests.parts import tiny_caffe
from tests.parts.kit_server import reload_request
from tests.parts.server_process import process, until

pytestmark = [pytest.mark.caffe, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    tiny_caffe.opencv()
    folder = tmp_path_factory.mktemp("caffe")
    tiny_caffe.scale_model(folder / "scale" / "1")
    tiny_caffe.scale_model(folder / "scale" / "2", bias=100.0)
    args = ["--engine", "opencv", "--batch-delay-ms", "20"]
    with process("servers.caffe", *args, ready=folder / "ready.json") as (_, said):
        yield {**said, "folder": folder}


@pytest.fixture(scope="module")
def call(server):
    with grpc.insecure_channel(server["grpc"]) as channel:

        def made(method, request):
            return channel.unary_unary(method.path)(request.SerializeToString(), timeout=20)

        yield made


def post(server, path, body):
    request = urllib.request.Request(f"http://{server['http']}{path}", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def tell(server, call, *versions):
    path = str(server["folder"] / "scale")
    call(Method.HANDLE_RELOAD_CONFIG, reload_request(scale=(path, versions)))


def states(call):
    request = tfs_pb2.GetModelStatusRequest()
    request.model_spec.name = "scale"
    answer = tfs_pb2.GetModelStatusResponse.FromString(call(Method.GET_MODEL_STATUS, request))
    return {s.version: s.state for s in answer.model_version_status}


def test_predict_over_both_protocols_and_swap(server, call):
    tell(server, call, 1)
    body = {"instances": [[1, 1, 1, 1], [0, 0, 0, 2]]}
    assert post(server, "/v1/models/scale:predict", body) == (
        200,
        {"predictions": [[4.0, 8.0], [2.0, 4.0]]},
    )
    tell(server, call, 1, 2)
    until(lambda: states(call) == {1: 30, 2: 30})
    request = tfs_pb2.PredictRequest()
    request.model_spec.name = "scale"
    request.inputs["data"].CopyFrom(tfs_tensors.to_proto(np.ones((1, 4), np.float32)))
    answer = tfs_pb2.PredictResponse.FromString(call(Method.PREDICT, request))
    assert answer.model_spec.version.value == 2
    np.testing.assert_array_equal(tfs_tensors.to_array(answer.outputs["out"]), [[104, 108]])
    tell(server, call, 2)
    until(lambda: states(call)[1] == 50)


def test_metadata_names_blobs_and_a_free_batch(server, call):
    tell(server, call, 2)
    request = tfs_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "scale"
    answer = tfs_pb2.GetModelMetadataResponse.FromString(call(Method.GET_MODEL_METADATA, request))
    signature = tfs_metadata.signatures_from_metadata(answer)["serving_default"]
    assert signature.inputs["data"].shape == (-1, 4)
    assert signature.outputs["out"].shape == (-1, 2)


def test_a_wrong_shape_is_400(server, call):
    tell(server, call, 2)
    code, answer = post(server, "/v1/models/scale:predict", {"instances": [[1, 2, 3]]})
    assert code == 400
    assert "data" in answer["error"]


def test_a_broken_version_stays_out_and_says_why(server, call):
    tell(server, call, 2)
    folder = tiny_caffe.scale_model(server["folder"] / "scale" / "3")
    (folder / "deploy.prototxt").write_text("layer {")
    tell(server, call, 2, 3)
    until(lambda: states(call).get(3) == 50)
    with urllib.request.urlopen(f"http://{server['http']}/v1/models/scale/versions/3") as answer:
        status = json.load(answer)["model_version_status"][0]["status"]
    assert status["error_code"] == "INVALID_ARGUMENT"
    assert "deploy.prototxt cannot be served: line 1" in status["error_message"]
    body = {"instances": [[0, 0, 0, 0]]}
    assert post(server, "/v1/models/scale:predict", body)[1] == {"predictions": [[100.0, 100.0]]}
