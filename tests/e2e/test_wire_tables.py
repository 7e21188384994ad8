"""The wire tables, each row once against the gateway and once against a model server directly."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_methods import Method
from tests.parts.gateway_process import gateway_process
from tests.parts.kit_server import reload_request
from tests.parts.server_process import process, until
from tests.parts.wire_tables import TFS, Row
from tests.parts.wire_tables_v2 import KSERVE, V2

pytest.importorskip("onnx")
from tests.parts import wire_models

pytestmark = [pytest.mark.e2e, pytest.mark.onnx, pytest.mark.timeout(180)]


@dataclass(frozen=True, slots=True)
class Side:
    """Where a row is sent."""

    name: str
    http: str
    grpc: str


Models = dict[str, tuple[Path, tuple[int, ...]]]
_ONE_ROW = b'{"instances": [[1, 2, 3]]}'


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return wire_models.write(tmp_path_factory.mktemp("models"))


@contextmanager
def _gateway(models: Models, scratch: Path, *deploy_flags: str) -> Iterator[Side]:
    with gateway_process(scratch / "state", "--poll-s", "0.5", "--settle-s", "0") as running:

        def deploy(name: str) -> None:
            folder, versions = models[name]
            count = ("--versions", f"latest:{len(versions)}")
            running.cli("deploy", "model", name, "--source", str(folder), *count, *deploy_flags)

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(deploy, models))
        for name, labels in wire_models.LABELS.items():
            _put(running.url, f"/api/v1/models/{name}", {"labels": labels})
        labelled = "/v1/models/affine/labels/prod:predict"
        until(lambda: _ask(running.http, "POST", labelled, _ONE_ROW)[0] == 200)
        yield Side("translated" if deploy_flags else "gateway", running.http, running.grpc)


@contextmanager
def _server(models: Models, scratch: Path) -> Iterator[Side]:
    listen = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
    with process("servers.onnx", *listen, ready=scratch / "ready.json") as (_, told):
        wanted = {name: (str(folder), versions) for name, (folder, versions) in models.items()}
        with grpc.insecure_channel(told["grpc"]) as channel:
            reload = channel.unary_unary(Method.HANDLE_RELOAD_CONFIG.path)
            reload(reload_request(**wanted).SerializeToString(), timeout=60)
            labelled = reload_request(**wanted)
            for config in labelled.config.model_config_list.config:
                config.version_labels.update(wire_models.LABELS.get(config.name, {}))
            reload(labelled.SerializeToString(), timeout=60)
        yield Side("server", told["http"], told["grpc"])


@pytest.fixture(scope="module")
def side(
    request: pytest.FixtureRequest, models: Models, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Side]:
    """`gateway` and `server`; a protocol is a gateway whose replicas are asked in that one only."""
    scratch = tmp_path_factory.mktemp("side")
    match request.param:
        case "server":
            opened = _server(models, scratch)
        case "gateway":
            opened = _gateway(models, scratch)
        case protocol:
            opened = _gateway(models, scratch, "--speaks", protocol)
    with opened as made:
        yield made


def on(*sides: str) -> pytest.MarkDecorator:
    """Put a test to these sides."""
    return pytest.mark.parametrize("side", sides, indirect=True, scope="module")


def _put(url: str, path: str, body: object) -> None:
    address = url.removeprefix("http://")
    status, _, text = _ask(address, "PUT", path, json.dumps(body).encode())
    assert status in (200, 201), text


def _ask(
    address: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    host, port = address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request(method, path, body or None, headers or {})
        answer = connection.getresponse()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, named, answer.read()
    finally:
        connection.close()


def _check(row: Row, address: str) -> None:
    method, path = row.line.split(" ")
    status, headers, body = _ask(address, method, path, row.body, dict(row.headers))
    text = body.decode("latin-1")
    assert status == row.status, text[:500]
    for name, value in row.answer_headers.items():
        assert headers.get(name) == value
    if row.is_empty:
        assert body == b""
    if row.error or row.has:
        error = json.loads(body)
        assert list(error) == ["error"]
        assert row.has in error["error"]
        assert row.error in ("", error["error"])
    if row.json is not None:
        assert json.loads(body) == row.json
    if row.holds:
        size = headers.get("inference-header-content-length")
        answer = json.loads(body[: int(size)] if size else body)
        assert {key: answer.get(key) for key in row.holds} == dict(row.holds)
    if row.text:
        assert re.search(row.text, text), text[:500]


@on("gateway", "server", "v2-grpc", "v2-rest")
@pytest.mark.parametrize("row", [pytest.param(r, id=f"tfs-{r.name}") for r in TFS])
def test_tensorflow_serving_rest(row: Row, side: Side) -> None:
    if not (row.is_own and side.name == "translated"):
        _check(row, side.http)


@on("gateway", "server", "tfs-grpc", "v2-grpc")
@pytest.mark.parametrize("row", [pytest.param(r, id=f"v2-{r.name}") for r in V2])
def test_v2_rest(row: Row, side: Side) -> None:
    if not (row.is_own and side.name == "translated"):
        _check(row, side.http)


@on("gateway", "server")
def test_v2_load_of_a_model_that_nobody_knows(side: Side) -> None:
    # A server, whose models these are, says 404; the gateway, whose models are its operators', 400.
    status, _, text = _ask(side.http, "POST", "/v2/repository/models/nobody/load")
    assert status == (404 if side.name == "server" else 400)
    assert "failed to load 'nobody'" in json.loads(text)["error"]


@pytest.fixture(scope="module")
def kserve(models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("kserve")
    flags = ("--v2-flavour", "kserve")
    source = str(models["affine"][0])
    ready = folder / "ready.json"
    server = ("servers.onnx", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
    with (
        gateway_process(folder / "state", *flags, "--settle-s", "0") as running,
        process(*server, *flags, "--model", f"affine={source}", ready=ready) as (_, told),
    ):
        running.cli("deploy", "model", "affine", "--source", source)
        until(lambda: _ask(told["http"], "GET", "/v1/models/affine/versions/2")[0] == 200)
        yield {"gateway": running.http, "server": told["http"]}


@pytest.mark.parametrize("where", ["gateway", "server"])
@pytest.mark.parametrize("row", [pytest.param(r, id=r.name) for r in KSERVE])
def test_kserves_flavour(row: Row, where: str, kserve: dict[str, str]) -> None:
    _check(row, kserve[where])


# ---- gRPC --------------------


@pytest.fixture
def channel(side: Side) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(side.grpc) as opened:
        yield opened


def _tfs(channel: grpc.Channel, method: Method, request, answer):
    return answer.FromString(
        channel.unary_unary(method.path)(request.SerializeToString(), timeout=30)
    )


def _predict(model: str = "affine", **tensors: list[list[float]]) -> tfs_pb2.PredictRequest:
    request = tfs_pb2.PredictRequest()
    request.model_spec.name = model
    for name, rows in tensors.items():
        tensor = request.inputs[name]
        tensor.dtype = tfs_pb2.DT_FLOAT
        for size in np.shape(rows):
            tensor.tensor_shape.dim.add().size = size
        tensor.float_val.extend(np.ravel(rows).tolist())
    return request


@on("gateway", "server", "v2-grpc")
def test_tfs_predict_tells_the_effective_version(channel: grpc.Channel) -> None:
    request = _predict(x=[[1, 2, 3]])
    answer = _tfs(channel, Method.PREDICT, request, tfs_pb2.PredictResponse)
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("affine", 2)
    request.model_spec.version_label = "prod"
    answer = _tfs(channel, Method.PREDICT, request, tfs_pb2.PredictResponse)
    assert answer.model_spec.version.value == 1


def _without_spec() -> tfs_pb2.PredictRequest:
    request = _predict(x=[[1, 2, 3]])
    request.ClearField("model_spec")
    return request


def _filtered() -> tfs_pb2.PredictRequest:
    request = _predict(x=[[1, 2, 3]])
    request.output_filter.append("z")
    return request


def _versioned(version: int) -> tfs_pb2.PredictRequest:
    request = _predict(x=[[1, 2, 3]])
    request.model_spec.version.value = version
    return request


def _metadata(*fields: str) -> tfs_pb2.GetModelMetadataRequest:
    request = tfs_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = "affine"
    return request


_INVALID, _MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("method", "request_", "code", "words"),
    [
        (Method.PREDICT, _without_spec(), _INVALID, "Missing ModelSpec"),
        (
            Method.PREDICT,
            _predict("m", x=[[1]]),
            _MISSING,
            "Servable not found for request: Latest(m)",
        ),
        (Method.PREDICT, _versioned(99), _MISSING, "Specific(affine, 99)"),
        (
            Method.PREDICT,
            _predict(z=[[1]], y=[[1]]),
            _INVALID,
            "input size does not match signature: 2!=1 len({",
        ),
        (Method.PREDICT, _filtered(), _INVALID, "output tensor alias not found in signature: z"),
        (Method.GET_MODEL_METADATA, _metadata(), _INVALID, ""),
        (Method.GET_MODEL_METADATA, _metadata("weights"), _INVALID, "weights"),
        (Method.PREDICT, _predict("m" * 3000), _MISSING, "...TRUNCATED"),
    ],
    ids=["no spec", "model", "version", "inputs", "filter", "no field", "field", "long"],
)
@on("gateway", "server", "v2-grpc")
def test_tfs_grpc_errors(
    side: Side, channel: grpc.Channel, method, request_, code, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary(method.path)(request_.SerializeToString(), timeout=30)
    assert failed.value.code() is code
    # What a replica of the other protocol refuses, it refuses in its own words.
    is_replicas = side.name == "translated" and ("size does" in words or "alias" in words)
    assert is_replicas or words in failed.value.details()
    assert len(failed.value.details()) <= 1024 + len("...TRUNCATED")


def _v2(channel: grpc.Channel, method: OipMethod, **fields):
    request = getattr(oip_pb2, method.request_name)(**fields)
    answer = getattr(oip_pb2, method.request_name.replace("Request", "Response"))
    return answer.FromString(
        channel.unary_unary(method.path)(request.SerializeToString(), timeout=30)
    )


def _infer(model: str = "affine", *, raw: bytes | None = None, **more) -> oip_pb2.ModelInferRequest:
    request = oip_pb2.ModelInferRequest(model_name=model, **more)
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    if raw is None:
        tensor.contents.fp32_contents.extend([1, 2, 3])
    else:
        request.raw_input_contents.append(raw)
    return request


def _sent(channel: grpc.Channel, request: oip_pb2.ModelInferRequest) -> oip_pb2.ModelInferResponse:
    call = channel.unary_unary(OipMethod.MODEL_INFER.path)
    return oip_pb2.ModelInferResponse.FromString(call(request.SerializeToString(), timeout=30))


@on("gateway", "server", "tfs-grpc")
def test_v2_grpc_looks(side: Side, channel: grpc.Channel) -> None:
    assert _v2(channel, OipMethod.SERVER_LIVE).live
    assert _v2(channel, OipMethod.SERVER_READY).ready
    assert _v2(channel, OipMethod.MODEL_READY, name="affine").ready
    assert _v2(channel, OipMethod.MODEL_READY, name="affine", version="1").ready
    assert _v2(channel, OipMethod.SERVER_METADATA).extensions
    about = _v2(channel, OipMethod.MODEL_METADATA, name="affine")
    # A replica that is asked in TensorFlow Serving's protocol tells one version, the one asked.
    assert sorted(about.versions) == (["2"] if side.name == "translated" else ["1", "2"])
    (tensor,) = about.inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("x", "FP32", [-1, 3])
    config = _v2(channel, OipMethod.MODEL_CONFIG, name="affine").config
    assert (config.name, [i.name for i in config.input]) == ("affine", ["x"])
    if side.name != "translated":
        assert _v2(channel, OipMethod.MODEL_STATISTICS, name="affine", version="2").model_stats
    index = _v2(channel, OipMethod.REPOSITORY_INDEX, ready=True).models
    assert {("affine", "1", "READY"), ("affine", "2", "READY")} <= {
        (m.name, m.version, m.state) for m in index
    }


@pytest.mark.parametrize("raw", [None, wire_models.FLOATS.tobytes()], ids=["contents", "raw"])
@on("gateway", "server", "tfs-grpc")
def test_v2_grpc_answers_in_raw_contents(channel: grpc.Channel, raw: bytes | None) -> None:
    answer = _sent(channel, _infer(raw=raw, id="7"))
    assert (answer.model_name, answer.model_version, answer.id) == ("affine", "2", "7")
    assert [(o.name, o.datatype, list(o.shape)) for o in answer.outputs] == [("y", "FP32", [1, 3])]
    assert not answer.outputs[0].HasField("contents")
    assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == [4, 6, 8]
    assert _sent(channel, _infer(raw=raw, model_version="1")).model_version == "1"


@pytest.mark.parametrize(
    ("model", "datatype", "field", "values", "kind"),
    [
        ("ints", "INT32", "int_contents", [-(2**31), 2**31 - 1], "<i4"),
        ("bytes", "UINT8", "uint_contents", [0, 255], "u1"),
        ("flags", "BOOL", "bool_contents", [True, False], "?"),
        ("doubles", "FP64", "fp64_contents", [5e-324, -0.0], "<f8"),
    ],
)
@on("gateway", "server", "tfs-grpc")
def test_v2_grpc_contents_by_datatype(
    channel: grpc.Channel, model: str, datatype: str, field: str, values: list, kind: str
) -> None:
    request = oip_pb2.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[1, 2])
    getattr(tensor.contents, field).extend(values)
    (raw,) = _sent(channel, request).raw_output_contents
    assert raw == np.array(values, kind).tobytes()


@on("gateway", "server", "tfs-grpc")
def test_v2_grpc_half_floats_go_raw(channel: grpc.Channel) -> None:
    request = oip_pb2.ModelInferRequest(model_name="halves")
    request.inputs.add(name="x", datatype="FP16", shape=[1, 2])
    request.raw_input_contents.append(b"\x01\x7e\x00\x80")
    assert _sent(channel, request).raw_output_contents == [b"\x01\x7e\x00\x80"]


def _both() -> oip_pb2.ModelInferRequest:
    request = _infer()
    request.raw_input_contents.append(wire_models.FLOATS.tobytes())
    return request


def _asked(name: str) -> oip_pb2.ModelInferRequest:
    request = _infer()
    request.outputs.add(name=name)
    return request


def _typed(datatype: str, shape: list[int]) -> oip_pb2.ModelInferRequest:
    request = _infer()
    request.inputs[0].datatype = datatype
    request.inputs[0].shape[:] = shape
    return request


_BAD = {
    "model": (_infer("m"), _MISSING, "Request for unknown model: 'm' is not found"),
    "version": (_infer(model_version="99"), _MISSING, "affine"),
    "version is a word": (_infer(model_version="new"), _INVALID, "version"),
    "raw and contents": (_both(), _INVALID, ""),
    "raw too short": (_infer(raw=b"123"), _INVALID, ""),
    "raw of another size": (_infer(raw=b"\0" * 16), _INVALID, ""),
    "no such output": (_asked("z"), _INVALID, "z"),
    "no such datatype": (_typed("FP31", [1, 3]), _INVALID, ""),
    "contents of another datatype": (_typed("INT64", [1, 3]), _INVALID, ""),
    "fewer elements": (_typed("FP32", [2, 3]), _INVALID, ""),
    "negative shape": (_typed("FP32", [-1, 3]), _INVALID, ""),
    "huge shape": (_typed("FP32", [2**40, 2**40]), _INVALID, ""),
}


@pytest.mark.parametrize("name", _BAD)
@on("gateway", "server", "tfs-grpc")
def test_v2_grpc_errors(channel: grpc.Channel, name: str) -> None:
    request, code, words = _BAD[name]
    with pytest.raises(grpc.RpcError) as failed:
        _sent(channel, request)
    assert failed.value.code() is code, failed.value.details()
    assert words in failed.value.details()


@on("gateway", "server", "tfs-grpc")
def test_v2_streams_answer_errors_in_band_unless_asked_otherwise(channel: grpc.Channel) -> None:
    stream = channel.stream_stream(
        OipMethod.MODEL_STREAM_INFER.path,
        oip_pb2.ModelInferRequest.SerializeToString,
        oip_pb2.ModelStreamInferResponse.FromString,
    )
    requests = [_infer(id="1"), _infer("m", id="2"), _infer(id="3")]
    answers = list(stream(iter(requests), timeout=30))
    assert [a.infer_response.id for a in answers if not a.error_message] == ["1", "3"]
    assert [a.error_message for a in answers if a.error_message] == [
        "Request for unknown model: 'm' is not found"
    ]
    strict = stream(iter(requests), timeout=30, metadata=(("triton_grpc_error", "true"),))
    with pytest.raises(grpc.RpcError) as failed:
        list(strict)
    assert failed.value.code() is _MISSING


@on("gateway", "server")
def test_reflection_and_health(channel: grpc.Channel) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
        ProtoReflectionDescriptorDatabase,
    )

    services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert "inference.GRPCInferenceService" in services
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
