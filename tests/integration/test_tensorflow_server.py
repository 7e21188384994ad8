"""`python -m servers.tensorflow` with the stock stubs of tensorflow-serving-api as its client."""

from __future__ import annotations

import importlib
import importlib.util
import json
import urllib.error
import urllib.request
import warnings

import grpc
import numpy as np
import pytest

from tests.parts import tiny_tf
from tests.parts.need import need
from tests.parts.server_process import process, until

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

STOCK = (
    "classification_pb2",
    "get_model_metadata_pb2",
    "get_model_status_pb2",
    "inference_pb2",
    "model_management_pb2",
    "model_service_pb2_grpc",
    "predict_pb2",
    "prediction_service_pb2_grpc",
    "regression_pb2",
)


@pytest.fixture(scope="module")
def stock():
    """The stock client's modules."""
    tiny_tf.tensorflow()
    found = importlib.util.find_spec("tensorflow_serving")
    need(found is not None, "pip install -e '.[tensorflow,stock-clients]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {n: importlib.import_module(f"tensorflow_serving.apis.{n}") for n in STOCK}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow")
    half, mixed = folder / "half", folder / "mixed"
    tiny_tf.half_plus_two(half / "00000123")
    tiny_tf.mixed(mixed / "1")
    args = ["--model", f"half={half}", "--model", f"mixed={mixed}"]
    with process("servers.tensorflow", *args, ready=folder / "ready.json") as (_, said):
        until(lambda: status(said, "half") == "AVAILABLE" == status(said, "mixed"), 60)
        yield {**said, "half": half}


def status(server, model):
    try:
        with urllib.request.urlopen(f"http://{server['http']}/v1/models/{model}") as answer:
            return json.load(answer)["model_version_status"][0]["state"]
    except urllib.error.HTTPError:
        return ""


def post(server, path, body):
    request = urllib.request.Request(f"http://{server['http']}{path}", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(scope="module")
def predictions(stock, server):
    with grpc.insecure_channel(server["grpc"]) as channel:
        yield stock["prediction_service_pb2_grpc"].PredictionServiceStub(channel)


def examples(request, tf, *values):
    for value in values:
        feature = tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
        example = request.input.example_list.examples.add()
        example.features.feature["x"].CopyFrom(feature)


def test_predict(stock, predictions):
    tf = tiny_tf.tensorflow()
    request = stock["predict_pb2"].PredictRequest()
    request.model_spec.name = "half"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0, 2.0, 5.0]))
    answer = predictions.Predict(request, timeout=20)
    np.testing.assert_array_equal(tf.make_ndarray(answer.outputs["y"]), [2.5, 3.0, 4.5])
    assert answer.model_spec.version.value == 123
    assert answer.model_spec.signature_name == "serving_default"


def test_strings(stock, predictions):
    tf = tiny_tf.tensorflow()
    request = stock["predict_pb2"].PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "mixed", "join"
    request.inputs["words"].CopyFrom(tf.make_tensor_proto([["a", "b"], ["c", "d"]]))
    answer = predictions.Predict(request, timeout=20)
    assert tf.make_ndarray(answer.outputs["joined"]).tolist() == [b"a-b", b"c-d"]


def test_an_input_with_a_default_may_be_left_out(stock, predictions):
    tf = tiny_tf.tensorflow()
    request = stock["predict_pb2"].PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "mixed", "scale"
    request.inputs["rows"].CopyFrom(tf.make_tensor_proto([[1.0, 2.0]]))
    answer = predictions.Predict(request, timeout=20)
    np.testing.assert_array_equal(tf.make_ndarray(answer.outputs["scaled"]), [[3.0, 6.0]])


