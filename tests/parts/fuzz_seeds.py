"""Good requests of all four protocols, for models that the fuzz test deploys: what is mutated."""

from __future__ import annotations

import gzip
import json
import struct

import numpy as np

from gateway.codecs import tfs_tensors
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_methods import Method
from tests.parts.fuzzing import Request

ROW = np.array([[1.0, 2.5, -3.0], [0.5, 0.0, 7.0]], np.float32)
WORDS = np.array([[b"a", b""], [b"\x00\xff", "é".encode()]], dtype=np.object_)
_JSON = ("Content-Type", "application/json")
_BINARY = ("Content-Type", "application/octet-stream")


def tfs_rest() -> list[Request]:
    """TensorFlow Serving over HTTP; `affine` takes floats, `texts` strings."""

    def post(path: str, document: object) -> Request:
        return Request("http", path, json.dumps(document).encode(), headers=(_JSON,))

    rows = ROW.tolist()
    packed = Request(
        "http",
        "/v1/models/affine:predict",
        gzip.compress(json.dumps({"instances": rows}).encode()),
        headers=(_JSON, ("Content-Encoding", "gzip")),
    )
    return [
        post("/v1/models/affine:predict", {"instances": rows}),
        post("/v1/models/affine:predict", {"instances": [{"x": row} for row in rows]}),
        post("/v1/models/affine/versions/1:predict", {"inputs": {"x": rows}}),
        post("/v1/models/affine:predict", {"inputs": rows, "signature_name": "serving_default"}),
        post("/v1/models/texts:predict", {"instances": [["a", {"b64": "AP8="}]]}),
        post("/v1/models/affine:classify", {"examples": [{"x": [1.0, 2.0]}], "context": {"c": 1}}),
        post("/v1/models/affine:regress", {"examples": [{"x": 1.0}, {"x": 2.0}]}),
        packed,
        Request("http", "/v1/models/affine", method="GET"),
        Request("http", "/v1/models/affine/versions/1/metadata", method="GET"),
    ]


def tfs_grpc() -> list[Request]:
    """TensorFlow Serving over gRPC."""

    def predict(model: str, name: str, array: np.ndarray) -> tfs_pb2.PredictRequest:
        request = tfs_pb2.PredictRequest()
        request.model_spec.name = model
        request.inputs[name].CopyFrom(tfs_tensors.to_proto(array))
        return request

    spelled = predict("affine", "x", ROW)
    tensor = spelled.inputs["x"]
    tensor.ClearField("tensor_content")
    tensor.float_val.extend(ROW.reshape(-1).tolist())
    spelled.model_spec.version.value = 1
    spelled.output_filter.append("y")
    metadata = tfs_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = "affine"
    status = tfs_pb2.GetModelStatusRequest()
    status.model_spec.name = "affine"
    classify = tfs_pb2.ClassificationRequest()
    classify.model_spec.name = "affine"
    classify.input.example_list.examples.add().features.feature["x"].float_list.value.append(1.0)
    regress = tfs_pb2.RegressionRequest.FromString(classify.SerializeToString())
    multi = tfs_pb2.MultiInferenceRequest(input=classify.input)
    task = multi.tasks.add(method_name="tensorflow/serving/regress")
    task.model_spec.name = "affine"
    return [
        _grpc(Method.PREDICT.path, predict("affine", "x", ROW)),
        _grpc(Method.PREDICT.path, spelled),
        _grpc(Method.PREDICT.path, predict("texts", "x", WORDS)),
        _grpc(Method.GET_MODEL_METADATA.path, metadata),
        _grpc(Method.GET_MODEL_STATUS.path, status),
        _grpc(Method.CLASSIFY.path, classify),
        _grpc(Method.REGRESS.path, regress),
        _grpc(Method.MULTI_INFERENCE.path, multi),
    ]


