"""Bad input through the CLI and both fronts: a clear error, exit code 1 or 2, nothing changed."""

from __future__ import annotations

import gzip
import http.client
import json
from pathlib import Path

import grpc
import pytest

from gateway.codecs.pb import tfs_pb2
from loadtests.models import write_adder
from loadtests.traffic import PREDICT
from tests.parts.gateway_process import GatewayProcess

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def served(gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory) -> GatewayProcess:
    source = tmp_path_factory.mktemp("served")
    write_adder(source / "1", 1.0)
    gateway.cli("deploy", "model", "served", "--source", str(source))
    return gateway


def _refused(gateway: GatewayProcess, *args: str, code: int, words: str) -> None:
    before = gateway.get("models")
    done = gateway.cli(*args, check=False)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert [m["name"] for m in gateway.get("models")] == [m["name"] for m in before]


def test_a_source_that_does_not_exist(served: GatewayProcess, tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    _refused(served, "deploy", "model", "m", "--source", missing, code=1, words="nowhere")


def test_a_source_without_a_version(served: GatewayProcess, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    source = str(tmp_path / "empty")
    _refused(served, "deploy", "model", "m", "--source", source, code=1, words="version")


def test_a_version_of_no_known_backend(served: GatewayProcess, tmp_path: Path) -> None:
    (tmp_path / "odd" / "1").mkdir(parents=True)
    (tmp_path / "odd" / "1" / "weights.xyz").write_bytes(b"?")
    source = str(tmp_path / "odd")
    _refused(served, "deploy", "model", "m", "--source", source, code=1, words="model.onnx")


def test_a_name_used_by_another_backend(served: GatewayProcess, tmp_path: Path) -> None:
    (tmp_path / "tf" / "1").mkdir(parents=True)
    (tmp_path / "tf" / "1" / "saved_model.pb").write_bytes(b"?")
    source = str(tmp_path / "tf")
    _refused(served, "deploy", "model", "served", "--source", source, code=1, words="onnx")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--replicas", "-1"], "replicas"),
        (["--versions", "newest"], "latest"),
        (["--memory", "much"], "memory"),
        (["--backend", "torch"], "torch"),
        (["--no-such-option"], "no-such-option"),
    ],
)
def test_wrong_usage_is_code_2(served: GatewayProcess, args: list[str], words: str) -> None:
    _refused(served, "deploy", "model", "m", "--source", "/tmp", *args, code=2, words=words)


def test_no_gateway_at_the_control_address(served: GatewayProcess) -> None:
    done = served.cli("get", "models", "--url", "http://127.0.0.1:9", check=False)
    assert done.returncode == 1
    assert "gateway serve" in done.stderr


def _post(
    gateway: GatewayProcess, path: str, body: bytes, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    host, port = gateway.http.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request("POST", path, body, headers or {})
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, headers, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "JSON Parse error: The document is empty"),
        (b"{nonsense", 400, "JSON Parse error"),
        (b"{}", 400, "Missing 'inputs' or 'instances' key"),
        (b'{"instances": []}', 400, "No values in 'instances' array"),
        (b'{"instances": 3}', 400, "Expecting 'instances' to be an list/array"),
        (b'{"instances": [["a"]]}', 400, "is not of expected type: float"),
        (b'{"instances": [[1.0], [1.0, 2.0]]}', 400, "Expecting tensor size: 1 but got: 2"),
        (b'{"inputs": [[1.0, 2.0], [1.0]]}', 400, "Encountered list at unexpected size"),
        (b'{"instances": [[[[1.0]]]]}', 400, ""),
        (b'{"signature_name": "no", "instances": [[1.0]]}', 400, "Serving signature name"),
        (b'{"signature_name": 3, "instances": [[1.0]]}', 400, "key must be a string value"),
    ],
)
def test_http_errors(served: GatewayProcess, body: bytes, status: int, words: str) -> None:
    got, _, text = _post(served, "/v1/models/served:predict", body)
    assert got == status, text
    error = json.loads(text)
    assert list(error) == ["error"]
    assert words in error["error"]


def test_unknown_models_versions_labels_and_paths(served: GatewayProcess) -> None:
    good = b'{"instances": [[1.0]]}'
    for path, status, words in [
        ("/v1/models/nobody:predict", 404, "Servable not found for request: Latest(nobody)"),
        ("/v1/models/served/versions/9:predict", 404, "Specific(served, 9)"),
        ("/v1/models/served/labels/x:predict", 400, "Unrecognized servable version label: x"),
        ("/v1/models/served:guess", 400, "Malformed request: POST /v1/models/served:guess"),
    ]:
        got, headers, text = _post(served, path, good)
        assert (got, json.loads(text)["error"]) == (status, json.loads(text)["error"])
        assert words in json.loads(text)["error"]
        assert headers["content-type"].startswith("application/json")
    assert _post(served, "/elsewhere", good)[::2] == (404, b"")


def test_labels_versions_and_gzip_reach_the_right_answer(served: GatewayProcess) -> None:
    body = b'{"instances": [[1.0]]}'
    for path in ("/versions/1", "/labels/stable", ""):
        status, headers, text = _post(served, f"/v1/models/served{path}:predict", body)
        assert (status, json.loads(text)) == (200, {"predictions": [[2.0]]})
        assert headers["x-gateway-version"] == "1"
        assert "server-timing" in headers
    packed = {"Content-Encoding": "gzip"}
    status, _, text = _post(served, "/v1/models/served:predict", gzip.compress(body), packed)
    assert (status, json.loads(text)) == (200, {"predictions": [[2.0]]})


def test_a_body_over_the_limit_is_413(served: GatewayProcess) -> None:
    host, port = served.http.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.putrequest("POST", "/v1/models/served:predict")
    connection.putheader("Content-Length", str(10 << 30))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert list(json.loads(answer.read())) == ["error"]
    connection.close()


def _call(gateway: GatewayProcess, body: bytes) -> grpc.RpcError:
    with grpc.insecure_channel(gateway.grpc) as channel:
        with pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary(PREDICT)(body, timeout=10)
        return failed.value


def test_truncated_and_nonsense_protobuf(served: GatewayProcess) -> None:
    request = tfs_pb2.PredictRequest()
    request.model_spec.name = "served"
    request.inputs["x"].dtype = tfs_pb2.DT_FLOAT
    whole = request.SerializeToString()
    for body in (whole[:-3], b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x0f"):
        assert _call(served, body).code() is grpc.StatusCode.INVALID_ARGUMENT


def test_grpc_inputs_that_do_not_fit_the_signature(served: GatewayProcess) -> None:
    request = tfs_pb2.PredictRequest()
    request.model_spec.name = "served"
    failed = _call(served, request.SerializeToString())
    assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "input size does not match signature: 0!=1" in failed.details()
    request.inputs["x"].dtype = tfs_pb2.DT_INT32
    request.inputs["x"].tensor_shape.dim.add().size = 1
    request.inputs["x"].tensor_shape.dim.add().size = 1
    request.inputs["x"].int_val.append(1)
    failed = _call(served, request.SerializeToString())
    assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_deadline_that_passed_is_504(served: GatewayProcess) -> None:
    status, headers, text = _post(
        served,
        "/v1/models/served:predict",
        b'{"instances": [[1.0]]}',
        {"x-request-timeout-ms": "0"},
    )
    assert status == 504, text
    assert headers["x-gateway-reason"] in ("connect", "queue", "call")
