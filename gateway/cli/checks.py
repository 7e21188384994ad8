"""What `gateway doctor` looks at. Each check answers with what it found and, if that is not good,
what to do. Nothing is changed and no framework is imported: modules are only looked for."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shutil
import socket
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway import __version__, config
from gateway.client.control import ControlClient, ControlSettings
from gateway.domain.errors import GatewayError

OK, WARNING, BROKEN = "ok", "warning", "broken"

MIN_FREE_BYTES = 5 * 10**9
"""A few versions of a middling model; less is a warning, not a fault."""

MIN_OPEN_FILES = 4096
"""Each connection is a file, on both sides. 1024, a common default, ends at some 500 callers."""

LOOK_S = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    status: str
    """`ok`, `warning` (works, could be better) or `broken`."""
    found: str
    fix: str = ""

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


async def examine(settings: config.Settings, url: str) -> list[Finding]:
    """Run every check; slow ones have LOOK_S each."""
    health = await _health(url)
    findings = [
        python(),
        uvloop(),
        *backends(),
        model_server(),
        gpus(),
        disk(settings.state_dir),
        open_files(),
        clock(),
        control_api(url, health),
        *leadership(health),
        *ports(settings, health),
    ]
    return [*findings, *await storage(dict(os.environ))]


async def _health(url: str) -> dict[str, Any] | GatewayError:
    try:
        async with ControlClient(url, ControlSettings(timeout_s=LOOK_S)) as control:
            return await control.health()
    except GatewayError as error:
        return error


def python() -> Finding:
    """Which one; an older one than we support could not have installed this."""
    return Finding("python", OK, ".".join(map(str, sys.version_info[:3])))


def uvloop() -> Finding:
    """The faster event loop."""
    if find_spec("uvloop"):
        return Finding("uvloop", OK, "found")
    return Finding(
        "uvloop", WARNING, "missing", "pip install uvloop (requests take more CPU without)"
    )


def backends() -> list[Finding]:
    """The frameworks whose servers could run here. At least one should."""
    extras = {"onnx": "onnxruntime", "tensorflow": "tensorflow", "caffe": "cv2"}
    present = {extra for extra, module in extras.items() if find_spec(module)}
    if shutil.which("tensorflow_model_server"):
        present.add("tensorflow")
    return [
        Finding(f"backend {extra}", OK, f"{module} found")
        if extra in present
        else Finding(
            f"backend {extra}",
            WARNING if present else BROKEN,
            f"{module} missing",
            f"pip install 'model-gateway[{extra}]' to serve such models",
        )
        for extra, module in extras.items()
    ]


def model_server() -> Finding:
    """The stock TensorFlow Serving binary, preferred where it is."""
    path = shutil.which("tensorflow_model_server")
    if path:
        return Finding("tensorflow_model_server", OK, path)
    return Finding(
        "tensorflow_model_server", OK, "not on PATH; servers.tensorflow answers in its place"
    )


def gpus(devices: Path = Path("/dev")) -> Finding:
    """NVIDIA devices, and whether their driver's tool is there."""
    count = len([p for p in devices.glob("nvidia[0-9]*") if p.name[6:].isdigit()])
    if not count:
        return Finding("gpus", OK, "none; models run on the CPU")
    if not shutil.which("nvidia-smi"):
        return Finding(
            "gpus", WARNING, f"{count}, without nvidia-smi", "put the NVIDIA driver's tools on PATH"
        )
    return Finding("gpus", OK, str(count))


