"""The other model servers: each in a virtual environment of its own, started on free ports.

All run the same ONNX file by onnxruntime with one thread. What they would write for each request is
off; what they do for each request is not.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import psutil

from loadtests.machine import ROOT

PEERS = (ROOT / ".cache" / "peers").resolve()
MODEL = "mlp"
_SOURCES = Path(__file__).parent / "peer_models"
_START_S = 120.0


@dataclass(frozen=True, slots=True)
class Started:
    """A running peer."""

    http: str
    grpc: str
    pid: int


@dataclass(frozen=True, slots=True)
class Launch:
    """What a peer's command line is made from."""

    venv: Path
    model: Path
    """The ONNX file."""
    folder: Path
    """Empty, for what it needs to find."""
    ports: tuple[int, int, int]
    """HTTP, gRPC, metrics."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One of the others."""

    name: str
    title: str
    venv: str
    """Folder under .cache/peers."""
    package: str
    command: Callable[[Launch], list[str]]
    env: Callable[[Launch], Mapping[str, str]] = field(default=lambda launch: {})


def _triton(launch: Launch, more: str = "") -> list[str]:
    """Its binary comes in pytriton's wheel, with the python backend only."""
    [home] = (launch.venv / "lib").glob("python*/site-packages/pytriton/tritonserver")
    version = home.parents[2].name.removeprefix("python")
    backends = launch.folder / "backends"
    shutil.copytree(home / "backends", backends)
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise SystemExit(f"Triton's wheel has no backend for Python {version}; 3.11 will do")
    shutil.copy(stub, backends / "python")
    model = launch.folder / "repository" / MODEL
    (model / "1").mkdir(parents=True)
    shutil.copy(_SOURCES / "triton_model.py", model / "1" / "model.py")
    (model / "config.pbtxt").write_text(
        f'name: "{MODEL}"\nbackend: "python"\nmax_batch_size: 32\n'
        'input [{ name: "x" data_type: TYPE_FP32 dims: [784] }]\n'
        'output [{ name: "y" data_type: TYPE_FP32 dims: [10] }]\n'
        f"instance_group [{{ kind: KIND_CPU count: 1 }}]\n{more}\n"
    )
    http, grpc, metrics = map(str, launch.ports)
    return [
        *(str(home / "bin" / "tritonserver"), "--model-repository", str(model.parent)),
        *("--backend-directory", str(backends), "--disable-auto-complete-config"),
        *("--http-address", "127.0.0.1", "--http-port", http),
        *("--grpc-address", "127.0.0.1", "--grpc-port", grpc),
        *("--metrics-address", "127.0.0.1", "--metrics-port", metrics),
    ]


def _triton_batching(launch: Launch) -> list[str]:
    """It joins requests that wait, as our servers do by themselves."""
    return _triton(launch, "dynamic_batching { }")


def _triton_env(launch: Launch) -> dict[str, str]:
    [site] = (launch.venv / "lib").glob("python*/site-packages")
    path = f"{launch.venv / 'bin'}:{os.environ.get('PATH', '')}"
    return {
        "LD_LIBRARY_PATH": str(site / "nvidia_pytriton.libs"),
        "PYTHONPATH": str(site),
        "PATH": path,
    }


def _mlserver(launch: Launch) -> list[str]:
    http, grpc, metrics = launch.ports
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "metrics_dir": str(launch.folder),
        # Inference in the server's own process, which is faster for it than its default, a pool.
        "parallel_workers": 0,
        "logging_settings": str(launch.folder / "logging.json"),
    }
    model = {
        "name": MODEL,
        "implementation": "mlserver_runtime.Onnx",
        "parameters": {"uri": str(launch.model)},
    }
    quiet = {"version": 1, "disable_existing_loggers": False, "root": {"level": "WARNING"}}
    for name, content in (("settings", settings), ("model-settings", model), ("logging", quiet)):
        (launch.folder / f"{name}.json").write_text(json.dumps(content))
    shutil.copy(_SOURCES / "mlserver_runtime.py", launch.folder)
    return [str(launch.venv / "bin" / "mlserver"), "start", str(launch.folder)]


