"""The command line of TensorFlow Serving's container, as the first process of one.

In the binary's place is the stand-in of tests/parts/tensorflow_model_server.py. What matters here
is kept by it: like the stock server it handles no signal.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from gateway.domain.models import Backend, ModelSpec
from gateway.schedulers.kubernetes.containers import containers
from gateway.schedulers.kubernetes.settings import KubernetesSettings
from tests.parts import tiny_onnx
from tests.parts.need import need
from tests.parts.server_process import ROOT, until

pytestmark = [pytest.mark.onnx, pytest.mark.slow]

ADDRESS = "127.61.8.5"
"""Of its own: a container's ports are always the same."""


def script(shared: Path) -> str:
    """What its shell is told, with `shared` for the volume."""
    server = containers(ModelSpec("m", "s3://m", Backend.TENSORFLOW), KubernetesSettings())[0]
    shell, flag, text = server["command"]
    assert (shell, flag) == ("/bin/sh", "-c")
    return str(text).replace("/shared", str(shared))


@contextmanager
def first_process(text: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A shell that is number 1 of a process namespace; yields what waits for it."""
    own = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    need(
        os.geteuid() == 0 and shutil.which("unshare") is not None, "root, and unshare of util-linux"
    )
    path = f"{ROOT}/tests/parts/bin:{sys.prefix}/bin:{os.environ['PATH']}"
    stand_in = {"TFS_STANDIN": "onnx", "TFS_STANDIN_LISTEN": ADDRESS}
    with log.open("ab") as output:
        started = subprocess.Popen(
            [*own, "/bin/sh", "-c", text],
            cwd=ROOT, env={**os.environ, "PATH": path, **stand_in}, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def serving(log: Path) -> bool:
    return "standin.started" in log.read_text()


def test_sigterm_ends_the_container_although_the_server_handles_no_signal(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with first_process(script(tmp_path), log) as started:
        until(lambda: serving(log), 60)
        assert (tmp_path / "models.config").read_text() == "model_config_list {}\n"
        (shell,) = psutil.Process(started.pid).children()
        shell.send_signal(signal.SIGTERM)
        assert started.wait(10) == 128 + signal.SIGTERM


def test_as_the_first_process_itself_it_would_hear_no_sigterm(tmp_path: Path) -> None:
    """Why the shell stays."""
    log = tmp_path / "log"
    server = script(tmp_path).partition("tensorflow_model_server ")[2].partition(" &")[0]
    (tmp_path / "models.config").write_text("model_config_list {}\n")
    with first_process(f"exec tensorflow_model_server {server}", log) as started:
        until(lambda: serving(log), 60)
        (first,) = psutil.Process(started.pid).children()
        first.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            started.wait(1)


def test_the_servers_own_end_is_the_containers(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with first_process(script(tmp_path).replace("--port=", "--no-such-flag="), log) as started:
        assert started.wait(60) == 2
    assert "tensorflow_model_server: error" in log.read_text()


def test_the_stand_in_loads_what_its_configuration_names(tmp_path: Path) -> None:
    log, config = tmp_path / "log", tmp_path / "models.config"
    tiny_onnx.affine(tmp_path / "affine" / "3", 3)
    config.write_text(
        f'model_config_list {{ config {{ name: "affine" base_path: "{tmp_path}/affine" }} }}'
    )
    flags = f"--port=8500 --rest_api_port=8501 --model_config_file={config}"
    page = f"http://{ADDRESS}:8501/v1/models/affine/versions/3"
    with first_process(f"exec tensorflow_model_server {flags}", log):
        until(lambda: serving(log), 60)
        with urllib.request.urlopen(page, timeout=10) as answer:
            assert "AVAILABLE" in answer.read().decode()
    config.write_text("model_config_list { config { name: 3 } }")
    with first_process(f"exec tensorflow_model_server {flags}", log) as started:
        assert started.wait(60) == 1
    assert "Invalid protobuf file" in log.read_text()


def test_a_volume_that_cannot_be_written_ends_it_at_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with first_process(script(tmp_path / "none"), log) as started:
        assert started.wait(10) == 2
    assert "models.config" in log.read_text()
