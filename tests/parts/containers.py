"""Containers of our images, as a cluster would run them: no root, no capability, a root file system
that cannot be written, and a network that is only its own loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from tests.parts.need import need

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")

# As in deploy/image/build.sh, which says why.
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")

_GET = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=5).read().decode())"


def podman(*args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run podman; its error output is the failure's message."""
    runc = shutil.which("runc")
    command = ["podman", *(("--runtime", runc) if runc else ()), *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"{' '.join(command)}\n{done.stderr}"
    return done


def need_podman() -> None:
    """Skip (fail in CI) where images cannot be built."""
    install = "apt-get install --no-install-recommends podman runc debootstrap"
    need(bool(shutil.which("podman") and shutil.which("debootstrap")), install)
    need(os.geteuid() == 0, "root, as which debootstrap and nsenter must run")


@cache
def built(target: str) -> str:
    """The image of a target of the Dockerfile, built if it has changed; its name."""
    need_podman()
    environment = {"BASE": "local", **os.environ, "PYTHON": sys.executable, "TAG": "test"}
    done = subprocess.run(
        [ROOT / "deploy/image/build.sh", target],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return f"localhost/{target}:test"


@dataclass
class Container:
    """One that runs, or has ended."""

    id: str
    pid: int

    def logs(self) -> str:
        done = podman("logs", self.id, check=False)
        return done.stdout + done.stderr

    def exec(self, *command: str, check: bool = True) -> str:
        """Run a command in it; its output."""
        return podman("exec", self.id, *command, check=check).stdout

    def beside(self, *command: str) -> list[str]:
        """A command line of this machine that runs in its network."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *command]

    def get(self, url: str) -> str:
        """The body of a page, asked for from its network; empty where there is no answer."""
        command = self.beside(sys.executable, "-c", _GET, url)
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def predicting(self, model: str, protocol: str, data: object) -> subprocess.Popen[str]:
        """`gateway predict` of this machine, in the container's network."""
        command = self.beside(
            sys.executable, "-m", "gateway", "predict", model, "--data", json.dumps(data),
            "--protocol", protocol, "--timeout", "90",
            "--http", "127.0.0.1:8501", "--grpc", "127.0.0.1:8500",
        )  # fmt: skip
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )

    def predict(self, model: str, protocol: str, data: object) -> Any:
        """Its answer, as TensorFlow Serving writes it."""
        return answer(self.predicting(model, protocol, data))

    def until(self, true: Callable[[], T], longest_s: float = 120.0) -> T:
        """Wait until it is true of a container that runs."""
        ends_at = time.perf_counter() + longest_s
        while not (found := true()):
            assert self.is_running(), f"it has ended:\n{self.logs()}"
            assert time.perf_counter() < ends_at, f"not within {longest_s} s:\n{self.logs()}"
            time.sleep(0.2)
        return found

    def is_running(self) -> bool:
        return podman("inspect", "--format", "{{.State.Running}}", self.id).stdout.strip() == "true"

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def exit_code(self) -> int:
        """Of its end, which is waited for."""
        return int(podman("wait", self.id).stdout)


def answer(asking: subprocess.Popen[str]) -> Any:
    """What `gateway predict` printed."""
    out, error = asking.communicate(timeout=100)
    assert asking.returncode == 0, out + error
    return json.loads(out)


@contextmanager
def running(
    image: str,
    *args: str,
    volumes: Sequence[tuple[Path, str]] = (),
    network: str = "none",
    options: Sequence[str] = (),
) -> Iterator[Container]:
    """A container that ends with the block. `volumes` are folders of this machine and where they
    are seen, read-only unless `:rw` follows."""
    mounts = [f"--volume={path}:{seen}{'' if ':' in seen else ':ro'}" for path, seen in volumes]
    started = podman(
        "run", "--detach", f"--network={network}", "--read-only", "--read-only-tmpfs=false",
        "--tmpfs=/tmp:rw,mode=1777,size=64m", "--tmpfs=/var/lib/gateway:rw,mode=1777",
        "--cap-drop=all", "--security-opt=no-new-privileges", *_LIMITS, *mounts, *options,
        image, *args,
    )  # fmt: skip
    name = started.stdout.strip()
    pid = int(podman("inspect", "--format", "{{.State.Pid}}", name).stdout)
    try:
        yield Container(name, pid)
    finally:
        podman("rm", "--force", "--time=0", name, check=False)
