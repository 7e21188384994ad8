"""Our V2 protos against tritonclient's: every field, and tensors through its own classes."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from gateway.codecs import oip_json, oip_proto
from gateway.codecs.oip_dtypes import DATATYPE
from gateway.codecs.oip_methods import METHOD_OF_PATH, SERVICE, OipMethod
from gateway.codecs.pb import oip_pb2
from gateway.codecs.tfs_tensors import numpy_dtype
from gateway.domain.tensors import DType
from tests.parts.need import need

pytestmark = pytest.mark.filterwarnings("ignore")  # of tritonclient's own imports

HOW = "pip install -e '.[dev]'"

LEFT_OUT = {
    "ModelConfig": {
        "runtime", "batch_input", "batch_output", "optimization", "sequence_batching",
        "ensemble_scheduling", "instance_group", "cc_model_filenames", "metric_tags",
        "model_warmup", "model_operations", "model_repository_agents", "response_cache",
        "model_metrics",
    },
    "ModelInput": {
        "format", "reshape", "is_shape_tensor", "allow_ragged_batch", "is_non_linear_format_io",
    },
    "ModelOutput": {"reshape", "label_filename", "is_shape_tensor", "is_non_linear_format_io"},
    "ModelDynamicBatching": {
        "preserve_ordering", "priority_levels", "default_priority_level", "default_queue_policy",
        "priority_queue_policy",
    },
}  # fmt: skip
"""Fields that the originals have and ours lack on purpose: Triton's own ways to run a model, which
no answer of ours has. They pass through as unknown fields."""


@pytest.fixture(scope="module")
def stock():
    try:
        return importlib.import_module("tritonclient.grpc").service_pb2
    except ImportError:
        need(False, HOW)


@pytest.fixture(scope="module")
def stock_config(stock):
    return importlib.import_module("tritonclient.grpc.model_config_pb2")


def original(name, stock, stock_config):
    for module in (stock, stock_config):
        found = module.DESCRIPTOR.message_types_by_name.get(name)
        if found is not None:
            return found
    raise LookupError(name)


def shape_of(field):
    """What makes two fields the same on the wire and in their users' code."""
    inner = field.message_type or field.enum_type
    return (
        field.number,
        field.type,
        field.is_repeated,
        field.is_packed,
        field.containing_oneof.name if field.containing_oneof else None,
        inner.name if inner else None,
    )


def compare(ours, theirs):
    left_out = LEFT_OUT.get(ours.name, set())
    assert {f.name: shape_of(f) for f in ours.fields} == {
        f.name: shape_of(f) for f in theirs.fields if f.name not in left_out
    }
    for nested in ours.nested_types:
        compare(nested, theirs.nested_types_by_name[nested.name])


@pytest.mark.parametrize("name", sorted(oip_pb2.DESCRIPTOR.message_types_by_name))
def test_every_field_is_the_original_s(name, stock, stock_config):
    compare(oip_pb2.DESCRIPTOR.message_types_by_name[name], original(name, stock, stock_config))


def test_no_message_of_the_service_is_missing(stock):
    assert set(stock.DESCRIPTOR.message_types_by_name) <= set(
        oip_pb2.DESCRIPTOR.message_types_by_name
    )


def test_the_datatypes_of_configurations_are_the_same(stock_config):
    ours = {v.name: v.number for v in oip_pb2.DataType.DESCRIPTOR.values}
    assert ours == {v.name: v.number for v in stock_config.DataType.DESCRIPTOR.values}


def test_every_method_has_its_path_and_messages(stock):
    [service] = stock.DESCRIPTOR.services_by_name.values()
    assert service.full_name == SERVICE
    theirs = {f"/{SERVICE}/{m.name}": m for m in service.methods}
    assert set(theirs) == set(METHOD_OF_PATH)
    for path, method in METHOD_OF_PATH.items():
        assert method.path == path
        assert method.request_name == theirs[path].input_type.name
        assert method.response_name == theirs[path].output_type.name
        assert hasattr(oip_pb2, method.request_name)
        assert hasattr(oip_pb2, method.response_name)
    assert [m for m in OipMethod if m.is_streaming] == [OipMethod.MODEL_STREAM_INFER]


def sample(dtype):
    if dtype is DType.STRING:
        return np.array([[b"a\0b", b""], [b"\xff", "é".encode()]], object)
    return np.array([[0, 1], [1, 0]]).astype(numpy_dtype(dtype))


CARRIED = [d for d in DATATYPE if d is not DType.BFLOAT16]  # tritonclient makes float32 of BF16


@pytest.mark.parametrize("dtype", CARRIED, ids=lambda d: d.label)
def test_the_stock_grpc_client_s_request_is_read(dtype, stock):
    client = importlib.import_module("tritonclient.grpc")
    array = sample(dtype)
    tensor = client.InferInput("x", array.shape, DATATYPE[dtype])
    tensor.set_data_from_numpy(array)
    request = stock.ModelInferRequest(model_name="m", model_version="3", id="i")
    request.inputs.extend([tensor._get_tensor()])
    request.raw_input_contents.extend([tensor._get_content()])
    infer = oip_proto.decode_infer_bytes(request.SerializeToString())
    assert (infer.model, infer.version, infer.id) == ("m", "3", "i")
    assert infer.inputs["x"].dtype == array.dtype
    assert infer.inputs["x"].tolist() == array.tolist()


@pytest.mark.parametrize("dtype", CARRIED, ids=lambda d: d.label)
def test_the_stock_grpc_client_reads_the_answer(dtype, stock):
    client = importlib.import_module("tritonclient.grpc")
    array = sample(dtype)
    for made in (
        oip_proto.encode_infer_bytes("m", 3, "i", {"y": array}),
        oip_proto.encode_infer_proto("m", 3, "i", {"y": array}).SerializeToString(),
    ):
        answer = stock.ModelInferResponse.FromString(made)
        assert (answer.model_name, answer.model_version, answer.id) == ("m", "3", "i")
        assert client.InferResult(answer).as_numpy("y").tolist() == array.tolist()


@pytest.mark.parametrize("as_bytes", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("dtype", CARRIED, ids=lambda d: d.label)
def test_the_stock_http_client_is_understood_and_understands(dtype, as_bytes):
    need(importlib.util.find_spec("tritonclient.http") is not None, HOW)
    client = importlib.import_module("tritonclient.http")
    array = sample(dtype)
    if not as_bytes and (dtype is DType.HALF or dtype is DType.STRING):
        # FP16 has no JSON form; of BYTES the client's JSON takes UTF-8 only.
        array = sample(DType.FLOAT)
        dtype = DType.FLOAT
    tensor = client.InferInput("x", array.shape, DATATYPE[dtype])
    tensor.set_data_from_numpy(array, binary_data=as_bytes)
    body, length = client.InferenceServerClient.generate_request_body(
        [tensor], outputs=[client.InferRequestedOutput("y", binary_data=as_bytes)], request_id="i"
    )
    infer = oip_json.decode_infer(bytes(body), length)
    assert infer.id == "i"
    assert infer.inputs["x"].dtype == array.dtype
    assert infer.inputs["x"].tolist() == array.tolist()
    assert [(o.name, o.binary) for o in infer.outputs] == [("y", as_bytes)]

    json_length, answer = oip_json.encode_infer("m", 3, infer.id, {"y": array}, infer)
    assert (json_length is not None) == as_bytes
    result = client.InferenceServerClient.parse_response_body(answer, header_length=json_length)
    assert result.get_response()["model_version"] == "3"
    assert result.as_numpy("y").tolist() == array.tolist()
