"""The agent beside a server that stands in for TensorFlow Serving, both as processes.

The stock binary is in no package index; `servers.onnx` speaks the same ModelService and starts in a
second (tests/parts/tensorflow_model_server.py).
"""

from __future__ import annotations

import json
import shutil
import signal
import stat
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import grpc
import numpy as np
import psutil
import pytest

from gateway.codecs import tfs_tensors
from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_methods import Method
from tests.parts import tiny_onnx, tiny_tf
from tests.parts.kit_server import reload_request
from tests.parts.server_process import ROOT, process, until

pytestmark = [pytest.mark.onnx, pytest.mark.slow]

AVAILABLE, END = tfs_pb2.ModelVersionStatus.AVAILABLE, tfs_pb2.ModelVersionStatus.END


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setenv("TFS_STANDIN", "onnx")


class Client:
    def __init__(self, address):
        self.channel = grpc.insecure_channel(
            address, options=[("grpc.max_reconnect_backoff_ms", 200)]
        )

    def call(self, method, request, timeout=20):
        made = self.channel.unary_unary(method.path)
        return made(request.SerializeToString(), timeout=timeout)

    def reload(self, **models):
        self.call(Method.HANDLE_RELOAD_CONFIG, reload_request(**models))

    def states(self, model):
        request = tfs_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        answer = tfs_pb2.GetModelStatusResponse.FromString(
            self.call(Method.GET_MODEL_STATUS, request)
        )
        return {s.version: (s.state, s.status.error_message) for s in answer.model_version_status}

    def predict(self, model, version):
        request = tfs_pb2.PredictRequest()
        request.model_spec.name = model
        request.model_spec.version.value = version
        array = np.ones((1, 3), np.float32)
        request.inputs["x"].CopyFrom(tfs_tensors.to_proto(array))
        answer = tfs_pb2.PredictResponse.FromString(self.call(Method.PREDICT, request))
        return tfs_tensors.to_array(next(iter(answer.outputs.values())))


@pytest.fixture
def source(tmp_path):
    """A repository with versions 1 and 2."""
    folder = tmp_path / "models" / "affine"
    for version in (1, 2):
        tiny_onnx.affine(folder / str(version), version)
    return folder


@pytest.fixture
def tfs(tmp_path):
    with process("servers.onnx", ready=tmp_path / "tfs.json") as (_, said):
        yield said


@pytest.fixture
def agent(tmp_path, tfs):
    shared = tmp_path / "shared"
    args = ["--shared-dir", shared, "--tfs-grpc", tfs["grpc"], "--tfs-http", tfs["http"]]
    args += ["--cache-dir", tmp_path / "cache"]
    with process("servers.agent", *args, ready=tmp_path / "agent.json") as (_, said):
        yield said


def test_versions_are_fetched_placed_loaded_and_removed(tmp_path, source, tfs, agent):
    control, served = Client(agent["control"]), Client(agent["grpc"])
    assert (agent["grpc"], agent["http"]) == (tfs["grpc"], tfs["http"])
    assert agent["speaks"] == ["tfs-rest", "tfs-grpc"]
    control.reload(affine=(source.as_uri(), (1, 2)))
    until(lambda: {s for s, _ in control.states("affine").values()} == {AVAILABLE})
    placed = tmp_path / "shared" / "affine"
    assert sorted(p.name for p in placed.iterdir()) == ["1", "2"]
    for version in (1, 2):
        served.predict("affine", version)

    control.reload(affine=(source.as_uri(), (2,)))
    until(lambda: control.states("affine")[1][0] == END)
    until(lambda: [p.name for p in placed.iterdir()] == ["2"])
    assert served.states("affine")[1][0] == END
    served.predict("affine", 2)

    control.reload()
    until(lambda: control.states("affine")[2][0] == END)
    until(lambda: not any(placed.iterdir()))
    assert served.states("affine")[2][0] == END


def test_the_status_page_shows_what_the_kits_shows(source, agent):
    Client(agent["control"]).reload(affine=(source.as_uri(), (1,)))
    with urllib.request.urlopen(f"http://{agent['status_http']}/replica/status") as answer:
        versions = json.load(answer)["models"]["affine"]["versions"]
    assert [(v["version"], v["state"]) for v in versions] == [(1, "ready")]
    assert {"phase", "fetched_bytes", "total_bytes", "reason", "error_code"} <= versions[0].keys()


def test_a_version_that_tensorflow_serving_refuses_fails_in_its_words(source, agent):
    control, served = Client(agent["control"]), Client(agent["grpc"])
    (source / "2" / "model.onnx").write_bytes(b"not a model")
    control.reload(affine=(source.as_uri(), (1,)))
    control.reload(affine=(source.as_uri(), (1, 2)))

    def failed():
        states = control.states("affine")
        return states[2] if states.get(2, (0, ""))[0] == END else None

    _, words = until(failed)
    assert "TensorFlow Serving could not load it" in words
    assert "model.onnx" in words
    assert control.states("affine")[1][0] == AVAILABLE
    served.predict("affine", 1)