def disk(state: Path) -> Finding:
    """Room for fetched models, and the right to write there."""
    existing = next(p for p in (state, *state.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding(
            "state directory", BROKEN, f"{state} cannot be written", "name another with --state DIR"
        )
    free = shutil.disk_usage(existing).free
    found = f"{state}, {free / 1e9:.1f} GB free"
    if free < MIN_FREE_BYTES:
        return Finding(
            "state directory", WARNING, found, "free some space, or name another --state"
        )
    return Finding("state directory", OK, found)


def open_files() -> Finding:
    """How many connections this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MIN_OPEN_FILES:
        return Finding("open files", OK, "unlimited" if soft < 0 else str(soft))
    fix = f"ulimit -n {MIN_OPEN_FILES}" + (
        "" if hard < 0 or hard >= MIN_OPEN_FILES else " (as root, or in limits.conf)"
    )
    return Finding("open files", WARNING, str(soft), fix)


def clock(now: datetime | None = None) -> Finding:
    """A clock that is far off makes object storage refuse every signed request."""
    now = now or datetime.now(UTC)
    shown = now.strftime("%Y-%m-%d %H:%M:%S UTC")
    if 2025 <= now.year < 2100:
        return Finding("clock", OK, shown)
    return Finding("clock", BROKEN, shown, "set the clock (timedatectl set-ntp true)")


def control_api(url: str, health: dict[str, Any] | GatewayError) -> Finding:
    """Whether a gateway runs there, and of which version."""
    if isinstance(health, GatewayError):
        if health.reason == "control_unreachable":
            return Finding("control api", WARNING, f"no answer at {url}", "gateway serve")
        return Finding("control api", BROKEN, health.message, "look at --url and GATEWAY_URL")
    version = health.get("version")
    found = f"{url}, gateway {version}"
    if version == __version__:
        return Finding("control api", OK, found)
    return Finding(
        "control api",
        WARNING,
        f"{found}; this command is {__version__}",
        "install the same version",
    )


def leadership(health: dict[str, Any] | GatewayError) -> list[Finding]:
    """Among gateways that share a database, somebody leads."""
    role = None if isinstance(health, GatewayError) else health.get("leadership")
    if role is None:
        return []
    others = f"{role['others']} other{'s' if role['others'] != 1 else ''} heard"
    if role["role"] == "leader":
        return [Finding("leadership", OK, f"leads since {role['since']}; {others}")]
    if role["leader"]:
        who = f"{role['leader']} at {role['leader_control']} since {role['since']}"
        return [Finding("leadership", OK, f"follows {who}; {others}")]
    return [
        Finding(
            "leadership",
            BROKEN,
            f"nobody leads; {others}",
            "answers go on and nothing else does: look whether the database answers "
            "(store.unanswered in the log)",
        )
    ]


def ports(settings: config.Settings, health: dict[str, Any] | GatewayError) -> list[Finding]:
    """Each port of `gateway serve` is free, or taken by our own gateway."""
    ours = set() if isinstance(health, GatewayError) else set(health["addresses"].values())
    findings = []
    for flag in ("http", "grpc", "control"):
        address = getattr(settings, flag)
        host, port = config.split_address(address, f"--{flag}")
        check = f"port {flag}"
        if address in ours:
            findings.append(Finding(check, OK, f"{address}, our gateway"))
        elif (taken := _bind_error(host, port)) is None:
            findings.append(Finding(check, OK, f"{address} is free"))
        else:
            findings.append(
                Finding(
                    check,
                    BROKEN,
                    f"{address}: {taken}",
                    f"end what listens there, or use: gateway serve --{flag} {host}:PORT",
                )
            )
    return findings


def _bind_error(host: str, port: int) -> str | None:
    try:
        family, kind, proto, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "taken by another program"
        return error.strerror or str(error)
    return None


async def storage(environment: dict[str, str]) -> list[Finding]:
    """Object storage endpoints named in the environment answer a connection."""
    findings = []
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"):
        url = environment.get(name)
        if url:
            findings.append(await _endpoint(name, url, environment))
    return findings or [
        Finding("object storage", OK, "no endpoint set; the provider's own is used")
    ]


async def _endpoint(name: str, url: str, environment: dict[str, str]) -> Finding:
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        async with asyncio.timeout(LOOK_S):
            _, writer = await asyncio.open_connection(parts.hostname, port)
        writer.close()
    except (OSError, ValueError) as error:
        return Finding(
            "object storage",
            BROKEN,
            f"{name}={url}: {error or 'no answer'}",
            f"start the storage, or set {name} to where it listens",
        )
    if parts.scheme == "http" and environment.get("AWS_ALLOW_HTTP", "").lower() not in (
        "1",
        "true",
    ):
        return Finding(
            "object storage", WARNING, f"{url} without TLS", "export AWS_ALLOW_HTTP=true"
        )
    return Finding("object storage", OK, f"{url} answers")
