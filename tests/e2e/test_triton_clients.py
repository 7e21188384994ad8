"""tritonclient, unmodified, in its four forms against the gateway with ONNX, TensorFlow and Caffe
backends; answers are compared to the bit with those in TensorFlow Serving's protocol."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from gateway.client import Client
from tests.parts import tiny_tf
from tests.parts.gateway_process import GatewayProcess, gateway_process
from tests.parts.real_models import model_dir
from tests.parts.server_process import process, until
from tests.parts.triton_clients import KINDS, TritonClient, inference_error, triton_client

onnx = pytest.importorskip("onnx")
from tests.parts import tiny_onnx  # noqa: E402 (needs onnx)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.onnx,
    pytest.mark.tensorflow,
    pytest.mark.caffe,
    pytest.mark.models,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # gevent's and tritonclient's own
]

REAL = {"magika": "onnx", "basic_pitch_tf": "tensorflow", "open_nsfw_caffe": "caffe"}
KIND_OF = {
    "texts": onnx.TensorProto.STRING,
    "flags": onnx.TensorProto.BOOL,
    "halves": onnx.TensorProto.FLOAT16,
    "longs": onnx.TensorProto.INT64,
}
InferenceServerException = inference_error()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    root = tmp_path_factory.mktemp("triton")
    sources = {name: model_dir(name) for name in REAL}
    for name, dtype in KIND_OF.items():
        tiny_onnx.identity(root / name / "1", dtype)
        sources[name] = root / name
    for version in (1, 2):
        tiny_onnx.affine(root / "affine" / str(version), version)
    _any_bytes(root / "any_bytes" / "1")
    tiny_onnx.two_in_two_out(root / "two" / "1")
    tiny_onnx.slow(root / "slow" / "1", rounds=200)
    sources |= {name: root / name for name in ("affine", "any_bytes", "two", "slow")}
    with gateway_process(root / "state", "--poll-s", "0.5", "--settle-s", "0") as running:

        def deploy(name: str) -> None:
            more = ("--versions", "latest:2") if name == "affine" else ()
            running.cli("deploy", "model", name, "--source", str(sources[name]), *more)

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(deploy, sources))
        yield running


def _any_bytes(directory: Path) -> None:
    """TensorFlow's identity of strings, which are bytes there."""

    def build(tf: Any) -> dict[str, Any]:
        v1 = tf.compat.v1
        x = v1.placeholder(tf.string, [None, 2], name="x")
        info = v1.saved_model.build_tensor_info
        made = v1.saved_model.build_signature_def(
            {"x": info(x)}, {"y": info(tf.identity(x))}, tiny_tf.PREDICT
        )
        return {"serving_default": made}

    tiny_tf.save(directory, build)


@pytest.fixture(params=KINDS)
def triton(request: pytest.FixtureRequest, gateway: GatewayProcess) -> Iterator[TritonClient]:
    with triton_client(request.param, gateway.http, gateway.grpc) as client:
        yield client


@pytest.fixture(params=["http", "http.aio"])
def triton_http(request: pytest.FixtureRequest, gateway: GatewayProcess) -> Iterator[TritonClient]:
    with triton_client(request.param, gateway.http, gateway.grpc) as client:
        yield client


