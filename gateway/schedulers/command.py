"""The command line and environment of one replica. Pure, but for looking up programs on PATH."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gateway.domain.errors import InvalidRequest
from gateway.domain.models import Backend, ModelSpec
from gateway.schedulers.records import LEASH_FILE
from gateway.schedulers.settings import LocalSettings

STATE_MARK = "GATEWAY_REPLICA_OF"
"""Environment variable that names the state directory a replica belongs to, so that one whose
record was lost in a crash is still found."""

REPLICA_MARK = "GATEWAY_REPLICA_ID"

TENSORFLOW_SERVER = "tensorflow_model_server"

# Each library reads its own; a replica that was given two cores must not start 64 threads.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
)


@dataclass(frozen=True, slots=True)
class Launch:
    """All that a command line is made from."""

    replica_id: str
    spec: ModelSpec
    state: Path
    gpus: tuple[str, ...]
    ports: tuple[int, int]
    settings: LocalSettings

    @property
    def ready_file(self) -> Path:
        """Where the replica says its addresses."""
        return self.state / "ready" / f"{self.replica_id}.json"


def argv(launch: Launch, which: Callable[[str], str | None]) -> list[str]:
    """The program and its arguments.

    Raises:
        InvalidRequest: the spec's command cannot be run here (`bad_command`).
    """
    spec = launch.spec
    if spec.backend is Backend.CUSTOM:
        return _custom(launch)
    server = [sys.executable, "-m", f"servers.{spec.backend}"]
    if spec.backend is Backend.TENSORFLOW and (stock := which(TENSORFLOW_SERVER)):
        server = [sys.executable, "-m", "servers.agent", "--spawn", stock]
    settings = launch.settings
    flags = {
        "--http": "127.0.0.1:0",
        "--grpc": "127.0.0.1:0",
        "--ready-file": str(launch.ready_file),
        "--cache-dir": str(launch.state / "cache"),
        "--cache-bytes": str(settings.cache_bytes),
        "--batch-size": str(spec.batching.max_rows),
        "--batch-delay-ms": f"{spec.batching.delay_s * 1000:g}",
        "--leash": str(launch.state / LEASH_FILE),
        "--leash-grace-s": f"{settings.orphan_grace_s:g}",
        "--drain-s": f"{settings.grace_s * 0.9:g}",
        "--max-body": str(settings.max_body_bytes),
        "--log-format": settings.log_format,
        "--v2-flavour": settings.v2_flavour,
    }
    if spec.resources.cpus is not None:
        flags["--threads"] = str(threads(spec.resources.cpus))
    return [*server, *(part for pair in flags.items() for part in pair)]


def threads(cpus: float) -> int:
    """Threads for a share of cores: rounded up, at least one."""
    return max(1, math.ceil(cpus))


def _custom(launch: Launch) -> list[str]:
    spec = launch.spec
    if not spec.command:
        raise InvalidRequest(
            f"Model {spec.name} has the backend custom and no command; "
            "give one with --command 'PROGRAM --port {http_port} …'",
            reason="bad_command",
        )
    values = {"{http_port}": str(launch.ports[0]), "{grpc_port}": str(launch.ports[1])}
    if any("{model_dir}" in part for part in spec.command):
        values["{model_dir}"] = local_folder(spec.source)
    command = []
    for part in spec.command:
        for name, value in values.items():
            part = part.replace(name, value)
        command.append(part)
    return [
        *(sys.executable, "-m", "servers.kit.leash"),
        *("--leash", str(launch.state / LEASH_FILE)),
        *("--leash-grace-s", f"{launch.settings.orphan_grace_s:g}"),
        *("--drain-s", f"{launch.settings.grace_s * 0.9:g}"),
        "--",
        *command,
    ]


def local_folder(source: str) -> str:
    """The folder of a `file://` source or a plain path.

    Raises:
        InvalidRequest: the source is somewhere else, so a program of one's own cannot read it
            (`bad_command`).
    """
    parts = urlsplit(source)
    if parts.scheme == "file":
        return unquote(parts.path)
    if not parts.scheme:
        return source
    raise InvalidRequest(
        f"{{model_dir}} needs a source on this machine, and {source} is not; use a file:// source, "
        "or leave {model_dir} out and let the program fetch its versions",
        reason="bad_command",
    )


def environment(launch: Launch, inherited: Mapping[str, str]) -> dict[str, str]:
    """The replica's environment: the gateway's own (storage credentials are in it) and a few more.

    `GATEWAY_…` variables steer the gateway itself and stay with it.
    """
    env = {k: v for k, v in inherited.items() if not k.startswith("GATEWAY_")}
    env |= {
        STATE_MARK: str(launch.state),
        REPLICA_MARK: launch.replica_id,
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if launch.spec.resources.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(launch.gpus)
    else:
        # No GPU asked for is no GPU: TensorFlow would otherwise take the memory of all of them.
        env["CUDA_VISIBLE_DEVICES"] = "-1"
    if launch.spec.resources.cpus is not None:
        env |= dict.fromkeys(_THREAD_VARIABLES, str(threads(launch.spec.resources.cpus)))
    return env
