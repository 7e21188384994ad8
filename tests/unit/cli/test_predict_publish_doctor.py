"""`predict`, `publish` and `doctor`: the commands that do more than ask the control API."""

from __future__ import annotations

import json
import os
import resource
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import click
import grpc
import numpy as np
import pytest

from gateway import config
from gateway.cli import checks
from gateway.cli.predict import Body, address_of, request_body
from gateway.cli.root import run
from gateway.cli.session import Session
from gateway.codecs import oip_admin, oip_proto, tfs_metadata, tfs_tensors
from gateway.codecs.oip_methods import OipMethod
from gateway.codecs.pb import oip_pb2, tfs_pb2
from gateway.codecs.tfs_methods import Method
from gateway.domain.errors import Unavailable
from gateway.domain.tensors import DType, Signature, TensorSpec
from tests.parts.fake_control_api import model

# ---- predict --------------------


def test_a_body_goes_as_it_was_typed(tmp_path: Path) -> None:
    typed = '{"instances":  [[1, NaN]], "extra": 1}'
    file = tmp_path / "request.json"
    file.write_text(typed)
    for data in (typed, f"@{file}"):
        assert request_body(data, None) == Body(typed.encode(), False, None)
    assert request_body(" [1, 2] ", None).text == b'{"instances":[1, 2]}'


def test_v2s_body_is_told_from_tensorflow_servings() -> None:
    v2 = '{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}'
    assert request_body(v2, None) == Body(v2.encode(), True, None)
    assert request_body(v2, "s") == Body(v2.encode(), True, "s")
    for tfs in ('{"inputs": []}', '{"inputs": [{"b64": "eA=="}]}', '{"instances": [{"name": 1}]}'):
        assert not request_body(tfs, None).is_v2


def test_a_signature_is_written_in() -> None:
    written = json.loads(request_body("[1]", "other").text)
    assert written == {"instances": [1], "signature_name": "other"}
    with pytest.raises(click.UsageError, match="contradicts"):
        request_body('{"instances": [1], "signature_name": "a"}', "b")


def test_deeply_nested_data_is_refused_and_no_crash() -> None:
    with pytest.raises(click.UsageError, match="not JSON"):
        request_body("[" * 100_000, None)


@pytest.mark.parametrize(
    ("control", "said", "asked"),
    [
        ("http://10.0.0.7:8080", "0.0.0.0:8501", "10.0.0.7:8501"),
        ("http://gateway.example:80/", "[::]:8501", "gateway.example:8501"),
        ("http://[fd00::1]:8080", "0.0.0.0:8501", "[fd00::1]:8501"),
        ("http://10.0.0.7:8080", "127.0.0.1:9000", "127.0.0.1:9000"),
    ],
)
def test_a_gateway_on_every_address_is_asked_where_its_control_api_was(
    control: str, said: str, asked: str
) -> None:
    class Told(Session):
        def call(self, work: object) -> object:
            return {"addresses": {"http": said}}

    assert address_of(Told(control, None), "http") == asked