def _by_tfs(
    gateway: GatewayProcess, model: str, inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    with Client(gateway.grpc) as client:
        return client.predict(model, inputs)


def _zeros_but_some(triton: TritonClient, model: str) -> dict[str, np.ndarray]:
    """Inputs for the model's metadata: one row of small numbers."""
    arrays = {}
    for entry in triton.told("get_model_metadata", model)["inputs"]:
        shape = [max(1, int(size)) for size in entry["shape"]]
        kind = {"FP32": np.float32, "INT32": np.int32}[entry["datatype"]]
        arrays[entry["name"]] = (np.arange(np.prod(shape)) % 200).reshape(shape).astype(kind)
    return arrays


# ---- the server and its models --------------------


def test_the_server_is_live_and_ready(triton: TritonClient) -> None:
    assert triton.call("is_server_live") is True
    assert triton.call("is_server_ready") is True


def test_the_server_tells_its_name_and_extensions(triton: TritonClient) -> None:
    metadata = triton.told("get_server_metadata")
    assert metadata["name"]
    assert metadata["version"]
    assert "statistics" in metadata["extensions"]
    if triton.is_http:
        assert "binary_tensor_data" in metadata["extensions"]


@pytest.mark.parametrize("model", REAL)
def test_models_are_ready_and_describe_themselves(triton: TritonClient, model: str) -> None:
    assert triton.call("is_model_ready", model) is True
    assert triton.call("is_model_ready", model, "1") is True
    assert triton.call("is_model_ready", model, "99") is False
    assert triton.call("is_model_ready", "nobody") is False
    metadata = triton.told("get_model_metadata", model)
    assert metadata["name"] == model
    assert metadata["versions"] == ["1"]
    assert metadata["platform"]
    for entry in metadata["inputs"] + metadata["outputs"]:
        assert entry["datatype"] in ("FP32", "INT32")
        assert entry["name"]
        assert entry["shape"]


def test_every_version_is_listed_and_the_config_names_the_tensors(triton: TritonClient) -> None:
    assert sorted(triton.told("get_model_metadata", "affine")["versions"]) == ["1", "2"]
    config = triton.told("get_model_config", "affine")
    config = config.get("config", config)  # gRPC wraps it
    assert config["name"] == "affine"
    assert [i["name"] for i in config["input"]] == ["x"]
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert [o["name"] for o in config["output"]] == ["y"]


def test_statistics_count_what_was_asked(triton: TritonClient) -> None:
    def counted() -> int:
        told = triton.told("get_inference_statistics", "two", "1")
        (entry,) = told["model_stats"]
        assert (entry["name"], entry["version"]) == ("two", "1")
        success = entry.get("inference_stats", {}).get("success", {})
        return int(success.get("count", 0))

    before = counted()
    one = np.ones((1, 2), np.float32)
    for _ in range(3):
        triton.infer("two", {"a": one, "b": one})
    assert counted() == before + 3
    everything = triton.told("get_inference_statistics")["model_stats"]
    assert {"two", "affine", "magika"} <= {entry["name"] for entry in everything}


def test_the_repository_index_names_every_version(triton: TritonClient) -> None:
    told = triton.told("get_model_repository_index")
    entries = told if triton.is_http else told["models"]
    ready = {(e["name"], e.get("version")) for e in entries if e.get("state") == "READY"}
    assert {("affine", "1"), ("affine", "2"), ("magika", "1")} <= ready


# ---- inference --------------------


@pytest.mark.parametrize("model", REAL)
def test_answers_equal_tensorflow_servings_to_the_bit(
    triton: TritonClient, gateway: GatewayProcess, model: str
) -> None:
    inputs = _zeros_but_some(triton, model)
    answer = triton.infer(model, inputs, request_id="r-1")
    told = answer.get_response()
    if not triton.is_http:
        told = {"id": told.id, "model_name": told.model_name, "model_version": told.model_version}
    assert (told["id"], told["model_name"], told["model_version"]) == ("r-1", model, "1")
    wanted = _by_tfs(gateway, model, inputs)
    for name, array in wanted.items():
        np.testing.assert_array_equal(answer.as_numpy(name), array)
    assert answer.as_numpy("no such output") is None


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_json_and_binary_in_both_directions(
    triton_http: TritonClient, binary_in: bool, binary_out: bool
) -> None:
    x = np.array([[0.1, -0.0, 3e38], [1e-45, 2.5, -7]], np.float32)
    answer = triton_http.infer(
        "affine", {"x": x}, ["y"], binary_in=binary_in, binary_out=binary_out
    )
    (output,) = answer.get_response()["outputs"]
    assert ("data" in output) is not binary_out
    np.testing.assert_array_equal(answer.as_numpy("y"), x * np.float32(2) + np.float32(2))


def test_json_and_binary_mixed_in_one_request(triton_http: TritonClient) -> None:
    a, b = np.array([[1, 2]], np.float32), np.array([[10, 20]], np.float32)
    answer = triton_http.call(
        "infer",
        "two",
        [triton_http.tensor("a", a, binary=True), triton_http.tensor("b", b, binary=False)],
        outputs=[
            triton_http.wanted("difference", binary=True),
            triton_http.wanted("sum", binary=False),
        ],
    )
    np.testing.assert_array_equal(answer.as_numpy("sum"), a + b)
    np.testing.assert_array_equal(answer.as_numpy("difference"), a - b)
    assert "data" not in answer.get_output("difference")
    assert answer.get_output("sum")["data"] == [11.0, 22.0]


@pytest.mark.parametrize("model", ["texts", "any_bytes"])
@pytest.mark.parametrize("binary", [True, False])
def test_strings(triton: TritonClient, model: str, binary: bool) -> None:
    words = [["", "naïve"], ["日本", 'a\tb"c\\']]
    texts = np.array([[w.encode() for w in row] for row in words], dtype=np.object_)
    if model == "any_bytes" and (binary or not triton.is_http):
        # ONNX strings are UTF-8 and so is JSON; TensorFlow's are bytes.
        texts = np.concatenate([texts, np.array([[b"\x00\xff\x00", b"\x00"]], dtype=np.object_)])
    got = triton.infer(model, {"x": texts}, ["y"], binary_in=binary, binary_out=binary)
    rows = got.as_numpy("y")
    plain = [[v.encode() if isinstance(v, str) else bytes(v) for v in row] for row in rows]
    assert plain == texts.tolist()


@pytest.mark.parametrize(
    ("model", "array"),
    [
        ("halves", np.array([[1.5, -0.0], [65504, 6e-8]], np.float16)),
        ("flags", np.array([[True, False], [False, True]])),
        ("longs", np.array([[2**63 - 1, -(2**63)], [0, -1]], np.int64)),
        ("longs", np.zeros((0, 2), np.int64)),
    ],
    ids=["FP16", "BOOL", "INT64", "empty"],
)
def test_types_and_extremes(triton: TritonClient, model: str, array: np.ndarray) -> None:
    got = triton.infer(model, {"x": array}, ["y"]).as_numpy("y")
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    assert got.tobytes() == array.tobytes()


def test_bits_of_nan_survive(triton: TritonClient) -> None:
    payloads = np.array([[0x7FC00001, 0xFFC12345, 0x80000000]], np.uint32).view(np.float32)
    halves = np.array([[0x7E01, 0x8000]], np.uint16).view(np.float16)
    got = triton.infer("halves", {"x": halves}, ["y"]).as_numpy("y")
    assert got.tobytes() == halves.tobytes()
    answer = triton.infer("affine", {"x": payloads}, ["y"]).as_numpy("y")
    assert np.isnan(answer[0, :2]).all()
    assert answer[0, 2] == 2.0


def test_a_version_can_be_named(triton: TritonClient) -> None:
    x = np.ones((1, 3), np.float32)
    for version, wanted in (("1", 3.0), ("2", 4.0), ("", 4.0)):
        answer = triton.infer("affine", {"x": x}, model_version=version)
        assert answer.as_numpy("y")[0, 0] == wanted


def test_one_output_of_two(triton: TritonClient) -> None:
    a = np.ones((1, 2), np.float32)
    answer = triton.infer("two", {"a": a, "b": a}, ["sum"])
    assert answer.as_numpy("sum").tolist() == [[2.0, 2.0]]
    assert answer.as_numpy("difference") is None


def test_the_classification_extension(triton: TritonClient) -> None:
    a, b = np.array([[1, 5]], np.float32), np.zeros((1, 2), np.float32)
    tensors = [triton.tensor("a", a), triton.tensor("b", b)]
    answer = triton.call(
        "infer", "two", tensors, outputs=[triton.wanted("sum", class_count=2)]
    ).as_numpy("sum")
    assert [bytes(v).split(b":")[1] for v in answer.reshape(-1)] == [b"1", b"0"]


@pytest.mark.parametrize("way", ["gzip", "deflate"])
def test_compression(triton: TritonClient, way: str) -> None:
    x = np.zeros((2000, 3), np.float32)
    if triton.is_http:
        how = {"request_compression_algorithm": way, "response_compression_algorithm": way}
    else:
        how = {"compression_algorithm": way}
    answer = triton.infer("affine", {"x": x}, ["y"], **how)
    assert (answer.as_numpy("y") == 2).all()


# ---- streams --------------------


def test_a_stream_answers_each_request_and_survives_an_error(gateway: GatewayProcess) -> None:
    answers: queue.Queue = queue.Queue()
    with triton_client("grpc", gateway.http, gateway.grpc) as triton:
        client = triton.client
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        ones = np.ones((1, 3), np.float32)
        bad = np.ones((1, 2), np.float32)
        got = []
        for n, (model, x) in enumerate([("affine", ones), ("affine", bad), ("nobody", ones)] * 2):
            client.async_stream_infer(model, [triton.tensor("x", x)], request_id=str(n))
            got.append(answers.get(timeout=20))
        client.async_stream_infer("affine", [triton.tensor("x", ones)], request_id="last")
        last, error = answers.get(timeout=20)
        client.stop_stream()
    assert error is None
    assert last.get_response().id == "last"
    assert [e is None for _, e in got] == [True, False, False] * 2
    assert "nobody" in str(got[2][1])
    assert got[3][0].as_numpy("y").tolist() == [[4.0, 4.0, 4.0]]


def test_an_asynchronous_stream(gateway: GatewayProcess) -> None:
    with triton_client("grpc.aio", gateway.http, gateway.grpc) as triton:

        async def requests():
            for n in range(5):
                x = np.full((1, 3), n, np.float32)
                yield {"model_name": "affine", "inputs": [triton.tensor("x", x)]}

        async def collected():
            return [pair async for pair in triton.client.stream_infer(requests())]

        pairs = triton._runner.run(collected())
    assert [e for _, e in pairs] == [None] * 5
    assert sorted(r.as_numpy("y")[0, 0] for r, _ in pairs) == [2.0, 4.0, 6.0, 8.0, 10.0]


# ---- what goes wrong --------------------

_X = np.ones((1, 3), np.float32)


@pytest.mark.parametrize(
    ("model", "inputs", "version", "http", "code", "words"),
    [
        ("nobody", {"x": _X}, "", "404", "NOT_FOUND", "nobody"),
        ("affine", {"x": _X}, "99", "404", "NOT_FOUND", "affine"),
        ("affine", {"x": np.ones((1, 4), np.float32)}, "", "400", "INVALID_ARGUMENT", "x"),
        ("affine", {"x": np.ones((1, 3), np.int32)}, "", "400", "INVALID_ARGUMENT", "x"),
        ("affine", {"wrong": _X}, "", "400", "INVALID_ARGUMENT", "wrong"),
        ("two", {"a": np.ones((1, 2), np.float32)}, "", "400", "INVALID_ARGUMENT", "two"),
    ],
    ids=["model", "version", "shape", "datatype", "name", "missing"],
)
def test_errors(
    triton: TritonClient,
    model: str,
    inputs: dict[str, np.ndarray],
    version: str,
    http: str,
    code: str,
    words: str,
) -> None:
    with pytest.raises(InferenceServerException) as failed:
        triton.infer(model, inputs, model_version=version)
    assert failed.value.status() == (http if triton.is_http else f"StatusCode.{code}")
    assert words in failed.value.message()


def test_an_output_that_is_not_there(triton: TritonClient) -> None:
    with pytest.raises(InferenceServerException) as failed:
        triton.infer("affine", {"x": _X}, ["z"])
    assert failed.value.status() == ("400" if triton.is_http else "StatusCode.INVALID_ARGUMENT")
    assert "z" in failed.value.message()


def test_a_deadline_passes(gateway: GatewayProcess) -> None:
    x = np.zeros((1, 1), np.float32)
    for kind in ("grpc", "grpc.aio"):
        with triton_client(kind, gateway.http, gateway.grpc) as triton:
            with pytest.raises(InferenceServerException) as failed:
                triton.infer("slow", {"x": x}, client_timeout=0.05)
            assert failed.value.status() == str(grpc.StatusCode.DEADLINE_EXCEEDED)


def test_what_makes_no_sense_from_another_host_is_refused_with_a_reason(
    triton: TritonClient,
) -> None:
    with pytest.raises(InferenceServerException) as failed:
        triton.call("register_system_shared_memory", "region", "/key", 64)
    assert failed.value.status() == ("501" if triton.is_http else "StatusCode.UNIMPLEMENTED")
    assert "shared memory" in failed.value.message().lower()


# ---- settings and model control --------------------


def test_trace_and_log_settings_are_told(triton: TritonClient) -> None:
    assert isinstance(triton.told("get_trace_settings"), dict)
    assert isinstance(triton.told("get_log_settings"), dict)


def test_the_gateway_loads_what_is_deployed_and_leaves_unloading_to_its_operators(
    triton: TritonClient,
) -> None:
    triton.call("load_model", "affine")
    with pytest.raises(InferenceServerException) as unknown:
        triton.call("load_model", "nobody")
    assert "failed to load 'nobody'" in unknown.value.message()
    with pytest.raises(InferenceServerException) as refused:
        triton.call("unload_model", "affine")
    assert refused.value.status() == ("400" if triton.is_http else "StatusCode.UNAVAILABLE")
    assert "explicit model load / unload is not allowed" in refused.value.message()
    assert triton.call("is_model_ready", "affine") is True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    root = tmp_path_factory.mktemp("server")
    tiny_onnx.affine(root / "affine" / "1", 1)
    listen = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
    model = ("--model", f"affine={root / 'affine'}")
    with process("servers.onnx", *listen, *model, ready=root / "ready.json") as (_, told):
        yield told


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_by_itself_unloads_and_loads(kind: str, server: dict[str, str]) -> None:
    with triton_client(kind, server["http"], server["grpc"]) as triton:
        until(lambda: triton.call("is_model_ready", "affine"))
        triton.call("unload_model", "affine")
        until(lambda: not triton.call("is_model_ready", "affine"))
        with pytest.raises(InferenceServerException) as gone:
            triton.infer("affine", {"x": _X})
        assert gone.value.status() == ("404" if triton.is_http else "StatusCode.NOT_FOUND")
        triton.call("load_model", "affine")
        assert triton.infer("affine", {"x": _X}).as_numpy("y")[0, 0] == 3.0
        with pytest.raises(InferenceServerException):
            triton.call("load_model", "nobody")