def test_classify_regress_and_both_at_once(stock, predictions):
    tf = tiny_tf.tensorflow()
    classify = stock["classification_pb2"].ClassificationRequest()
    classify.model_spec.name, classify.model_spec.signature_name = "half", "classify_x_to_y"
    examples(classify, tf, 4.0, 6.0)
    found = predictions.Classify(classify, timeout=20).result.classifications
    assert [[(c.label, c.score) for c in one.classes] for one in found] == [
        [("half", 4.0)],
        [("half", 5.0)],
    ]

    regress = stock["regression_pb2"].RegressionRequest()
    regress.model_spec.name, regress.model_spec.signature_name = "half", "regress_x_to_y"
    examples(regress, tf, 4.0, 6.0)
    assert [r.value for r in predictions.Regress(regress, timeout=20).result.regressions] == [4, 5]

    both = stock["inference_pb2"].MultiInferenceRequest()
    for kind in ("classify", "regress"):
        task = both.tasks.add(method_name=f"tensorflow/serving/{kind}")
        task.model_spec.name, task.model_spec.signature_name = "half", f"{kind}_x_to_y"
    examples(both, tf, 4.0)
    results = predictions.MultiInference(both, timeout=20).results
    assert results[0].classification_result.classifications[0].classes[0].score == 4
    assert results[1].regression_result.regressions[0].value == 4


def test_metadata_is_the_models_own_signature_def(stock, server, predictions):
    request = stock["get_model_metadata_pb2"].GetModelMetadataRequest()
    request.model_spec.name = "half"
    request.metadata_field.append("signature_def")
    answer = predictions.GetModelMetadata(request, timeout=20)
    every = stock["get_model_metadata_pb2"].SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(every)
    saved = _saved_model(server["half"] / "00000123")
    assert dict(every.signature_def) == dict(saved.meta_graphs[0].signature_def)


def _saved_model(folder):
    from tensorflow.core.protobuf import saved_model_pb2

    return saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())


def test_rest_predict_classify_and_regress(server):
    assert post(server, "/v1/models/half:predict", {"instances": [1.0, 2.0]}) == (
        200,
        {"predictions": [2.5, 3.0]},
    )
    body = {"signature_name": "classify_x_to_y", "examples": [{"x": 4.0}]}
    assert post(server, "/v1/models/half:classify", body) == (200, {"results": [[["half", 4.0]]]})
    body = {"signature_name": "regress_x_to_y", "examples": [{"x": 4.0}]}
    assert post(server, "/v1/models/half:regress", body) == (200, {"results": [4.0]})


def test_what_the_graph_refuses_is_400(server):
    body = {"signature_name": "self_product", "inputs": [[1.0, 2.0, 3.0]]}
    code, answer = post(server, "/v1/models/mixed:predict", body)
    assert code == 400
    assert "Matrix size-incompatible" in answer["error"]


def test_a_reload_swaps_versions_and_a_corrupt_one_stays_out(stock, server, tmp_path):
    folder = tmp_path / "swap"
    for version, plus in ((1, 1.0), (2, 2.0)):
        tiny_tf.half_plus_two(folder / str(version), plus=plus)
    tiny_tf.half_plus_two(folder / "3")
    (folder / "3" / "saved_model.pb").write_bytes(b"junk" * 100)

    def reload(*versions):
        request = stock["model_management_pb2"].ReloadConfigRequest()
        configs = request.config.model_config_list.config
        half = configs.add(name="half", base_path=str(server["half"]))
        half.model_version_policy.latest.num_versions = 1
        mixed = configs.add(name="mixed", base_path=str(server["half"].parent / "mixed"))
        mixed.model_version_policy.all.SetInParent()
        swap = configs.add(name="swap", base_path=str(folder))
        swap.model_version_policy.specific.versions.extend(versions)
        assert models.HandleReloadConfigRequest(request, timeout=60).status.error_code == 0

    def states():
        request = stock["get_model_status_pb2"].GetModelStatusRequest()
        request.model_spec.name = "swap"
        found = models.GetModelStatus(request, timeout=20).model_version_status
        return {s.version: (s.state, s.status.error_message) for s in found}

    with grpc.insecure_channel(server["grpc"]) as channel:
        models = stock["model_service_pb2_grpc"].ModelServiceStub(channel)
        reload(1)
        assert states()[1] == (30, "")
        assert post(server, "/v1/models/swap:predict", {"instances": [0.0]})[1] == {
            "predictions": [1.0]
        }
        reload(2)
        until(lambda: {v: s for v, (s, _) in states().items()} == {1: 50, 2: 30})
        reload(2, 3)
        until(lambda: 3 in states() and states()[3][0] == 50)
        assert "saved_model.pb cannot be served" in states()[3][1]
        assert post(server, "/v1/models/swap:predict", {"instances": [0.0]})[1] == {
            "predictions": [2.0]
        }