def test_a_version_that_is_mended_loads_by_itself(source, agent):
    control = Client(agent["control"])
    good = (source / "2" / "model.onnx").read_bytes()
    shutil.rmtree(source / "2")
    control.reload(affine=(source.as_uri(), (1, 2)))
    until(lambda: control.states("affine")[2][0] == END)
    (source / "2").mkdir()
    (source / "2" / "model.onnx").write_bytes(good)
    until(lambda: control.states("affine")[2][0] == AVAILABLE, 30)


def test_a_restarted_tensorflow_serving_is_told_again_and_not_called_available(tmp_path, source):
    ready = tmp_path / "tfs.json"
    with process("servers.onnx", ready=ready) as (_, tfs):
        args = ["--shared-dir", tmp_path / "shared", "--tfs-grpc", tfs["grpc"]]
        args += ["--cache-dir", tmp_path / "cache"]
        running = process("servers.agent", *args, ready=tmp_path / "agent.json")
        _, said = running.__enter__()
    try:
        control = Client(said["control"])
        ports = ["--grpc", tfs["grpc"], "--http", tfs["http"]]
        with process("servers.onnx", *ports, ready=ready) as (server, _):
            control.reload(affine=(source.as_uri(), (1,)))
            assert control.states("affine")[1][0] == AVAILABLE
            server.kill()
            server.wait()
            state, words = control.states("affine")[1]
            assert state != AVAILABLE
            assert "does not answer" in words
        with process("servers.onnx", *ports, ready=ready):
            until(lambda: control.states("affine")[1][0] == AVAILABLE)
            Client(tfs["grpc"]).predict("affine", 1)
    finally:
        running.__exit__(None, None, None)


def test_a_name_that_would_leave_the_shared_folder_is_refused(source, agent):
    with pytest.raises(grpc.RpcError) as caught:
        Client(agent["control"]).reload(**{"../up": (source.as_uri(), (1,))})
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_shared_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "precious").write_text("keep")
    command = [sys.executable, "-m", "servers.agent", "--shared-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "name an empty folder with --shared-dir" in done.stderr
    assert (tmp_path / "precious").read_text() == "keep"


# ---- --spawn ---------------------------------------------------------------------------------


@pytest.fixture
def binary(tmp_path):
    path = tmp_path / "tensorflow_model_server"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.parts.tensorflow_model_server "$@"')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@contextmanager
def spawning(tmp_path, binary):
    args = ["--spawn", binary, "--cache-dir", tmp_path / "cache", "--batch-size", 8]
    with process("servers.agent", *args, ready=tmp_path / "agent.json") as (started, said):
        yield started, said


def children(started):
    return psutil.Process(started.pid).children(recursive=True)


def test_spawned_tensorflow_serving_serves_and_ends_with_the_agent(tmp_path, binary, source):
    with spawning(tmp_path, binary) as (started, said):
        assert said["grpc"] != said["control"]
        Client(said["control"]).reload(affine=(source.as_uri(), (1,)))
        Client(said["grpc"]).predict("affine", 1)
        offspring = children(started)
        assert offspring
        started.send_signal(signal.SIGTERM)
        assert started.wait(20) == 0
        psutil.wait_procs(offspring, timeout=5)
        assert not [p for p in offspring if p.is_running()]
    assert not list((tmp_path / "agents").iterdir())


def test_the_agent_ends_when_its_child_does(tmp_path, binary):
    with spawning(tmp_path, binary) as (started, _):
        server = next(
            p for p in children(started) if "tests.parts.tensorflow_model_server" in p.cmdline()
        )
        server.kill()
        assert started.wait(20) == 1
    assert "ended with exit code" in (tmp_path / "agent.log").read_text()


def test_no_tensorflow_serving_outlives_a_killed_agent(tmp_path, binary):
    with spawning(tmp_path, binary) as (started, _):
        offspring = children(started)
        started.kill()
        _, alive = psutil.wait_procs(offspring, timeout=15)
        assert not alive


def test_a_binary_that_cannot_start_is_named(tmp_path):
    command = [sys.executable, "-m", "servers.agent", "--spawn", "/bin/false"]
    command += ["--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ended with exit code 1 before it answered" in done.stderr


@pytest.mark.tensorflow
def test_a_savedmodel_through_agent_and_tensorflow(tmp_path, binary, monkeypatch):
    monkeypatch.setenv("TFS_STANDIN", "tensorflow")
    tiny_tf.half_plus_two(tmp_path / "half" / "1")
    with spawning(tmp_path, binary) as (_, said):
        Client(said["control"]).reload(half=((tmp_path / "half").as_uri(), (1,)))
        url = f"http://{said['http']}/v1/models/half:predict"
        with urllib.request.urlopen(url, b'{"instances": [1.0, 2.0]}') as answer:
            assert json.load(answer) == {"predictions": [2.5, 3.0]}