def v2_rest() -> list[Request]:
    """The Open Inference Protocol over HTTP: JSON, binary, mixed, raw."""
    x = {"name": "x", "datatype": "FP32", "shape": [2, 3]}
    spelled = {"id": "1", "inputs": [{**x, "data": ROW.tolist()}], "outputs": [{"name": "y"}]}
    text = {"name": "x", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "é"]}
    path = "/v2/models/affine/infer"
    binary = json.dumps(
        {
            "inputs": [{**x, "parameters": {"binary_data_size": ROW.nbytes}}],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        }
    ).encode()
    words = b"".join(struct.pack("<I", len(w)) + w for w in WORDS.reshape(-1))
    texts = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "BYTES",
                    "shape": [2, 2],
                    "parameters": {"binary_data_size": len(words)},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    length = "Inference-Header-Content-Length"
    return [
        Request("http", path, json.dumps(spelled).encode(), headers=(_JSON,)),
        Request(
            "http",
            "/v2/models/texts/versions/1/infer",
            json.dumps({"inputs": [text]}).encode(),
            headers=(_JSON,),
        ),
        Request(
            "http", path, binary + ROW.tobytes(), headers=(_BINARY, (length, str(len(binary))))
        ),
        Request(
            "http",
            "/v2/models/texts/infer",
            texts + words,
            headers=(_BINARY, (length, str(len(texts)))),
        ),
        Request("http", path, ROW[:1].tobytes(), headers=(_BINARY, (length, "0"))),
        Request("http", "/v2/models/affine/versions/1", method="GET"),
        Request("http", "/v2/models/affine/config", method="GET"),
        Request("http", "/v2/models/affine/stats", method="GET"),
        Request("http", "/v2/models/affine/ready", method="GET"),
        Request("http", "/v2/repository/index", b'{"ready": true}', headers=(_JSON,)),
        Request("http", "/v2/health/ready", method="GET"),
    ]


def v2_grpc() -> list[Request]:
    """The Open Inference Protocol over gRPC: contents, raw contents, a stream, what is told."""
    spelled = oip_pb2.ModelInferRequest(model_name="affine", id="7", model_version="1")
    tensor = spelled.inputs.add(name="x", datatype="FP32", shape=[2, 3])
    tensor.contents.fp32_contents.extend(ROW.reshape(-1).tolist())
    spelled.outputs.add(name="y").parameters["classification"].int64_param = 1
    raw = oip_pb2.ModelInferRequest(model_name="affine")
    raw.inputs.add(name="x", datatype="FP32", shape=[2, 3])
    raw.raw_input_contents.append(ROW.tobytes())
    texts = oip_pb2.ModelInferRequest(model_name="texts")
    texts.inputs.add(name="x", datatype="BYTES", shape=[2, 2])
    words = b"".join(struct.pack("<I", len(w)) + w for w in WORDS.reshape(-1))
    texts.raw_input_contents.append(words)
    infer = OipMethod.MODEL_INFER.path
    about = oip_pb2.ModelMetadataRequest(name="affine", version="1")
    return [
        _grpc(infer, spelled),
        _grpc(infer, raw),
        _grpc(infer, texts),
        _grpc(OipMethod.MODEL_STREAM_INFER.path, raw, is_stream=True),
        _grpc(OipMethod.MODEL_METADATA.path, about),
        _grpc(OipMethod.MODEL_CONFIG.path, oip_pb2.ModelConfigRequest(name="affine")),
        _grpc(OipMethod.MODEL_READY.path, oip_pb2.ModelReadyRequest(name="affine")),
        _grpc(OipMethod.MODEL_STATISTICS.path, oip_pb2.ModelStatisticsRequest(name="affine")),
        _grpc(OipMethod.REPOSITORY_INDEX.path, oip_pb2.RepositoryIndexRequest(ready=True)),
    ]


def _grpc(path: str, message, *, is_stream: bool = False) -> Request:
    return Request("grpc", path, message.SerializeToString(), is_stream=is_stream)
