"""The settings of one gateway: flags, then `GATEWAY_…` variables, then gateway.toml, then defaults.

The only reader of the environment and of TOML. The knobs of a room are a dataclass in that room,
with their prose; this module holds what belongs to the process as a whole and composes the rest.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from gateway.domain.errors import InvalidRequest

_LOOPBACK = ("127.", "localhost", "::1", "[::1]")


def default_state_dir() -> Path:
    """`$XDG_STATE_HOME/gateway`, else `~/.local/state/gateway`."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "gateway"


@dataclass(frozen=True, slots=True)
class Settings:
    """One `gateway serve`."""

    http: str = "127.0.0.1:8501"
    """Predictions over HTTP. TensorFlow Serving's own port, so its clients need no change."""
    grpc: str = "127.0.0.1:8500"
    """Predictions over gRPC; TensorFlow Serving's own port."""
    control: str = "127.0.0.1:8080"
    """Control API and /metrics."""
    state: str = ""
    """Directory of the database, logs, replicas and fetched models; empty means the default."""
    workers: int = 1
    """Processes that answer predictions. 1 keeps everything in one process."""
    scheduler: str = "local"
    log_format: str = "text"
    v2_flavour: str = "triton"
    """Where the peers of the Open Inference Protocol differ (health bodies, readiness codes), whose
    way is taken: `triton` or `kserve`. Triton, whose client library most programs use."""
    insecure: bool = False
    """Allows binding beyond this machine although no keys are configured."""
    max_body_bytes: int = 128 * 1024 * 1024
    """Largest request body and gRPC message. Four 4K float images fit; a hostile caller's endless
    body does not."""
    poll_s: float = 5.0
    """How often each model's source is looked at."""
    settle_s: float = 10.0
    """How long the listing of a version without a manifest must stand still before it counts."""
    orphan_grace_s: float = 30.0
    """How long replicas outlive a gateway that was killed, so that its successor can adopt them."""
    cache_bytes: int = 50 * 1024**3
    """Bound of the local cache of fetched versions; those in use are never evicted."""

    @property
    def state_dir(self) -> Path:
        """Where state lives, absolute."""
        return Path(self.state).expanduser().absolute() if self.state else default_state_dir()


def load(flags: Mapping[str, Any], config_file: Path | None = None) -> Settings:
    """Merge all sources of settings. `flags` holds only what was given; None counts as not given.

    Raises:
        InvalidRequest: the file cannot be read, or a value is unknown or out of its range; the
            message names the flag, variable or key.
    """
    merged = {**_from_file(config_file), **_from_environment()}
    merged.update({k: v for k, v in flags.items() if v is not None})
    known = {f.name for f in fields(Settings)}
    if unknown := sorted(set(merged) - known):
        raise InvalidRequest(
            f"unknown setting {unknown[0]!r}; known are: {', '.join(sorted(known))}",
            reason="bad_setting",
        )
    try:
        settings = msgspec.convert(merged, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"settings: {error}", reason="bad_setting") from error
    _check(settings)
    return settings


def _from_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidRequest(
            f"cannot read {path}: {error.strerror}", reason="bad_setting"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{path} is no TOML: {error}", reason="bad_setting") from error


def _from_environment() -> dict[str, Any]:
    """`GATEWAY_POLL_S=1` and so on; client-side variables (`GATEWAY_URL`, keys) are not ours."""
    names = get_type_hints(Settings)
    return {n: v for n in names if (v := os.environ.get(f"GATEWAY_{n.upper()}")) is not None}


def _check(settings: Settings) -> None:
    if settings.scheduler != "local":
        raise InvalidRequest(
            f"--scheduler {settings.scheduler} is not offered yet; use --scheduler local",
            reason="bad_setting",
        )
    if settings.log_format not in ("text", "json"):
        raise InvalidRequest("--log-format is text or json", reason="bad_setting")
    if settings.v2_flavour not in ("triton", "kserve"):
        raise InvalidRequest("--v2-flavour is triton or kserve", reason="bad_setting")
    if not 1 <= settings.workers <= 256:
        raise InvalidRequest("--workers must be from 1 to 256", reason="bad_setting")
    for name, least in (("poll_s", 0.05), ("settle_s", 0.0), ("orphan_grace_s", 0.0)):
        if not getattr(settings, name) >= least:
            flag = "--" + name.replace("_", "-")
            raise InvalidRequest(f"{flag} must be at least {least} seconds", reason="bad_setting")
    if settings.max_body_bytes < 1024:
        raise InvalidRequest("--max-body must be at least 1024 bytes", reason="bad_setting")
    for flag in ("http", "grpc", "control"):
        host, _ = split_address(getattr(settings, flag), f"--{flag}")
        if not settings.insecure and not host.startswith(_LOOPBACK):
            raise InvalidRequest(
                f"--{flag} {host} can be reached from other machines and no keys are configured: "
                "anybody there could use and change the models. Bind 127.0.0.1, or say --insecure "
                "if the network is trusted.",
                reason="insecure_bind",
            )


def split_address(address: str, flag: str) -> tuple[str, int]:
    """`host:port` in parts; raises InvalidRequest naming `flag`."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise InvalidRequest(
            f"{flag} wants HOST:PORT, such as 127.0.0.1:8501; got {address!r}",
            reason="bad_setting",
        )
    return host.strip("[]"), int(port)
