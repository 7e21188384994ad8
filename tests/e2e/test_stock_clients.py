"""The stubs of tensorflow-serving-api, unchanged, against the gateway and all three backends."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.parts.gateway_process import GatewayProcess, gateway_process
from tests.parts.need import need
from tests.parts.real_models import model_dir

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.tensorflow,
    pytest.mark.caffe,
    pytest.mark.models,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # TensorFlow's own
]

MODELS = {"basic_pitch_tf": "tensorflow", "open_nsfw_caffe": "caffe", "magika": "onnx"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    state = tmp_path_factory.mktemp("stock") / "state"
    with gateway_process(state, "--poll-s", "0.5", "--settle-s", "0") as running:
        for name in MODELS:
            running.cli("deploy", "model", name, "--source", str(model_dir(name)))
        yield running


@pytest.fixture(scope="module")
def apis() -> Any:
    need(
        importlib.util.find_spec("tensorflow_serving") is not None,
        "pip install -e '.[stock-clients]'",
    )
    from types import SimpleNamespace

    from tensorflow import make_ndarray, make_tensor_proto
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_management_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    return SimpleNamespace(
        make_ndarray=make_ndarray,
        make_tensor_proto=make_tensor_proto,
        metadata=get_model_metadata_pb2,
        status=get_model_status_pb2,
        management=model_management_pb2,
        model_service=model_service_pb2_grpc,
        predict=predict_pb2,
        prediction_service=prediction_service_pb2_grpc,
    )


@pytest.fixture(scope="module")
def channel(gateway: GatewayProcess) -> Iterator[grpc.Channel]:
    options = [("grpc.max_receive_message_length", 64 << 20)]
    with grpc.insecure_channel(gateway.grpc, options) as channel:
        yield channel


def _signature(apis: Any, channel: grpc.Channel, name: str) -> Any:
    request = apis.metadata.GetModelMetadataRequest()
    request.model_spec.name = name
    request.metadata_field.append("signature_def")
    stub = apis.prediction_service.PredictionServiceStub(channel)
    answer = stub.GetModelMetadata(request, timeout=30)
    assert answer.model_spec.name == name
    assert answer.model_spec.version.value == 1
    signatures = apis.metadata.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    return signatures.signature_def["serving_default"]


def _inputs(signature: Any) -> dict[str, np.ndarray]:
    arrays = {}
    for alias, info in signature.inputs.items():
        shape = [d.size if d.size > 0 else 1 for d in info.tensor_shape.dim]
        kind = {1: np.float32, 3: np.int32}[info.dtype]
        arrays[alias] = (np.arange(np.prod(shape)) % 200).reshape(shape).astype(kind)
    return arrays


@pytest.mark.parametrize("name", MODELS)
def test_predict(gateway: GatewayProcess, apis: Any, channel: grpc.Channel, name: str) -> None:
    signature = _signature(apis, channel, name)
    request = apis.predict.PredictRequest()
    request.model_spec.name = name
    for alias, array in _inputs(signature).items():
        request.inputs[alias].CopyFrom(apis.make_tensor_proto(array))
    stub = apis.prediction_service.PredictionServiceStub(channel)
    answer = stub.Predict(request, timeout=60)
    assert set(answer.outputs) == set(signature.outputs)
    assert answer.model_spec.version.value == 1
    for tensor in answer.outputs.values():
        array = apis.make_ndarray(tensor)
        assert array.shape[0] == 1
        assert np.isfinite(array).all()


@pytest.mark.parametrize("name", MODELS)
def test_status(gateway: GatewayProcess, apis: Any, channel: grpc.Channel, name: str) -> None:
    request = apis.status.GetModelStatusRequest()
    request.model_spec.name = name
    stub = apis.model_service.ModelServiceStub(channel)
    (status,) = stub.GetModelStatus(request, timeout=30).model_version_status
    assert (status.version, status.state) == (1, apis.status.ModelVersionStatus.AVAILABLE)
    assert status.status.error_code == 0


def test_errors_carry_the_words_of_tensorflow_serving(apis: Any, channel: grpc.Channel) -> None:
    stub = apis.prediction_service.PredictionServiceStub(channel)
    request = apis.predict.PredictRequest()
    request.model_spec.name = "nobody"
    with pytest.raises(grpc.RpcError) as unknown:
        stub.Predict(request, timeout=30)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    assert unknown.value.details() == "Servable not found for request: Latest(nobody)"
    request.model_spec.name = "magika"
    request.model_spec.version.value = 99
    with pytest.raises(grpc.RpcError) as version:
        stub.Predict(request, timeout=30)
    assert version.value.details() == "Servable not found for request: Specific(magika, 99)"
    with pytest.raises(grpc.RpcError) as no_spec:
        stub.Predict(apis.predict.PredictRequest(), timeout=30)
    assert no_spec.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_reload_adds_models_and_removes_its_own(
    gateway: GatewayProcess, apis: Any, channel: grpc.Channel, tmp_path: Path
) -> None:
    from loadtests.models import write_adder

    for name in ("first", "second"):
        write_adder(tmp_path / name / "3", 3.0)
    stub = apis.model_service.ModelServiceStub(channel)

    def reload(*names: str) -> Any:
        request = apis.management.ReloadConfigRequest()
        for name in names:
            config = request.config.model_config_list.config.add()
            config.name = name
            config.base_path = str(tmp_path / name)
            config.model_platform = "onnx"
            config.version_labels["prod"] = 3
        return stub.HandleReloadConfigRequest(request, timeout=60)

    assert reload("first").status.error_code == 0
    assert reload("first", "second").status.error_code == 0
    predict = apis.predict.PredictRequest()
    predict.model_spec.name = "second"
    predict.model_spec.version_label = "prod"
    predict.inputs["x"].CopyFrom(apis.make_tensor_proto(np.array([[1.0]], np.float32)))
    answer = apis.prediction_service.PredictionServiceStub(channel).Predict(predict, timeout=30)
    assert apis.make_ndarray(answer.outputs["y"])[0, 0] == 4.0
    assert answer.model_spec.version.value == 3
    assert reload("second").status.error_code == 0
    names = {m["name"] for m in gateway.get("models") if m["state"] != "deleting"}
    assert "second" in names
    assert "first" not in names
    assert set(MODELS) <= names, "a reload removes nothing that the control API deployed"


def test_reload_with_a_path_that_is_not_there_changes_nothing(
    gateway: GatewayProcess, apis: Any, channel: grpc.Channel, tmp_path: Path
) -> None:
    before = {m["name"] for m in gateway.get("models")}
    request = apis.management.ReloadConfigRequest()
    config = request.config.model_config_list.config.add()
    config.name, config.base_path = "ghost", str(tmp_path / "nothing")
    stub = apis.model_service.ModelServiceStub(channel)
    with pytest.raises(grpc.RpcError):
        stub.HandleReloadConfigRequest(request, timeout=60)
    assert {m["name"] for m in gateway.get("models")} >= before - {"second"}
    assert "ghost" not in {m["name"] for m in gateway.get("models")}
