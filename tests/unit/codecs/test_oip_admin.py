"""Metadata, configuration, statistics and the repository's index, in JSON and in protos."""

from __future__ import annotations

import json

import pytest

from gateway.codecs import oip_admin, oip_stats
from gateway.codecs.oip_admin import IndexEntry, OipConfig
from gateway.codecs.oip_dtypes import config_type, datatype_of, dtype_of, shown_datatype
from gateway.codecs.oip_errors import Flavour
from gateway.codecs.pb import oip_pb2
from gateway.domain.errors import InvalidRequest, Unimplemented
from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.tensors import DType, Signature, TensorSpec

T, K = Flavour.TRITON, Flavour.KSERVE
SIGNATURE = Signature(
    {
        "x": TensorSpec("x", DType.FLOAT, (-1, 3)),
        "s": TensorSpec("s", DType.STRING, (-1,), default=b"\x08\x07"),
    },
    {"y": TensorSpec("y", DType.INT64, None), "c": TensorSpec("c", DType.COMPLEX64, ())},
)


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (oip_admin.live_answer(T, True), 200, b""),
        (oip_admin.live_answer(K, True), 200, b'{"live":true}'),
        (oip_admin.live_answer(K, False), 503, b'{"live":false}'),
        (oip_admin.ready_answer(T, True), 200, b""),
        (oip_admin.ready_answer(T, False), 400, b""),
        (oip_admin.ready_answer(K, True), 200, b'{"ready":true}'),
        (oip_admin.ready_answer(K, False), 503, b'{"error":"Server is not ready."}'),
        (oip_admin.model_ready_answer(T, "m", True), 200, b""),
        (oip_admin.model_ready_answer(T, "m", False), 400, b'{"error":"Model version not ready"}'),
        (oip_admin.model_ready_answer(K, "m", True), 200, b'{"name":"m","ready":true}'),
        (oip_admin.model_ready_answer(K, "m", False), 503,
         b'{"error":"Model with name m is not ready."}'),
    ],
)  # fmt: skip
def test_health(answer, status, body):
    assert answer == (status, body)


def test_server_metadata():
    made = json.loads(oip_admin.server_metadata_json("gateway", "1.0", ("a",)))
    assert made == {"name": "gateway", "version": "1.0", "extensions": ["a"]}
    proto = oip_admin.server_metadata_proto("gateway", "1.0", ("a",))
    assert (proto.name, proto.version, list(proto.extensions)) == ("gateway", "1.0", ["a"])


def test_model_metadata():
    made = json.loads(oip_admin.model_metadata_json("m", [1, 2], "onnxruntime_onnx", SIGNATURE))
    assert made == {
        "name": "m",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "s", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "y", "datatype": "INT64", "shape": [-1]},
            {"name": "c", "datatype": "INVALID", "shape": []},
        ],
    }
    proto = oip_admin.model_metadata_proto("m", [1, 2], "onnxruntime_onnx", SIGNATURE)
    assert [(t.name, t.datatype, list(t.shape)) for t in (*proto.inputs, *proto.outputs)] == [
        (t["name"], t["datatype"], t["shape"]) for t in (*made["inputs"], *made["outputs"])
    ]


def test_configuration():
    config = OipConfig("m", "p", "b", (3,), 8, 0.005, {"k": "v"})
    made = json.loads(oip_admin.config_json(config, SIGNATURE))
    assert made["max_batch_size"] == 8
    assert made["version_policy"] == {"specific": {"versions": [3]}}
    assert made["input"] == [
        {"name": "x", "data_type": "TYPE_FP32", "dims": [3], "optional": False},
        {"name": "s", "data_type": "TYPE_STRING", "dims": [], "optional": True},
    ]
    assert made["dynamic_batching"]["max_queue_delay_microseconds"] == 5000
    assert made["parameters"] == {"k": {"string_value": "v"}}
    proto = oip_admin.config_proto(config, SIGNATURE).config
    assert list(proto.version_policy.specific.versions) == [3]
    assert [list(i.dims) for i in proto.input] == [[3], []]
    plain = json.loads(oip_admin.config_json(OipConfig("m"), SIGNATURE))
    assert plain["version_policy"] == {"latest": {"num_versions": 1}}
    assert plain["input"][0]["dims"] == [-1, 3]


def test_index():
    statuses = {
        "m": [
            VersionStatus(3, VersionState.READY),
            VersionStatus(2, VersionState.FAILED, "broken", 3),
            VersionStatus(1, VersionState.GONE),
        ],
        "n": [],
    }
    entries = oip_admin.index_entries(statuses)
    assert json.loads(oip_admin.repository_index_json(entries)) == [
        {"name": "m", "version": "3", "state": "READY", "reason": ""},
        {"name": "m", "version": "2", "state": "UNAVAILABLE", "reason": "broken"},
        {"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
        {"name": "n", "state": "UNAVAILABLE", "reason": "no versions"},
    ]
    assert oip_admin.index_entries(statuses, only_ready=True) == [IndexEntry("m", 3, "READY")]
    proto = oip_admin.repository_index_proto(entries)
    assert [m.version for m in proto.models] == ["3", "2", "1", ""]


def test_bodies_of_repository_calls():
    assert oip_admin.index_only_ready(b"") is False
    assert oip_admin.index_only_ready(b'{"ready":true}') is True
    with pytest.raises(InvalidRequest, match="Invalid value for 'ready'"):
        oip_admin.index_only_ready(b'{"ready":1}')
    assert oip_admin.control_parameters(b"") == {}
    assert oip_admin.control_parameters(b'{"parameters":{"a":1}}') == {"a": 1}
    with pytest.raises(InvalidRequest, match="Unable to parse 'parameters'"):
        oip_admin.control_parameters(b'{"parameters":[]}')
    assert oip_admin.control_answer(T, "m", "load") == b""
    assert oip_admin.control_answer(K, "m", "unload") == b'{"name":"m","unload":true}'
    assert oip_admin.models_json(["a"]) == b'{"models":["a"]}'


def test_statistics():
    span = oip_stats.Span(2, 10)
    stats = oip_stats.ModelStats(
        "m", 3, 5, 7, 4, oip_stats.InferSpans(success=span), (oip_stats.BatchSpans(8, span),)
    )
    made = json.loads(oip_stats.statistics_json([stats]))["model_stats"][0]
    assert (made["version"], made["inference_count"], made["execution_count"]) == ("3", 7, 4)
    assert made["inference_stats"]["success"] == {"count": 2, "ns": 10}
    assert made["inference_stats"]["cache_miss"] == {"count": 0, "ns": 0}
    assert made["batch_stats"][0]["compute_input"] == {"count": 2, "ns": 10}
    [proto] = oip_stats.statistics_proto([stats]).model_stats
    assert (proto.inference_stats.success.ns, proto.batch_stats[0].batch_size) == (10, 8)
    assert proto.inference_stats.HasField("fail")
    assert span + span == oip_stats.Span(4, 20)


def test_datatypes():
    for dtype in DType:
        if dtype in (DType.COMPLEX64, DType.COMPLEX128):
            assert shown_datatype(dtype) == "INVALID"
            with pytest.raises(Unimplemented, match="no datatype"):
                datatype_of(dtype)
        else:
            assert dtype_of(datatype_of(dtype)) is dtype
            assert oip_pb2.DataType.Name(config_type(dtype)).startswith("TYPE_")
