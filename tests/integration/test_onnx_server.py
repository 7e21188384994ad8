"""ONNX models on a real server, compared with onnxruntime called directly."""

from __future__ import annotations

import importlib.util
import json
import os

import grpc
import ml_dtypes
import numpy as np
import pytest

from gateway.codecs import tfs_metadata
from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.domain.models import VersionState
from tests.parts.kit_server import kit
from tests.parts.need import need

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
need(
    all(importlib.util.find_spec(m) for m in ("onnx", "onnxruntime")),
    "pip install -e '.[onnx,dev]'",
)

import onnxruntime as ort  # noqa: E402 - needs the parts checked above
from onnx import TensorProto  # noqa: E402

from servers.onnx.runtime import OnnxRuntime  # noqa: E402
from tests.parts import tiny_onnx  # noqa: E402

pytestmark = [pytest.mark.onnx, pytest.mark.slow]


def direct(folder, inputs):
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


async def test_both_fronts_answer_as_the_framework_does(tmp_path):
    folder = tiny_onnx.affine(tmp_path / "m" / "7", 7)
    x = np.array([[1.5, -2.25, 3e-7], [1e30, 0.1, -0.0]], dtype=np.float32)
    expected = direct(folder, {"x": x})["y"]
    async with kit(OnnxRuntime(), m=str(tmp_path / "m")) as server:
        raw = await server.predict_raw("m", {"x": x})
        assert raw.model_spec.version.value == 7
        assert raw.model_spec.signature_name == "serving_default"
        np.testing.assert_array_equal((await server.predict("m", {"x": x}))["y"], expected)
        status, text = await server.post(
            "/v1/models/m:predict", json.dumps({"instances": x.tolist()})
        )
        assert status == 200
        rows = np.array(json.loads(text)["predictions"], dtype=np.float32)
        np.testing.assert_array_equal(rows, expected)
        status, text = await server.post(
            "/v1/models/m/versions/7:predict", json.dumps({"inputs": x.tolist()})
        )
        columns = np.array(json.loads(text)["outputs"], dtype=np.float32)
        np.testing.assert_array_equal(columns, expected)


