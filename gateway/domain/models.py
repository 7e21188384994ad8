"""A model as its owner wants it, and what is known of its versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.domain.names import Version
from gateway.domain.rollouts import Rollout
from gateway.domain.templates import Batching as Batching
from gateway.domain.templates import Resources as Resources
from gateway.domain.templates import Template


class Backend(StrEnum):
    """The framework kind that answers for a model."""

    ONNX = "onnx"
    TENSORFLOW = "tensorflow"
    CAFFE = "caffe"
    CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest `count` versions."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class All:
    """Every version that the source has."""


@dataclass(frozen=True, slots=True)
class Specific:
    """These versions and no others."""

    versions: tuple[Version, ...]


VersionPolicy = Latest | All | Specific


@dataclass(frozen=True, slots=True)
class ShadowPlan:
    """Copies of requests that the stable version answers, sent to the canary to compare answers."""

    share: float
    """Of the stable version's requests, above 0, up to 1."""
    tolerance: float = 0.01
    """An element differs when it is off by more than this, in relation to its size. One in a
    hundred: far above what another kernel, batch size or half precision do to a result (1e-6 to
    1e-3), and below what a user would notice in a score."""
    max_differing: float | None = None
    max_flips: float | None = None
    """Shares of the predictions that may differ by more than the tolerance, or whose top-1 may be
    another; with more of them the canary fails. None: shown and not judged, as a new version is
    nearly always meant to predict something else."""


@dataclass(frozen=True, slots=True)
class CanaryPlan:
    """How later versions of a model get its traffic."""

    steps: tuple[float, ...]
    """Percent of the traffic, ascending, each above 0 and below 100; then all of it."""
    min_samples: int = 500
    """Answers of the canary, and of the stable version, that a step needs. With 500, a canary that
    fails 2 in 100 of its requests passes the first step of 5, 25, 50 about once in 2000 times."""
    step_s: float = 60.0
    """Shortest time of a step. A minute: some troubles (a leak, a cache that fills) need time."""
    sticky: str = "x-gateway-key"
    """Lower-case name of the header or gRPC metadata by whose value callers keep their side."""
    shadow: ShadowPlan | None = None
    replicas: int = 0
    """How many replicas are started for a new version, which hold it alone until it is promoted.
    0: the model's own replicas hold both versions."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """Between how many replicas a model moves by itself, and by what (core/autoscale.py)."""

    least: int
    """0: it is stopped when nobody asks, and started by the next request, which waits for it."""
    most: int
    target: float
    """Requests in flight that each replica is to have on average, those that wait included."""
    idle_s: float = 300.0
    """Seconds without a request after which it is stopped, where `least` is 0. Five minutes, KEDA's
    `cooldownPeriod`: a model's start costs its next caller seconds to minutes."""


PROTOCOLS = ("tfs-rest", "tfs-grpc", "v2-rest", "v2-grpc")
"""What callers may speak, and what replicas may be spoken to in."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Desired state of one model: what `gateway deploy model` asked for."""

    name: str
    source: str
    """URI of the model's folder (`s3://bucket/resnet`, `file:///models/resnet`), whose children
    are versions."""
    backend: Backend
    replicas: int = 1
    """How many, where `scaling` does not say it."""
    scaling: Scaling | None = None
    """None: `replicas` of them, always."""
    policy: VersionPolicy = field(default_factory=Latest)
    labels: Mapping[str, Version] = field(default_factory=dict)
    """Aliases set by hand; `stable` and `canary` are the gateway's own and not in here."""
    resources: Resources = field(default_factory=Resources)
    batching: Batching = field(default_factory=Batching)
    image: str | None = None
    command: tuple[str, ...] = ()
    """For `custom`: the program and its arguments; `{http_port}`, `{grpc_port}` and `{model_dir}`
    are replaced."""
    before: str | None = None
    """Shell command run before a replica starts; it must succeed."""
    after: str | None = None
    """Shell command run after a replica has stopped."""
    timeout_s: float = 30.0
    """Deadline of a request that brings none. 30 s, TensorFlow Serving's own REST default."""
    in_flight_limit: int = 8192
    """Requests of this model at once in one gateway worker; above it callers get 429. A bound of
    memory (some 10 KB each, and the bodies), and not of time: what would be too late is refused
    because of that. A stall of a second at 8,000 requests a second fills it; 1024 were full after
    0.2 s on a machine that was busy with other things, with deadlines of 30 s."""
    hedge: str = ""
    """`p95`: a request that takes longer than 95% of them do is sent to a second replica, too, and
    the first answer wins. Empty: never."""
    require_manifest: bool = False
    speaks: tuple[str, ...] = PROTOCOLS
    """The protocols in which its replicas answer, a subset of PROTOCOLS. A caller's own is passed
    through where it is among them, else translated."""
    canary: CanaryPlan | None = None
    """None: a new version goes live as soon as it is READY on all replicas."""
    tenant: str = "default"
    managed_by: str = "control"
    """`control` (API, CLI) or `reload` (TensorFlow Serving's HandleReloadConfigRequest)."""
    attempt: int = 0
    """Grows when somebody deploys a template again that a rollout has taken back: it is then tried
    again. No part of the template, or its replicas would be replaced for nothing."""


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A spec as stored."""

    spec: ModelSpec
    generation: int
    """Counts changes of this spec; a writer must name the one it read."""
    created_at: str
    """RFC 3339, UTC."""
    updated_at: str
    live_version: Version | None = None
    """Answers when a caller names no version. Kept, so that a restart does not flip it."""
    rollout: Rollout | None = None
    """The newest one; None before the first."""
    running: Template | None = None
    """What the model's own replicas are started with, which is the spec's own unless a rollout has
    yet to bring that, or has taken it back. None: what the spec says."""


class VersionState(StrEnum):
    """Where a version is on its way (`Life of a version` in the README).

    NEW: aspired, nothing done. FETCHING, LOADING: on the way. READY: answers. DRAINING: takes
    nothing new. GONE: unloaded. FAILED: kept out; `reason` says why and `retry_at` when next.
    """

    NEW = "new"
    FETCHING = "fetching"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    GONE = "gone"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version as one replica reports it."""

    version: Version
    state: VersionState
    reason: str = ""
    """Why it FAILED, in words for the model's owner; empty otherwise."""
    error_code: int = 0
    """gRPC status code number of the failure; 0 when there is none."""
    fetched_bytes: int | None = None
    total_bytes: int | None = None
    phase: str = ""
    """What it is doing, for progress displays: `fetching`, `loading`, `warming`."""
