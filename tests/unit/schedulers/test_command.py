"""Command lines and environments of replicas."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.domain.errors import InvalidRequest
from gateway.domain.models import Backend, Batching, ModelSpec, Resources
from gateway.schedulers import LocalSettings
from gateway.schedulers.command import Launch, argv, environment, local_folder

STATE = Path("/state")


def launch(backend=Backend.ONNX, **changes):
    spec = replace(ModelSpec("m", "file:///models/m", backend), **changes)
    return Launch("m-abcde", spec, STATE, ("1", "2"), (8001, 8000), LocalSettings())


def absent(_):
    return None


def test_a_server_of_ours_gets_its_flags():
    spec = {"batching": Batching(8, 0.002), "resources": Resources(cpus=1.5)}
    command = argv(launch(**spec), absent)
    assert command[:3] == [sys.executable, "-m", "servers.onnx"]
    flags = dict(zip(command[3::2], command[4::2], strict=True))
    assert flags["--batch-size"] == "8"
    assert flags["--batch-delay-ms"] == "2"
    assert flags["--threads"] == "2"
    assert flags["--ready-file"] == "/state/ready/m-abcde.json"
    assert flags["--leash"] == "/state/gateway.lock"


def test_tensorflow_prefers_the_stock_server_where_there_is_one():
    own = argv(launch(Backend.TENSORFLOW), absent)
    assert own[2] == "servers.tensorflow"
    stock = argv(launch(Backend.TENSORFLOW), lambda name: f"/usr/bin/{name}")
    assert stock[2:5] == ["servers.agent", "--spawn", "/usr/bin/tensorflow_model_server"]


def test_a_custom_command_gets_ports_and_folder_and_a_leash():
    command = argv(
        launch(
            Backend.CUSTOM, command=("serve", "--port={http_port}", "{grpc_port}", "{model_dir}")
        ),
        absent,
    )
    assert command[1:3] == ["-m", "servers.kit.leash"]
    assert command[command.index("--") + 1 :] == ["serve", "--port=8001", "8000", "/models/m"]


def test_a_custom_backend_without_a_command_is_refused():
    with pytest.raises(InvalidRequest, match="give one with --command"):
        argv(launch(Backend.CUSTOM), absent)


def test_a_folder_far_away_is_no_folder():
    assert local_folder("file:///a%20b") == "/a b"
    assert local_folder("/a") == "/a"
    with pytest.raises(InvalidRequest, match="needs a source on this machine"):
        local_folder("s3://bucket/m")


def test_the_environment_has_credentials_marks_and_gpus_but_not_the_gateways_own_settings():
    inherited = {"AWS_ACCESS_KEY_ID": "a", "GATEWAY_HTTP": ":1", "CUDA_VISIBLE_DEVICES": "7"}
    env = environment(launch(resources=Resources(gpus=2, cpus=3)), inherited)
    assert env["AWS_ACCESS_KEY_ID"] == "a"
    assert "GATEWAY_HTTP" not in env
    assert env["GATEWAY_REPLICA_ID"] == "m-abcde"
    assert env["GATEWAY_REPLICA_OF"] == "/state"
    assert env["CUDA_VISIBLE_DEVICES"] == "1,2"
    assert env["OMP_NUM_THREADS"] == "3"
    assert env["ORT_DISABLE_TELEMETRY"] == "1"


def test_who_asks_for_no_gpu_sees_none():
    assert environment(launch(), {})["CUDA_VISIBLE_DEVICES"] == "-1"