class _Server(grpc.GenericRpcHandler):
    """y = 2 x, over gRPC."""

    signatures = {  # noqa: RUF012
        "serving_default": Signature(
            {"x": TensorSpec("x", DType.FLOAT, (-1, 2))},
            {"y": TensorSpec("y", DType.FLOAT, (-1, 2))},
        )
    }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def answer(body: bytes, context: grpc.ServicerContext) -> bytes:
            if details.method == Method.GET_MODEL_METADATA.path:
                asked = tfs_pb2.GetModelMetadataRequest.FromString(body)
                if asked.model_spec.name != "m":
                    context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request: x")
                told = tfs_metadata.metadata_proto("m", 3, self.signatures)
                return told.SerializeToString()
            if details.method == OipMethod.MODEL_METADATA.path:
                asked_v2 = oip_pb2.ModelMetadataRequest.FromString(body)
                if asked_v2.name != "m":
                    context.abort(grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'x'")
                spec = self.signatures["serving_default"]
                return oip_admin.model_metadata_proto("m", [3], "p", spec).SerializeToString()
            if details.method == OipMethod.MODEL_INFER.path:
                call = oip_proto.decode_infer_bytes(body)
                outputs = {"y": call.inputs["x"] * np.float32(2)}
                return oip_proto.encode_infer_bytes("m", 3, call.id, outputs)
            request = tfs_pb2.PredictRequest.FromString(body)
            response = tfs_pb2.PredictResponse()
            doubled = tfs_tensors.to_array(request.inputs["x"]) * np.float32(2)
            response.outputs["y"].CopyFrom(tfs_tensors.to_proto(doubled, None))
            return response.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def grpc_address():
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((_Server(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.mark.parametrize("protocol", ["tfs-grpc", "v2-grpc"])
def test_grpc_answers_look_like_rest(gateway, api, grpc_address, protocol: str) -> None:
    api.addresses["grpc"] = grpc_address
    ask = ("predict", "m", "--protocol", protocol, "--data")
    ran = gateway(*ask, "[[1.0, 2.5]]")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out) == {"predictions": [[2.0, 5.0]]}
    ran = gateway(*ask, "-", stdin=b'{"inputs": [[1.0, NaN]]}')
    assert ran.out.replace(" ", "").replace("\n", "") == '{"outputs":[[2.0,NaN]]}'
    ran = gateway(*ask, "[[1.0, 2.5]]", "-o", "yaml")
    assert "predictions:" in ran.out
    ran = gateway(*ask, '[["a", "b"]]')
    assert (ran.code, ran.out) == (1, "")
    assert "is not of expected type: float" in ran.err
    ran = gateway("predict", "x", "--protocol", protocol, "--data", "[1]")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(("Error: Servable not found", "Error: Request for unknown model"))


@pytest.mark.parametrize("protocol", ["tfs-grpc", "v2-grpc"])
def test_v2s_body_goes_over_any_protocol(gateway, api, grpc_address, protocol: str) -> None:
    api.addresses["grpc"] = grpc_address
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [[1.0, 2.5]]}
    body = json.dumps({"id": "7", "inputs": [tensor], "outputs": [{"name": "y"}]})
    ran = gateway("predict", "m", "--protocol", protocol, "--data", body)
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out) == {
        "id": "7",
        "model_name": "m",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [2.0, 5.0]}],
    }


def test_a_label_over_v2_is_the_version_that_the_control_api_says(gateway, api) -> None:
    api.models["m"] = model("m", labels={"stable": 3, "old": 2})
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
    ask = ("predict", "m", "--protocol", "v2-rest", "--data", json.dumps({"inputs": [tensor]}))
    gateway(*ask, "--label", "old")
    assert api.asked[-1][:2] == ("POST", "/v2/models/m/versions/2/infer")
    ran = gateway(*ask, "--label", "no")
    assert (ran.code, ran.out) == (1, "")
    assert "Unrecognized servable version label: no. m has: old, stable" in ran.err
    assert gateway("predict", "x", *ask[2:], "--label", "old").code == 1


def test_rest_shows_the_servers_own_words(gateway, api) -> None:
    # The fake has no such route: what matters is whose words are shown, and the exit code.
    ran = gateway("predict", "m", "--data", "[1]")
    assert (ran.code, ran.out) == (1, "")
    assert api.asked[-1] == ("POST", "/v1/models/m:predict", {"instances": [1]})
    gateway("predict", "m", "--version", "7", "--data", '{"inputs": 1}')
    assert api.asked[-1] == ("POST", "/v1/models/m/versions/7:predict", {"inputs": 1})
    v2 = {"inputs": [{"name": "x", "shape": [], "datatype": "FP32", "data": [1]}]}
    gateway("predict", "m", "--version", "7", "--protocol", "v2-rest", "--data", json.dumps(v2))
    assert api.asked[-1] == ("POST", "/v2/models/m/versions/7/infer", v2)
    api.addresses["http"] = None
    assert "name it with --http HOST:PORT" in gateway("predict", "m", "--data", "[1]").err


# ---- publish --------------------


