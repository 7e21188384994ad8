"""tritonclient, unmodified and in its four forms, against a model server of the kit itself."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.parts.server_process import process, until
from tests.parts.triton_clients import KINDS, TritonClient, inference_error, triton_client

onnx = pytest.importorskip("onnx")
from tests.parts import tiny_onnx  # noqa: E402 (needs onnx)

pytestmark = [
    pytest.mark.onnx,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # gevent's and tritonclient's own
]

DTYPES = {
    "texts": onnx.TensorProto.STRING,
    "flags": onnx.TensorProto.BOOL,
    "halves": onnx.TensorProto.FLOAT16,
    "longs": onnx.TensorProto.INT64,
    "bytes": onnx.TensorProto.UINT8,
}
ONES = np.ones((1, 3), np.float32)
InferenceServerException = inference_error()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    root = tmp_path_factory.mktemp("oip")
    for name, dtype in DTYPES.items():
        tiny_onnx.identity(root / name / "1", dtype)
    tiny_onnx.affine(root / "affine" / "3", 3)
    tiny_onnx.affine(root / "spare" / "1", 1)
    tiny_onnx.affine(root / "broken" / "1", 1)
    tiny_onnx.two_in_two_out(root / "two" / "1")
    tiny_onnx.row_mean(root / "whole" / "1")
    (root / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    names = [*DTYPES, "affine", "spare", "two", "whole"]
    flags = [flag for name in [*names, "broken"] for flag in ("--model", f"{name}={root / name}")]
    with process(
        "servers.onnx", "--cache-dir", root / "cache", *flags, ready=root / "ready.json"
    ) as (_, said):
        assert said["speaks"] == ["tfs-rest", "tfs-grpc", "v2-rest", "v2-grpc"]
        with triton_client("grpc", said["http"], said["grpc"]) as client:
            until(lambda: all(client.call("is_model_ready", name) for name in names), 60)
        yield said["http"], said["grpc"], root


@pytest.fixture(params=KINDS)
def triton(request: pytest.FixtureRequest, server) -> Iterator[TritonClient]:
    with triton_client(request.param, server[0], server[1]) as client:
        yield client


@pytest.fixture(params=["http", "http.aio"])
def triton_http(request: pytest.FixtureRequest, server) -> Iterator[TritonClient]:
    with triton_client(request.param, server[0], server[1]) as client:
        yield client


def test_health_and_metadata(triton: TritonClient) -> None:
    assert triton.call("is_server_live") is True
    assert triton.call("is_server_ready") is False  # `broken` has no version that answers
    assert triton.call("is_model_ready", "affine") is True
    assert triton.call("is_model_ready", "affine", "3") is True
    for name, version in (("affine", "4"), ("nobody", ""), ("broken", "")):
        assert triton.call("is_model_ready", name, version) is False
    told = triton.told("get_server_metadata")
    assert told["name"] == "model-gateway"
    assert {"binary_tensor_data", "statistics", "logging"} <= set(told["extensions"])
    told = triton.told("get_model_metadata", "two")
    assert told["name"] == "two"
    assert told["versions"] == ["1"]
    assert told["platform"] == "onnxruntime_onnx"
    assert [(i["name"], i["datatype"]) for i in told["inputs"]] == [("a", "FP32"), ("b", "FP32")]
    assert [list(map(int, o["shape"])) for o in told["outputs"]] == [[-1, 2], [-1, 2]]


def test_config(triton: TritonClient) -> None:
    told = triton.told("get_model_config", "affine")
    told = told.get("config", told)
    assert told["name"] == "affine"
    assert told["backend"] == "onnxruntime"
    assert told["max_batch_size"] == 32
    assert [list(map(int, i["dims"])) for i in told["input"]] == [[3]]
    whole = triton.told("get_model_config", "whole", "1")
    whole = whole.get("config", whole)
    assert whole.get("max_batch_size", 0) == 0
    assert [list(map(int, i["dims"])) for i in whole["input"]] == [[-1, 2]]
    assert "not_joining_because" in whole["parameters"]


def test_statistics_count_requests_rows_and_runs(triton: TritonClient) -> None:
    def told() -> dict:
        (entry,) = triton.told("get_inference_statistics", "whole", "1")["model_stats"]
        return entry

    def count(entry: dict, name: str) -> tuple[int, int]:
        span = entry["inference_stats"].get(name, {})
        return int(span.get("count", 0)), int(span.get("ns", 0))

    before = told()
    for rows in (1, 5, 5):
        triton.infer("whole", {"x": np.zeros((rows, 2), np.float32)})
    after = told()
    assert count(after, "success")[0] == count(before, "success")[0] + 3
    assert int(after["inference_count"]) == int(before.get("inference_count", 0)) + 3  # no rows
    assert int(after["execution_count"]) == int(before.get("execution_count", 0)) + 3
    assert int(after["last_inference"]) > 1_600_000_000_000
    for name in ("queue", "compute_infer", "compute_input", "compute_output"):
        assert count(after, name)[0] == count(after, "success")[0]
    assert count(after, "compute_infer")[1] > count(before, "compute_infer")[1]
    assert count(after, "success")[1] >= count(after, "compute_infer")[1]
    assert sum(int(b["compute_infer"]["count"]) for b in after["batch_stats"]) == int(
        after["execution_count"]
    )
    everything = triton.told("get_inference_statistics")["model_stats"]
    assert {"affine", "two", "whole"} <= {e["name"] for e in everything}
    assert "broken" not in {e["name"] for e in everything}


def test_rows_are_counted(triton: TritonClient) -> None:
    def rows() -> int:
        (entry,) = triton.told("get_inference_statistics", "affine")["model_stats"]
        return int(entry.get("inference_count", 0))

    before = rows()
    triton.infer("affine", {"x": np.zeros((7, 3), np.float32)})
    assert rows() == before + 7


def test_index(triton: TritonClient) -> None:
    told = triton.told("get_model_repository_index")
    entries = told if triton.is_http else told["models"]
    states = {e["name"]: (e.get("version"), e["state"], e.get("reason", "")) for e in entries}
    assert states["affine"] == ("3", "READY", "")
    version, state, reason = states["broken"]
    assert (version, state) == ("1", "UNAVAILABLE")
    assert "model.onnx" in reason


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_json_and_binary(triton_http: TritonClient, binary_in: bool, binary_out: bool) -> None:
    x = np.array([[0.1, -0.0, 3e38], [1e-45, 2.5, -7]], np.float32)
    answer = triton_http.infer(
        "affine", {"x": x}, ["y"], binary_in=binary_in, binary_out=binary_out
    )
    assert ("data" in answer.get_output("y")) is not binary_out
    np.testing.assert_array_equal(answer.as_numpy("y"), x * np.float32(2) + np.float32(3))


def test_mixed_forms_in_one_request(triton_http: TritonClient) -> None:
    a, b = np.array([[1, 2]], np.float32), np.array([[10, 20]], np.float32)
    answer = triton_http.call(
        "infer",
        "two",
        [triton_http.tensor("b", b, binary=False), triton_http.tensor("a", a, binary=True)],
        outputs=[
            triton_http.wanted("difference", binary=True),
            triton_http.wanted("sum", binary=False),
        ],
        request_id="mixed",
    )
    assert answer.get_response()["id"] == "mixed"
    assert [o["name"] for o in answer.get_response()["outputs"]] == ["difference", "sum"]
    np.testing.assert_array_equal(answer.as_numpy("sum"), a + b)
    np.testing.assert_array_equal(answer.as_numpy("difference"), a - b)


@pytest.mark.parametrize(
    ("model", "array"),
    [
        ("halves", np.array([[1.5, -0.0], [65504, 6e-8]], np.float16)),
        ("flags", np.array([[True, False], [False, True]])),
        ("longs", np.array([[2**63 - 1, -(2**63)], [0, -1]], np.int64)),
        ("bytes", np.arange(256, dtype=np.uint8).reshape(128, 2)),
        ("longs", np.zeros((0, 2), np.int64)),
        ("texts", np.array([["\x00ä".encode(), b""], [b'"', b"x" * 70000]], dtype=object)),
    ],
    ids=["FP16", "BOOL", "INT64", "UINT8", "empty", "BYTES"],
)
def test_types(triton: TritonClient, model: str, array: np.ndarray) -> None:
    for wanted in (["y"], []):
        got = triton.infer(model, {"x": array}, wanted).as_numpy("y")
        assert got.shape == array.shape
        assert got.dtype == array.dtype
        assert got.tolist() == array.tolist()


def test_half_floats_have_no_json(triton_http: TritonClient) -> None:
    x = np.ones((1, 2), np.float16)
    with pytest.raises(InferenceServerException, match="FP16"):
        triton_http.infer("halves", {"x": x}, ["y"], binary_out=False)


def test_classification(triton: TritonClient) -> None:
    x = np.array([[1, 3, 2], [5, 4, 5]], np.float32)
    answer = triton.call(
        "infer", "affine", [triton.tensor("x", x)], outputs=[triton.wanted("y", class_count=2)]
    ).as_numpy("y")
    assert answer.tolist() == [
        [b"9.000000:1", b"7.000000:2"],
        [b"13.000000:0", b"13.000000:2"],
    ]


@pytest.mark.parametrize("way", ["gzip", "deflate"])
def test_compression(triton: TritonClient, way: str) -> None:
    x = np.zeros((20000, 3), np.float32)
    if triton.is_http:
        how = {"request_compression_algorithm": way, "response_compression_algorithm": way}
    else:
        how = {"compression_algorithm": way}
    answer = triton.infer("affine", {"x": x}, ["y"], **how)
    assert (answer.as_numpy("y") == 3).all()


@pytest.mark.parametrize(
    ("model", "inputs", "more", "http", "code", "words"),
    [
        ("nobody", {"x": ONES}, {}, "404", "NOT_FOUND", "'nobody' is not found"),
        ("affine", {"x": ONES}, {"model_version": "9"}, "404", "NOT_FOUND", "version 9"),
        ("affine", {"x": ONES}, {"model_version": "x"}, "404", "INVALID_ARGUMENT", ""),
        ("broken", {"x": ONES}, {}, "503", "UNAVAILABLE", "no available versions"),
        (
            "affine",
            {"x": np.ones((1, 4), np.float32)},
            {},
            "400",
            "INVALID_ARGUMENT",
            "unexpected shape for input 'x' for model 'affine'. Expected [-1,3], got [1,4]",
        ),
        (
            "affine",
            {"x": ONES.astype(np.int32)},
            {},
            "400",
            "INVALID_ARGUMENT",
            "inference input 'x' data-type is 'INT32', but model 'affine' expects 'FP32'",
        ),
        (
            "affine",
            {"z": ONES},
            {},
            "400",
            "INVALID_ARGUMENT",
            "unexpected inference input 'z' for model 'affine'",
        ),
        (
            "two",
            {"a": np.ones((1, 2), np.float32)},
            {},
            "400",
            "INVALID_ARGUMENT",
            "expected 2 inputs but got 1 inputs for model 'two'. Got input(s) ['a'], but missing "
            "required input(s) ['b'].",
        ),
        (
            "affine",
            {"x": ONES},
            {"parameters": {"signature_name": "other"}},
            "400",
            "INVALID_ARGUMENT",
            "no signature 'other'",
        ),
    ],
    ids=["model", "version", "no-version", "broken", "shape", "dtype", "name", "missing", "sig"],
)
def test_errors(triton: TritonClient, model, inputs, more, http, code, words) -> None:
    with pytest.raises(InferenceServerException) as failed:
        triton.infer(model, inputs, **more)
    assert failed.value.status() == (http if triton.is_http else f"StatusCode.{code}")
    if not triton.is_http or http != "404" or more == {}:
        assert words in failed.value.message()


def test_an_unknown_output(triton: TritonClient) -> None:
    with pytest.raises(InferenceServerException) as failed:
        triton.infer("affine", {"x": ONES}, ["z"])
    assert "unexpected inference output 'z' for model 'affine'" in failed.value.message()


def test_load_and_unload(triton: TritonClient) -> None:
    triton.call("unload_model", "spare")
    assert not triton.call("is_model_ready", "spare")
    with pytest.raises(InferenceServerException, match="no available versions") as failed:
        triton.infer("spare", {"x": ONES})
    assert failed.value.status() == ("404" if triton.is_http else "StatusCode.NOT_FOUND")
    triton.call("load_model", "spare")
    assert triton.infer("spare", {"x": ONES}).as_numpy("y")[0, 0] == 3.0
    with pytest.raises(InferenceServerException, match="failed to load 'broken'"):
        triton.call("load_model", "broken")
    with pytest.raises(InferenceServerException, match="failed to load 'nobody'"):
        triton.call("load_model", "nobody")
    with pytest.raises(InferenceServerException, match="publish a version") as failed:
        triton.call("load_model", "spare", config="{}")
    assert failed.value.status() == ("501" if triton.is_http else "StatusCode.UNIMPLEMENTED")


def test_settings(triton: TritonClient) -> None:
    traces = triton.told("get_trace_settings")
    assert traces.get("settings", traces)["trace_level"] in (["OFF"], {"value": ["OFF"]})
    changed = triton.told(
        "update_trace_settings", model_name="two", settings={"trace_level": ["TIMESTAMPS"]}
    )
    assert "TIMESTAMPS" in str(changed)
    assert "OFF" in str(triton.told("get_trace_settings"))
    assert "OFF" in str(
        triton.told("update_trace_settings", model_name="two", settings={"trace_level": None})
    )
    told = triton.told("update_log_settings", settings={"log_verbose_level": 1})
    assert "1" in str(told.get("settings", told)["log_verbose_level"])
    triton.told("update_log_settings", settings={"log_verbose_level": 0})
    with pytest.raises(InferenceServerException, match="log file location"):
        triton.told("update_log_settings", settings={"log_file": "/tmp/x"})


def test_shared_memory_is_refused_with_a_reason(triton: TritonClient) -> None:
    assert not triton.told("get_system_shared_memory_status")
    assert not triton.told("get_cuda_shared_memory_status")
    for method, args in (
        ("register_system_shared_memory", ("r", "/k", 64)),
        ("register_cuda_shared_memory", ("r", b"aGFuZGxl", 0, 64)),
        ("unregister_system_shared_memory", ("r",)),
    ):
        with pytest.raises(InferenceServerException, match="shared memory") as failed:
            triton.call(method, *args)
        assert failed.value.status() == ("501" if triton.is_http else "StatusCode.UNIMPLEMENTED")


@pytest.mark.parametrize("strict", [False, True])
def test_a_stream(server, strict: bool) -> None:
    answers: queue.Queue = queue.Queue()
    headers = {"triton_grpc_error": "true"} if strict else None
    with triton_client("grpc", server[0], server[1]) as triton:
        triton.client.start_stream(
            callback=lambda result, error: answers.put((result, error)), headers=headers
        )
        for n in range(40):
            x = np.full((1, 3), n, np.float32)
            triton.client.async_stream_infer("affine", [triton.tensor("x", x)], request_id=str(n))
        got = [answers.get(timeout=20) for _ in range(40)]
        assert [r.get_response().id for r, _ in got] == [str(n) for n in range(40)]
        assert [r.as_numpy("y")[0, 0] for r, _ in got] == [2 * n + 3 for n in range(40)]
        assert all(r.get_response().parameters["triton_final_response"].bool_param for r, _ in got)
        triton.client.async_stream_infer("nobody", [triton.tensor("x", ONES)], request_id="n")
        _, error = answers.get(timeout=20)
        assert "'nobody' is not found" in str(error)
        if strict:
            assert error.status() == "StatusCode.NOT_FOUND"
        else:
            triton.client.async_stream_infer("affine", [triton.tensor("x", ONES)])
            result, error = answers.get(timeout=20)
            assert error is None
            assert result.as_numpy("y").tolist() == [[5, 5, 5]]
        triton.client.stop_stream(cancel_requests=strict)


def test_an_asynchronous_stream(server) -> None:
    with triton_client("grpc.aio", server[0], server[1]) as triton:

        async def requests():
            for n in range(5):
                x = np.full((1, 3), n, np.float32)
                yield {"model_name": "affine", "inputs": [triton.tensor("x", x)]}

        async def collected():
            return [pair async for pair in triton.client.stream_infer(requests())]

        pairs = triton._runner.run(collected())
    assert [(r.as_numpy("y")[0, 0], e) for r, e in pairs] == [(2 * n + 3, None) for n in range(5)]