def _kserve(launch: Launch) -> list[str]:
    http, grpc, _ = map(str, launch.ports)
    return [
        *(str(launch.venv / "bin" / "python"), str(_SOURCES / "kserve_server.py")),
        *("--http_port", http, "--grpc_port", grpc, "--workers", "1"),
        *("--enable_latency_logging", "false", "--configure_logging", "false"),
    ]


_TRITON = ("triton", "nvidia-pytriton==0.7.0")
ALL = (
    Peer("triton", "Triton 2.51", *_TRITON, _triton, _triton_env),
    Peer("triton-batching", "Triton 2.51 batching", *_TRITON, _triton_batching, _triton_env),
    Peer("mlserver", "MLServer 1.7.1", "mlserver", "mlserver==1.7.1", _mlserver),
    Peer("kserve", "KServe 0.21", "kserve", "kserve==0.21.0", _kserve),
)


def install_all() -> None:
    """Make the virtual environments that are not there yet; some minutes and 1.4 GB in all.

    Raises:
        SystemExit: pip could not; its words are shown.
    """
    for peer in ALL:
        _install(peer)


def _install(peer: Peer) -> None:
    venv = PEERS / peer.venv
    mark = venv / "installed"
    wanted = f"{peer.package} onnxruntime=={metadata.version('onnxruntime')}"
    if mark.exists() and mark.read_text() == f"{wanted} in {venv}":
        return
    print(f"   installing {wanted} into .cache/peers/{peer.venv}, a minute or so …", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    pip += ["--disable-pip-version-check", *wanted.split()]
    if subprocess.run(pip, check=False).returncode:
        raise SystemExit(
            f"{peer.package} could not be installed, so there is nothing to compare with; "
            "leave it out with: python -m loadtests.bench --only proxies,latency,workers,footprint"
        )
    mark.write_text(f"{wanted} in {venv}")  # a virtual environment cannot be moved


@contextmanager
def running(peer: Peer, model: Path, scratch: Path) -> Iterator[Started]:
    """Run it with one ONNX file until the block ends.

    Raises:
        SystemExit: it ended, or was not ready in time; its log is shown.
    """
    folder = scratch / peer.name
    folder.mkdir(parents=True)
    launch = Launch(PEERS / peer.venv, model, folder, _free_ports())
    command = peer.command(launch)
    env = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "PEER_MODEL": str(model)}
    env |= {"CUDA_VISIBLE_DEVICES": "-1", **peer.env(launch)}
    log = scratch / f"{peer.name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out, cwd=folder)
    try:
        _wait_ready(peer.title, launch.ports[0], process, log)
        yield Started(f"127.0.0.1:{launch.ports[0]}", f"127.0.0.1:{launch.ports[1]}", process.pid)
    finally:
        _end(process)


def _wait_ready(title: str, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.perf_counter() + _START_S
    while time.perf_counter() < until:
        if process.poll() is not None:
            raise SystemExit(f"{title} exited {process.returncode}:\n{log.read_text()[-3000:]}")
        with suppress(OSError, urllib.error.URLError):
            url = f"http://127.0.0.1:{port}/v2/models/{MODEL}/ready"
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        time.sleep(0.2)
    raise SystemExit(f"{title} was not ready within {_START_S:g} s:\n{log.read_text()[-3000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)
    for member in family:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            member.kill()
    process.wait()


def _free_ports() -> tuple[int, int, int]:
    with socket.socket() as a, socket.socket() as b, socket.socket() as c:
        for s in (a, b, c):
            s.bind(("127.0.0.1", 0))
        http, grpc, metrics = (int(s.getsockname()[1]) for s in (a, b, c))
    return http, grpc, metrics
