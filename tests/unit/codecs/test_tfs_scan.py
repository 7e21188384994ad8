from __future__ import annotations

import pytest

from gateway.codecs import tfs_scan
from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import METHOD_OF_PATH, Method
from gateway.codecs.tfs_scan import SpecFields, pin_version, scan
from gateway.domain.errors import InvalidRequest
from gateway.domain.names import INT64_MAX

REQUESTS = {
    Method.PREDICT: tfs_pb2.PredictRequest,
    Method.CLASSIFY: tfs_pb2.ClassificationRequest,
    Method.REGRESS: tfs_pb2.RegressionRequest,
    Method.GET_MODEL_METADATA: tfs_pb2.GetModelMetadataRequest,
    Method.GET_MODEL_STATUS: tfs_pb2.GetModelStatusRequest,
}


def spec(**fields) -> tfs_pb2.ModelSpec:
    version = fields.pop("version", None)
    made = tfs_pb2.ModelSpec(**fields)
    if version is not None:
        made.version.SetInParent()
        made.version.value = version
    return made


@pytest.mark.parametrize(("method", "kind"), REQUESTS.items(), ids=lambda x: str(x))
def test_every_request_is_read_and_pinned(method, kind):
    body = kind(
        model_spec=spec(name="m", version_label="stable", signature_name="s")
    ).SerializeToString()
    assert scan(method, body) == SpecFields("m", None, "stable", "s")
    pinned = pin_version(method, body, 0)
    assert scan(method, pinned) == SpecFields("m", 0, None, "s")
    assert kind.FromString(pinned).model_spec == spec(name="m", version=0, signature_name="s")


def test_tensor_bytes_are_the_same_before_and_after():
    request = tfs_pb2.PredictRequest(model_spec=spec(name="m"))
    request.inputs["x"].tensor_content = bytes(range(256)) * 100
    body = request.SerializeToString()
    assert pin_version(Method.PREDICT, body, 5).startswith(body)


def test_version_zero_is_a_version():
    body = tfs_pb2.PredictRequest(model_spec=spec(name="m", version=0)).SerializeToString()
    assert scan(Method.PREDICT, body).version == 0


def test_multi_inference_has_every_task_pinned_and_the_rest_untouched():
    request = tfs_pb2.MultiInferenceRequest()
    for name in ("a", "b"):
        task = request.tasks.add(method_name="tensorflow/serving/classify")
        task.model_spec.CopyFrom(spec(name="m", signature_name=name, version_label="stable"))
    request.input.example_list.examples.add()
    pinned = tfs_pb2.MultiInferenceRequest.FromString(
        pin_version(Method.MULTI_INFERENCE, request.SerializeToString(), 300)
    )
    for task in request.tasks:
        task.model_spec.version.value = 300
    assert pinned == request
    assert scan(Method.MULTI_INFERENCE, pinned.SerializeToString()) == SpecFields(
        "m", 300, None, "a"
    )


def test_multi_inference_of_two_models_is_refused():
    request = tfs_pb2.MultiInferenceRequest()
    request.tasks.add().model_spec.name = "a"
    request.tasks.add().model_spec.name = "b"
    with pytest.raises(InvalidRequest, match="must access the same model name"):
        scan(Method.MULTI_INFERENCE, request.SerializeToString())


@pytest.mark.parametrize("method", list(REQUESTS))
def test_no_model_spec_has_the_original_words(method):
    with pytest.raises(InvalidRequest) as caught:
        scan(method, b"")
    assert caught.value.message == "Missing ModelSpec"


@pytest.mark.parametrize("method", list(REQUESTS))
def test_a_model_spec_without_a_name_has_the_original_words(method):
    with pytest.raises(InvalidRequest) as caught:
        scan(method, b"\x0a\x00")
    assert caught.value.message == "ModelSpec has no name specified."


def test_no_tasks_name_no_model():
    with pytest.raises(InvalidRequest, match="no name"):
        scan(Method.MULTI_INFERENCE, b"")


def test_every_cut_of_a_message_is_refused_or_a_message_itself():
    request = tfs_pb2.PredictRequest(model_spec=spec(name="model", version=3))
    request.inputs["x"].float_val.extend([1.0, 2.0])
    body = request.SerializeToString(deterministic=True)
    for end in range(len(body)):
        try:
            found = scan(Method.PREDICT, body[:end])
        except InvalidRequest:
            continue
        assert found == SpecFields("model", 3)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"\x00\x01", "field number 0"),
        (b"\x0a\xff\xff\xff\xff\x0f", "a length beyond the message"),
        (b"\x0e\x00", "wire type 6"),
        (b"\x0f\x00", "wire type 7"),
        (b"\x80" * 11, "a tag of eleven bytes"),
        (b"\x08" + b"\xff" * 11, "a varint of eleven bytes"),
        (b"\x0b\x14", "a group that ends as another"),
        (b"\x0c", "a group that ends and never began"),
        (b"\x0b", "a group that never ends"),
        (b"\x09\x00", "a cut fixed64"),
        (b"\x0a\x03\x0a\x01\xff", "a name that is no UTF-8"),
        (b"\x0b" * 101 + b"\x0c" * 101, "groups nested too deep"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_is_no_protobuf_is_a_bad_message(body, why):
    with pytest.raises(InvalidRequest) as caught:
        scan(Method.PREDICT, body)
    assert caught.value.reason == "bad_message", why


def test_the_walk_is_bounded():
    body = b"\x20\x00" * (tfs_scan.MAX_FIELDS + 1)
    with pytest.raises(InvalidRequest, match=f"more than {tfs_scan.MAX_FIELDS} fields"):
        scan(Method.PREDICT, body)
    inner = b"\x0a\xff\xff\x03" + b"\x20\x00" * 32767 + b"\x20"
    with pytest.raises(InvalidRequest):
        scan(Method.PREDICT, inner)


def test_a_negative_version_is_refused():
    body = tfs_pb2.PredictRequest(model_spec=spec(name="m", version=-1)).SerializeToString()
    with pytest.raises(InvalidRequest) as caught:
        scan(Method.PREDICT, body)
    assert caught.value.reason == "bad_version"


def test_a_reload_names_no_one_model():
    with pytest.raises(ValueError, match="no one model"):
        scan(Method.HANDLE_RELOAD_CONFIG, b"")
    with pytest.raises(ValueError, match="no one model"):
        pin_version(Method.HANDLE_RELOAD_CONFIG, b"", 1)


@pytest.mark.parametrize("version", [-1, INT64_MAX + 1])
def test_only_versions_can_be_pinned(version):
    with pytest.raises(ValueError, match="no version"):
        pin_version(Method.PREDICT, b"", version)


def test_paths_are_those_that_stock_clients_call():
    assert Method.PREDICT.path == "/tensorflow.serving.PredictionService/Predict"
    assert METHOD_OF_PATH["/tensorflow.serving.ModelService/HandleReloadConfigRequest"] is (
        Method.HANDLE_RELOAD_CONFIG
    )
