"""Our protos against the originals: every field, and tensors through TensorFlow itself."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_metadata import metadata_proto, signatures_from_metadata
from gateway.codecs.tfs_tensors import numpy_dtype, to_array, to_proto
from gateway.domain.tensors import DType, Signature, TensorSpec
from tests.parts.need import need

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.slow,
    # Of TensorFlow's own imports; none is ours to change.
    pytest.mark.filterwarnings("ignore"),
]

MESSAGES = {
    "predict_pb2": ["PredictRequest", "PredictResponse"],
    "classification_pb2": ["ClassificationRequest", "ClassificationResponse"],
    "regression_pb2": ["RegressionRequest", "RegressionResponse"],
    "inference_pb2": ["MultiInferenceRequest", "MultiInferenceResponse"],
    "get_model_metadata_pb2": [
        "GetModelMetadataRequest", "GetModelMetadataResponse", "SignatureDefMap",
    ],
    "get_model_status_pb2": ["GetModelStatusRequest", "GetModelStatusResponse"],
    "model_management_pb2": ["ReloadConfigRequest", "ReloadConfigResponse"],
    "prediction_log_pb2": ["PredictionLog"],
}  # fmt: skip

LEFT_OUT = {
    # Newer than the published stubs; it passes through as an unknown field.
    ("PredictRequest", "request_options"),
}
"""Fields that the originals have and ours lack on purpose, by (message, field)."""


@pytest.fixture(scope="module")
def apis():
    need(
        importlib.util.find_spec("tensorflow_serving") is not None,
        "pip install -e '.[tensorflow,stock-clients]'",
    )
    return {name: importlib.import_module(f"tensorflow_serving.apis.{name}") for name in MESSAGES}


@pytest.fixture(scope="module")
def tf(apis):
    import tensorflow

    return tensorflow


def _differences(ours, theirs, seen):
    """What is not the same, in words; follows messages of ours."""
    if ours.full_name in seen:
        return
    seen.add(ours.full_name)
    by_name = {field.name: field for field in theirs.fields}
    for field in ours.fields:
        other = by_name.get(field.name)
        where = f"{ours.full_name}.{field.name}"
        if other is None:
            yield f"{where} is not in the original"
            continue
        if field.number != other.number:
            yield f"{where} has number {field.number}, the original {other.number}"
        if field.is_repeated != other.is_repeated or field.is_packed != other.is_packed:
            yield f"{where} is repeated or packed otherwise"
        # An enum and an int32 are the same on the wire.
        int_like = {field.TYPE_INT32, field.TYPE_ENUM}
        if field.type != other.type and {field.type, other.type} != int_like:
            yield f"{where} has type {field.type}, the original {other.type}"
        if (field.containing_oneof is None) != (other.containing_oneof is None):
            yield f"{where} is in a oneof in only one of the two"
        if field.enum_type and other.enum_type:
            known = {v.name: v.number for v in other.enum_type.values}
            for value in field.enum_type.values:
                if known.get(value.name) != value.number:
                    yield f"{where}: {value.name} is {value.number}, not {known.get(value.name)}"
        if field.message_type and field.message_type.file.package == "gateway.tfs":
            yield from _differences(field.message_type, other.message_type, seen)


@pytest.mark.parametrize(
    ("module", "name"), [(m, n) for m, names in MESSAGES.items() for n in names]
)
def test_every_field_of_ours_is_the_originals(apis, module, name):
    theirs = getattr(apis[module], name).DESCRIPTOR
    assert list(_differences(getattr(tfs_pb2, name).DESCRIPTOR, theirs, set())) == []


REQUESTS = [
    ("predict_pb2", "PredictRequest"),
    ("classification_pb2", "ClassificationRequest"),
    ("regression_pb2", "RegressionRequest"),
    ("inference_pb2", "MultiInferenceRequest"),
    ("get_model_metadata_pb2", "GetModelMetadataRequest"),
    ("get_model_status_pb2", "GetModelStatusRequest"),
]


@pytest.mark.parametrize(("module", "name"), REQUESTS)
def test_requests_lack_no_field_but_those_named(apis, module, name):
    theirs = getattr(apis[module], name).DESCRIPTOR
    ours = getattr(tfs_pb2, name).DESCRIPTOR
    missing = {f.name for f in theirs.fields} - {f.name for f in ours.fields}
    assert {(name, field) for field in missing} <= LEFT_OUT


def test_a_field_that_we_do_not_know_passes_through(apis):
    theirs = apis["predict_pb2"].PredictRequest()
    theirs.model_spec.name = "m"
    data = theirs.SerializeToString() + b"\xba\x3e\x03abc"  # field 999
    assert tfs_pb2.PredictRequest.FromString(data).SerializeToString() == data


def _sample(dtype: DType):
    if dtype is DType.STRING:
        return np.array([[b"a\0", b"\xff", b""]], object)
    return np.array([[0, 1, 1], [1, 0, 1]]).astype(numpy_dtype(dtype))


@pytest.mark.parametrize("dtype", list(DType), ids=lambda d: d.label)
def test_tensorflow_reads_what_we_write(tf, dtype):
    array = _sample(dtype)
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    back = tf.make_ndarray(TensorProto.FromString(to_proto(array).SerializeToString()))
    assert (back.shape, back.tolist()) == (array.shape, array.tolist())


@pytest.mark.parametrize("dtype", list(DType), ids=lambda d: d.label)
@pytest.mark.parametrize("form", ["content", "values", "same", "empty"])
def test_we_read_what_tensorflow_writes(tf, dtype, form):
    array = _sample(dtype)
    kind = tf.dtypes.as_dtype(dtype.label if dtype is not DType.STRING else "string")
    if form == "same":
        array = np.broadcast_to(array[0, :1], (2, 3))
        made = tf.make_tensor_proto(array[0, :1].tolist(), kind, shape=(2, 3))
    elif form == "empty":
        array = np.zeros((0, 3), array.dtype)
        made = tf.make_tensor_proto(array, kind, shape=(0, 3))
    elif form == "values":
        made = tf.make_tensor_proto(array.tolist(), kind)
    else:
        made = tf.make_tensor_proto(array, kind)
    back = to_array(tfs_pb2.TensorProto.FromString(made.SerializeToString()))
    assert back.dtype == numpy_dtype(dtype)
    assert (back.shape, back.tolist()) == (array.shape, array.tolist())


def test_strings_that_cpp_packed_are_read(tf):
    """Constants in graphs come packed; io.serialize_tensor goes through the same C++ code."""
    array = np.array([b"a", b"", b"x" * 300, b"\xff"], object)
    data = tf.io.serialize_tensor(tf.constant(array)).numpy()
    assert to_array(tfs_pb2.TensorProto.FromString(data)).tolist() == array.tolist()


def test_stock_clients_unpack_our_metadata(apis):
    signature = Signature(
        {"x": TensorSpec("x", DType.FLOAT, (-1, 2), "x:0")},
        {"y": TensorSpec("y", DType.STRING, None, "y:0")},
    )
    data = metadata_proto("m", 3, {"s": signature}).SerializeToString()
    answer = apis["get_model_metadata_pb2"].GetModelMetadataResponse.FromString(data)
    unpacked = apis["get_model_metadata_pb2"].SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(unpacked)
    info = unpacked.signature_def["s"].inputs["x"]
    assert (info.name, info.dtype, [d.size for d in info.tensor_shape.dim]) == ("x:0", 1, [-1, 2])
    back = tfs_pb2.GetModelMetadataResponse.FromString(answer.SerializeToString())
    assert signatures_from_metadata(back) == {"s": signature}


def test_tensorflow_parses_our_examples_with_their_context(tf):
    from gateway.codecs.tfs_json import decode_examples

    call = decode_examples(
        b'{"context":{"c":7},"examples":[{"f":[0.5,1.5]},{"f":[2.5,3.5],"c":8}]}'
    )
    parsed = tf.io.parse_example(
        call.examples,
        {"c": tf.io.FixedLenFeature([], tf.int64), "f": tf.io.FixedLenFeature([2], tf.float32)},
    )
    assert parsed["c"].numpy().tolist() == [7, 8]
    assert parsed["f"].numpy().tolist() == [[0.5, 1.5], [2.5, 3.5]]