TYPES = [
    (TensorProto.BOOL, np.bool_),
    (TensorProto.INT8, np.int8),
    (TensorProto.INT16, np.int16),
    (TensorProto.INT32, np.int32),
    (TensorProto.INT64, np.int64),
    (TensorProto.UINT8, np.uint8),
    (TensorProto.UINT16, np.uint16),
    (TensorProto.UINT32, np.uint32),
    (TensorProto.UINT64, np.uint64),
    (TensorProto.FLOAT16, np.float16),
    (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    (TensorProto.FLOAT, np.float32),
    (TensorProto.DOUBLE, np.float64),
]


@pytest.mark.parametrize(("onnx_type", "dtype"), TYPES, ids=[str(np.dtype(t)) for _, t in TYPES])
async def test_every_tensor_type_passes_unchanged(tmp_path, onnx_type, dtype):
    tiny_onnx.identity(tmp_path / "m" / "1", onnx_type)
    x = np.array([[0, 1], [1, 0], [1, 1]]).astype(dtype)
    if np.dtype(dtype).kind in "iu":
        x[0, 0] = np.iinfo(dtype).max
    elif np.dtype(dtype) != np.bool_:
        x[0, 0] = dtype(1.5)
    async with kit(OnnxRuntime(), m=str(tmp_path / "m")) as server:
        assert server.state("m", 1) is VersionState.READY, server.running.manager.overview()
        y = (await server.predict("m", {"x": x}))["y"]
        assert y.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(y, x)


async def test_strings_pass_and_bytes_that_are_no_text_are_refused(tmp_path):
    tiny_onnx.identity(tmp_path / "m" / "1", TensorProto.STRING, width=None)
    x = np.array([["grüße".encode(), b""]], dtype=object)
    async with kit(OnnxRuntime(), m=str(tmp_path / "m")) as server:
        y = (await server.predict("m", {"x": x}))["y"]
        assert y.tolist() == x.tolist()
        status, text = await server.post("/v1/models/m:predict", '{"instances":[["a","b"]]}')
        assert (status, json.loads(text)) == (200, {"predictions": [["a", "b"]]})
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.predict("m", {"x": np.array([[b"\xff\xfe", b"a"]], dtype=object)})
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "UTF-8" in caught.value.details()


async def test_a_fixed_batch_is_padded_and_split_without_leaking(tmp_path):
    tiny_onnx.affine(tmp_path / "m" / "1", 1, batch=4)
    async with kit(OnnxRuntime(), m=str(tmp_path / "m")) as server:
        for rows in (1, 3, 4, 5, 9):
            x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
            y = (await server.predict("m", {"x": x}))["y"]
            np.testing.assert_array_equal(y, x * 2 + 1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.predict("m", {"x": np.zeros((0, 3), np.float32)})
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_several_inputs_and_outputs_and_the_output_filter(tmp_path):
    tiny_onnx.two_in_two_out(tmp_path / "m" / "1")
    a, b = np.float32([[1, 2]]), np.float32([[10, 20]])
    async with kit(OnnxRuntime(), m=str(tmp_path / "m")) as server:
        answer = await server.predict("m", {"b": b, "a": a}, outputs=("difference",))
        assert {n: v.tolist() for n, v in answer.items()} == {"difference": [[-9, -18]]}
        for bad in (("z",), ("sum", "sum")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.predict("m", {"a": a, "b": b}, outputs=bad)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.predict("m", {"a": a})
        assert caught.value.details() == (
            "input size does not match signature: 1!=2 len({a}) != len({a,b}). "
            "Sent extra: {}. Missing but required: {b}."
        )


async def test_metadata_names_the_graph(tmp_path):
    tiny_onnx.affine(tmp_path / "m" / "3", 3)
    async with kit(OnnxRuntime(), m=str(tmp_path / "m")) as server:
        request = tfs_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = "m"
        answer = tfs_pb2.GetModelMetadataResponse.FromString(
            await server.call(Method.GET_MODEL_METADATA, request)
        )
        assert answer.model_spec.version.value == 3
        signature = tfs_metadata.signatures_from_metadata(answer)["serving_default"]
        assert signature.inputs["x"].shape == (-1, 3)
        assert list(signature.outputs) == ["y"]


async def test_external_data_and_a_file_of_another_name_are_found(tmp_path):
    folder = tiny_onnx.large(tmp_path / "m" / "1", megabytes=4, external=True)
    (folder / "model.onnx").rename(folder / "net.onnx")
    x = np.ones((1, 1024), np.float32)
    async with kit(OnnxRuntime(), m=str(tmp_path / "m")) as server:
        y = (await server.predict("m", {"x": x}))["y"]
        weights = np.fromfile(folder / "weights.bin", np.float32).reshape(1024, -1)
        np.testing.assert_allclose(y, x @ weights, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (tiny_onnx.sequence_output, "only tensors can be served"),
        (tiny_onnx.fails_warmup, "warm-up"),
        (lambda d: (d.mkdir(parents=True), (d / "model.onnx").write_bytes(b"no")), "model.onnx"),
        (lambda d: d.mkdir(parents=True), "must hold model.onnx"),
        (
            lambda d: [tiny_onnx.affine(d, 1), (d / "model.onnx").rename(d / "a.onnx"),
                       tiny_onnx.affine(d, 1), (d / "model.onnx").rename(d / "b.onnx")],
            "a.onnx, b.onnx",
        ),
    ],
    ids=["sequence", "warm-up", "corrupt", "empty", "ambiguous"],
)  # fmt: skip
async def test_a_bad_version_is_kept_out_with_its_reason(tmp_path, make, words):
    tiny_onnx.affine(tmp_path / "m" / "1", 1)
    make(tmp_path / "m" / "2")
    async with kit(OnnxRuntime()) as server:
        await server.reload(m=(str(tmp_path / "m"), (1,)))
        await server.reload(m=(str(tmp_path / "m"), (1, 2)))
        await server.until("m", 2, VersionState.FAILED)
        _, text = await server.get("/v1/models/m/versions/2")
        status = json.loads(text)["model_version_status"][0]
        assert status["state"] == "END"
        assert status["status"]["error_code"] == "INVALID_ARGUMENT"
        assert words in status["status"]["error_message"]
        answer = await server.predict("m", {"x": np.zeros((1, 3), np.float32)})
        assert answer["y"].tolist() == [[1, 1, 1]]


async def test_rows_that_depend_on_each_other_are_not_joined(tmp_path):
    tiny_onnx.row_mean(tmp_path / "m" / "1")
    async with kit(OnnxRuntime(), m=str(tmp_path / "m")) as server:
        batcher = server.running.manager.find("m").batcher
        assert not batcher.is_joining
        assert "depends on the rows beside it" in batcher.not_joining_because
        y = (await server.predict("m", {"x": np.float32([[1, 2], [3, 4]])}))["y"]
        assert y.tolist() == [[-1, -1], [1, 1]]
