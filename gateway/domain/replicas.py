"""A replica: one running server of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.domain.models import ModelSpec, VersionStatus
from gateway.domain.names import Version


class ReplicaState(StrEnum):
    """starting → loading → ready → draining → stopped; any → failed.

    STARTING: its process exists and has not said its addresses. LOADING: it listens and has no
    version to answer with. READY: at least one version AVAILABLE. DRAINING: finishing, takes
    nothing new. FAILED: it exited; `reason` says why and a restart is scheduled.
    """

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Addresses of one replica, each `host:port`."""

    http: str
    """TensorFlow Serving REST (and V2 REST)."""
    grpc: str
    """PredictionService (and GRPCInferenceService)."""
    control: str
    """gRPC ModelService; the same as `grpc` but where an agent stands beside the server."""
    status_http: str = ""
    """`host:port` of `GET /replica/status` (progress); empty where the server has none."""
    speaks: tuple[str, ...] = ()
    """The protocols that this server has itself said it answers in; empty where it said nothing,
    and what the model's spec says is believed."""
    unversioned: bool = False
    """Whether it knows no versions, and would not find one that is named to it (MLServer's and
    KServe's default)."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica as its scheduler knows it."""

    id: str
    """Unique for ever, `<model>-<5 letters>`; a restart in place is a new replica."""
    model: str
    state: ReplicaState
    """STARTING, LOADING (it listens), DRAINING, STOPPED or FAILED; whether it is READY is for the
    lifecycle to say, who asks it for its versions."""
    endpoint: Endpoint | None = None
    template: str = ""
    """Digest of everything that a running replica cannot change (see `ReplicaSet.template`)."""
    pid: int | None = None
    gpus: tuple[str, ...] = ()
    restarts: int = 0
    reason: str = ""
    started_at: str = ""
    """RFC 3339, UTC."""


@dataclass(frozen=True, slots=True)
class ReplicaSet:
    """The replicas that one model should have."""

    spec: ModelSpec
    template: str
    """Digest of the parts of the spec that a running replica cannot change: source, backend,
    resources, batching, image, command, hooks. Replicas of another template are replaced."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a replica is told to hold, through HandleReloadConfigRequest."""

    model: str
    source: str
    versions: tuple[Version, ...] = ()
    """Ascending."""
    labels: Mapping[str, Version] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """What a replica said of its versions, or that it did not answer."""

    answered: bool
    versions: Mapping[Version, VersionStatus] = field(default_factory=dict)
    unversioned: bool = False
    """It named no version; `versions` is what it was told."""
