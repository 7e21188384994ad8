"""A replica: one running server of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.domain.models import ModelSpec, VersionStatus
from gateway.domain.names import Version

CANARY_GROUP = "canary"
"""The group of replicas that hold a rollout's new version and nothing else. The model's own
replicas, which answer for all that is not a canary's, are of the group ""."""


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
    group: str = ""
    """As its ReplicaSet's."""
    pid: int | None = None
    gpus: tuple[str, ...] = ()
    restarts: int = 0
    reason: str = ""
    is_held_up: bool = False
    """Whether `reason` is what keeps it from starting, which somebody may have to put right. Else
    the reason of one that is STARTING only says how far its start has come."""
    started_at: str = ""
    """RFC 3339, UTC."""
    outputs: tuple[str, ...] = ()
    """What writes in it where that is kept apart (the containers of its pod), in the order in which
    they begin. `ID/OUTPUT` names one of them to whoever reads its logs."""


@dataclass(frozen=True, slots=True)
class ReplicaSet:
    """The replicas that one model should have of one group. A model with several is wanted as
    several of these; a group that is not named is not wanted."""

    spec: ModelSpec
    template: str
    """Digest of the parts of the spec that a running replica cannot change: source, backend,
    resources, batching, image, command, hooks. Replicas of another template are replaced."""
    wanted: int
    """How many there should be."""
    group: str = ""
    """Groups of a model are started, replaced and ended independently of each other; "" is the
    model's own, which always is there."""


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


@dataclass(frozen=True, slots=True)
class ReplicaStanding:
    """What data planes think of a replica that does not answer them as it should."""

    standing: str
    """`suspect`, `ejected` or `probation` (core.ejection)."""
    cause: str
    planes: int = 1
    """How many of them think so, …"""
    of: int = 1
    """… of how many."""
