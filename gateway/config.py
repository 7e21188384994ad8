"""The settings of one gateway: flags, then `GATEWAY_…` variables, then gateway.toml, then defaults.

The only reader of the environment and of TOML. The knobs of a room are a dataclass in that room,
with their prose; this module holds what belongs to the process as a whole and composes the rest.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from gateway.core.balance import RULES
from gateway.domain.errors import InvalidRequest
from gateway.schedulers.kubernetes.settings import KubernetesSettings


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
    database_url: str = field(default="", repr=False)
    """`postgresql://…` of a database that several gateways share; empty keeps everything in SQLite
    under `state`. Better in GATEWAY_DATABASE_URL than in a flag that every user of the machine can
    see: it may hold a password."""
    lease_s: float = 15.0
    """With such a database: how long after the death of the gateway that leads another one does.
    Kubernetes' own controllers use 15. Shorter costs a leader that stalls its place."""
    workers: int = 1
    """Processes that answer predictions. 1 keeps everything in one process."""
    scheduler: str = "local"
    """Where replicas run: `local`, processes on this machine, or `kubernetes`, pods."""
    kubeconfig: str = ""
    namespace: str = ""
    """With `kubernetes`: which cluster, and where in it; see schedulers/kubernetes/settings.py."""
    kubernetes: KubernetesSettings = field(default_factory=KubernetesSettings)
    """The table `[kubernetes]` of gateway.toml."""
    log_format: str = "text"
    v2_flavour: str = "triton"
    """Where the peers of the Open Inference Protocol differ (health bodies, readiness codes), whose
    way is taken: `triton` or `kserve`. Triton, whose client library most programs use."""
    balance_rule: str = "work"
    """How a replica is chosen: `work`, or, to compare with, Prequal's `hot_cold`, or `in_flight`
    (plain P2C). See core/balance.py; no flag, as nobody should need the others."""
    insecure: bool = False
    """Allows binding beyond this machine although no keys are configured."""
    tls_cert: str = ""
    tls_key: str = ""
    """Paths of a certificate chain and its key, PEM: both prediction ports speak TLS. Files that
    have changed are read again."""
    tls_client_ca: str = ""
    """Path of authorities, PEM: callers of the prediction ports must show a certificate that one of
    them has signed."""
    max_body_bytes: int = 128 * 1024 * 1024
    """Largest request body and gRPC message. Four 4K float images fit; a hostile caller's endless
    body does not."""
    adaptive_limit: bool = True
    """Whether how many requests of a model are with its replicas at once is learnt from their
    latency and throughput. Off: only the model's in_flight_limit counts, and nothing waits here."""
    queue_limit: int = 8192
    """Requests of one model that wait in one process, beyond that limit. A model's default
    in_flight_limit, which counts them as well: a stall of the machine at thousands of requests a
    second is waited out. Those that would wait past their deadline are refused before that."""
    scale_window_s: float = 60.0
    """Over how long requests in flight are averaged where they decide how many replicas a model has
    (core/autoscale.py); the short window and the delays go with it. No flag: `idle_s` and
    `target_in_flight` are the knobs of a model."""
    poll_s: float = 5.0
    """How often each model's source is looked at."""
    settle_s: float = 10.0
    """How long the listing of a version without a manifest must stand still before it counts."""
    orphan_grace_s: float = 30.0
    """How long replicas outlive a gateway that was killed, so that its successor can adopt them."""
    cache_bytes: int = 50 * 1024**3
    """Bound of the local cache of fetched versions; those in use are never evicted."""

    @property
    def pods(self) -> KubernetesSettings:
        """How replicas run as pods, with what flags and the gateway's other settings say of it."""
        table = self.kubernetes
        return replace(
            table,
            kubeconfig=self.kubeconfig or table.kubeconfig,
            namespace=self.namespace or table.namespace,
            max_body_bytes=self.max_body_bytes,
            cache_bytes=self.cache_bytes,
            v2_flavour=self.v2_flavour,
        )

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
    _check_table(merged.get("kubernetes"), KubernetesSettings, "kubernetes")
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


def _check_table(told: Any, kind: type, name: str) -> None:
    """Refuse unknown keys of a table, which msgspec would pass over."""
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(told) - known) if isinstance(told, dict) else []
    if unknown:
        raise InvalidRequest(
            f"unknown setting {unknown[0]!r} in [{name}]; known are: {', '.join(sorted(known))}",
            reason="bad_setting",
        )


def _check(settings: Settings) -> None:
    if settings.scheduler not in ("local", "kubernetes"):
        raise InvalidRequest("--scheduler is local or kubernetes", reason="bad_setting")
    settings.kubernetes.check()
    if settings.database_url and not settings.database_url.startswith("postgresql"):
        raise InvalidRequest(
            "--database-url is for PostgreSQL and begins with postgresql://; SQLite needs no URL "
            "and lies under --state",
            reason="bad_setting",
        )
    if not 1.0 <= settings.lease_s <= 600.0:
        raise InvalidRequest("--lease-s must be from 1 to 600 seconds", reason="bad_setting")
    if settings.log_format not in ("text", "json"):
        raise InvalidRequest("--log-format is text or json", reason="bad_setting")
    if settings.v2_flavour not in ("triton", "kserve"):
        raise InvalidRequest("--v2-flavour is triton or kserve", reason="bad_setting")
    if settings.balance_rule not in RULES:
        raise InvalidRequest(f"balance_rule is one of {', '.join(RULES)}", reason="bad_setting")
    if not 1 <= settings.workers <= 256:
        raise InvalidRequest("--workers must be from 1 to 256", reason="bad_setting")
    for name, least in (
        ("scale_window_s", 1.0),
        ("poll_s", 0.05),
        ("settle_s", 0.0),
        ("orphan_grace_s", 0.0),
    ):
        if not getattr(settings, name) >= least:
            flag = "--" + name.replace("_", "-")
            raise InvalidRequest(f"{flag} must be at least {least} seconds", reason="bad_setting")
    if settings.queue_limit < 0:
        raise InvalidRequest("--queue-limit must be at least 0", reason="bad_setting")
    if settings.max_body_bytes < 1024:
        raise InvalidRequest("--max-body must be at least 1024 bytes", reason="bad_setting")
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise InvalidRequest(
            "--tls-cert and --tls-key go together: give both, or neither", reason="bad_setting"
        )
    if settings.tls_client_ca and not settings.tls_cert:
        raise InvalidRequest(
            "--tls-client-ca needs --tls-cert and --tls-key: without TLS no caller shows a "
            "certificate",
            reason="bad_setting",
        )
    for flag in ("http", "grpc", "control"):
        host, _ = split_address(getattr(settings, flag), f"--{flag}")
        if not settings.insecure and not _is_loopback(host):
            raise InvalidRequest(
                f"--{flag} {host} can be reached from other machines and no keys are configured: "
                "anybody there could use and change the models. Bind 127.0.0.1, or say --insecure "
                "if the network is trusted.",
                reason="insecure_bind",
            )


def _is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches it. Of names only localhost: what begins with `127.`
    may be anybody's name."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def split_address(address: str, flag: str) -> tuple[str, int]:
    """`host:port` in parts; raises InvalidRequest naming `flag`."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise InvalidRequest(
            f"{flag} wants HOST:PORT, such as 127.0.0.1:8501; got {address!r}",
            reason="bad_setting",
        )
    return host.strip("[]"), int(port)
