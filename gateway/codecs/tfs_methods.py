"""The gRPC methods of TensorFlow Serving, by the paths that its clients call.

Our own protos live under our own package, so no generated service knows these paths; they are
served and called by name. Source: tensorflow_serving/apis/{prediction,model}_service.proto.
"""

from __future__ import annotations

from enum import Enum

_PREDICTION = "/tensorflow.serving.PredictionService/"
_MODEL = "/tensorflow.serving.ModelService/"


class Method(Enum):
    """One gRPC method; `path` is what goes into `:path`."""

    PREDICT = _PREDICTION + "Predict"
    CLASSIFY = _PREDICTION + "Classify"
    REGRESS = _PREDICTION + "Regress"
    MULTI_INFERENCE = _PREDICTION + "MultiInference"
    GET_MODEL_METADATA = _PREDICTION + "GetModelMetadata"
    GET_MODEL_STATUS = _MODEL + "GetModelStatus"
    HANDLE_RELOAD_CONFIG = _MODEL + "HandleReloadConfigRequest"

    @property
    def path(self) -> str:
        """`/tensorflow.serving.PredictionService/Predict`."""
        return self.value


METHOD_OF_PATH: dict[str, Method] = {m.value: m for m in Method}
"""Every method by its path."""
