"""TensorFlow Serving's own client stubs, unchanged, against a model server of the kit."""

from __future__ import annotations

import importlib.util
import os
import warnings

import grpc
import numpy as np
import pytest

from gateway.domain.models import VersionState
from servers.kit.settings import LoadSettings, ServerSettings
from tests.parts.fake_runtime import FakeRuntime, write
from tests.parts.kit_server import kit
from tests.parts.need import need

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


@pytest.fixture(scope="module")
def stubs():
    need(
        importlib.util.find_spec("tensorflow_serving") is not None,
        "pip install -e '.[stock-clients]'",
    )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own, on import
        import tensorflow as tf
        from tensorflow_serving.apis import (
            get_model_metadata_pb2,
            get_model_status_pb2,
            model_management_pb2,
            model_service_pb2_grpc,
            predict_pb2,
            prediction_service_pb2_grpc,
        )
    return {
        "tf": tf,
        "predict": predict_pb2,
        "status": get_model_status_pb2,
        "metadata": get_model_metadata_pb2,
        "management": model_management_pb2,
        "prediction": prediction_service_pb2_grpc.PredictionServiceStub,
        "model": model_service_pb2_grpc.ModelServiceStub,
    }


async def test_predict_metadata_status_and_reload(tmp_path, stubs):
    folder = str(write(write(tmp_path, 1), 2))
    settings = ServerSettings(load=LoadSettings(first_retry_s=0.05, poll_s=0.05))
    async with kit(FakeRuntime(), settings) as server:
        model, prediction = stubs["model"](server.channel), stubs["prediction"](server.channel)

        reload = stubs["management"].ReloadConfigRequest()
        config = reload.config.model_config_list.config.add()
        config.name, config.base_path, config.model_platform = "m", folder, "tensorflow"
        config.model_version_policy.specific.versions.extend([1, 2])
        answer = await model.HandleReloadConfigRequest(reload)
        assert answer.status.error_code == 0
        for version in (1, 2):
            await server.until("m", version, VersionState.READY)
        config.version_labels["stable"] = 1
        await model.HandleReloadConfigRequest(reload)

        asked = stubs["predict"].PredictRequest()
        asked.model_spec.name, asked.model_spec.version_label = "m", "stable"
        asked.inputs["x"].CopyFrom(stubs["tf"].make_tensor_proto(np.float32([[1, 2]])))
        predicted = await prediction.Predict(asked)
        assert predicted.model_spec.version.value == 1
        assert stubs["tf"].make_ndarray(predicted.outputs["y"]).tolist() == [[3, 5]]

        status = stubs["status"].GetModelStatusRequest()
        status.model_spec.name = "m"
        states = await model.GetModelStatus(status)
        available = stubs["status"].ModelVersionStatus.AVAILABLE
        found = [(s.version, s.state) for s in states.model_version_status]
        assert found == [(2, available), (1, available)]

        metadata = stubs["metadata"].GetModelMetadataRequest(metadata_field=["signature_def"])
        metadata.model_spec.name = "m"
        told = await prediction.GetModelMetadata(metadata)
        signatures = stubs["metadata"].SignatureDefMap()
        assert told.metadata["signature_def"].Unpack(signatures)
        assert signatures.signature_def["serving_default"].inputs["x"].dtype == 1

        asked.model_spec.version_label = "canary"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await prediction.Predict(asked)
        assert caught.value.details() == "Unrecognized servable version label: canary"