def test_publish_uploads_whole_versions(gateway, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(os.urandom(1000))
    source = tmp_path / "repository" / "resnet"
    ran = gateway("publish", str(folder), str(source))
    assert ran.code == 0, ran.err
    assert f"Version 1 is at {source.as_uri()}/1 (1.0 kB)." in ran.out
    assert f"gateway deploy model NAME --source {source.as_uri()}" in ran.out
    ran = gateway("publish", str(folder), str(source), "--version", "7", "-o", "json")
    told = json.loads(ran.out)
    assert (told["version"], told["uri"], told["total_bytes"]) == (7, f"{source.as_uri()}/7", 1000)
    assert (source / "7" / "_MANIFEST.json").exists()
    (folder / "model.onnx").write_bytes(b"other")
    ran = gateway("publish", str(folder), str(source), "--version", "7")
    assert (ran.code, ran.out) == (1, "")
    assert "7" in ran.err


def test_progress_that_nobody_reads_any_more_stops_no_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(os.urandom(1000))
    read, write = os.pipe()
    os.close(read)
    left = os.fdopen(write, "w")
    with monkeypatch.context() as patched, ThreadPoolExecutor(1) as one:
        patched.setattr("sys.stderr", left)
        arguments = ("publish", str(folder), str(tmp_path / "m"))
        assert one.submit(run, arguments).result() == 0
    assert (tmp_path / "m" / "_VERSIONS.json").exists()
    with pytest.raises(BrokenPipeError):
        left.close()


# ---- doctor --------------------


@pytest.fixture
def settings(tmp_path: Path) -> config.Settings:
    free = []
    for _ in range(3):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            free.append(f"127.0.0.1:{one.getsockname()[1]}")
    return config.Settings(*free, state=str(tmp_path / "state"))


async def test_every_check_finds_something(settings: config.Settings, monkeypatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    findings = await checks.examine(settings, "http://127.0.0.1:1")
    assert {f.check for f in findings} == {
        "python", "uvloop", "backend onnx", "backend tensorflow", "backend caffe",
        "tensorflow_model_server", "gpus", "state directory", "open files", "clock",
        "control api", "port http", "port grpc", "port control", "object storage",
    }  # fmt: skip
    by_name = {f.check: f for f in findings}
    assert by_name["control api"].status == checks.WARNING
    assert by_name["control api"].fix == "gateway serve"
    assert all(f.fix for f in findings if f.status != checks.OK)


async def test_a_taken_port_is_broken_unless_it_is_ours(settings: config.Settings) -> None:
    with socket.socket() as taken:
        taken.bind(config.split_address(settings.http, "--http"))
        taken.listen()
        away = Unavailable("x", reason="control_unreachable")
        found = checks.ports(settings, away)[0]
        assert found.status == checks.BROKEN
        assert "taken by another program" in found.found
        ours = {"addresses": {"http": settings.http, "grpc": None, "control": None}}
        assert checks.ports(settings, ours)[0].status == checks.OK


def test_that_nobody_leads_is_broken_and_who_leads_is_said() -> None:
    role = {"role": "follower", "gateway": "b", "leader": "a", "leader_control": "h:1"}
    role |= {"since": "then", "others": 1}
    (found,) = checks.leadership({"leadership": role})
    assert (found.status, found.found) == (checks.OK, "follows a at h:1 since then; 1 other heard")
    (found,) = checks.leadership({"leadership": role | {"role": "leader", "others": 2}})
    assert (found.status, found.found) == (checks.OK, "leads since then; 2 others heard")
    (found,) = checks.leadership({"leadership": role | {"leader": None}})
    assert (found.status, found.found) == (checks.BROKEN, "nobody leads; 1 other heard")
    assert "store.unanswered" in found.fix
    assert checks.leadership({"leadership": None}) == []
    assert checks.leadership(Unavailable("x", reason="control_unreachable")) == []


async def test_storage_that_does_not_answer_is_broken() -> None:
    found = await checks.storage({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
    assert [f.status for f in found] == [checks.BROKEN]
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        url = f"http://127.0.0.1:{one.getsockname()[1]}"
        assert (await checks.storage({"AWS_ENDPOINT_URL": url}))[0].status == checks.WARNING
        plain = {"AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true"}
        assert (await checks.storage(plain))[0].status == checks.OK


def test_what_cannot_be_written_or_is_far_off_is_broken(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert checks.disk(file / "state").status == checks.BROKEN
    assert checks.disk(tmp_path / "a" / "b").status in (checks.OK, checks.WARNING)
    assert checks.clock(datetime(1970, 1, 1, tzinfo=UTC)).status == checks.BROKEN
    assert checks.clock().status == checks.OK


def test_few_open_files_are_a_warning(monkeypatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1 << 20))
    assert checks.open_files().fix == "ulimit -n 4096"


def test_gpus_without_the_drivers_tools_are_a_warning(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert checks.gpus(tmp_path).status == checks.OK
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    found = checks.gpus(tmp_path)
    assert (found.status, found.found) == (checks.WARNING, "1, without nvidia-smi")


def test_doctor_exits_with_1_when_something_is_broken(gateway, api, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    (tmp_path / "file").write_text("")
    file.write_text(f'state = "{tmp_path}/file/x"\n')
    ran = gateway("doctor", "--serve-config", str(file), "-o", "json")
    assert ran.code == 1
    told = {f["check"]: f for f in json.loads(ran.out)}
    assert told["state directory"]["status"] == "broken"
    assert sorted(told["python"]) == ["check", "fix", "found", "status"]
    assert "broken: state directory" in ran.err
