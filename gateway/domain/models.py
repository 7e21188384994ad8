"""A model as its owner wants it, and what is known of its versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.domain.names import Version


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
class Resources:
    """What one replica may use."""

    gpus: int = 0
    gpu_type: str | None = None
    """GPU product, e.g. `NVIDIA-A100-SXM4-80GB`; None takes any."""
    cpus: float | None = None
    """Cores; None sets no bound."""
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Batching:
    """How a replica joins rows of separate requests into one run."""

    max_rows: int = 32
    """Rows per run at most. 1 turns joining off."""
    delay_s: float = 0.0
    """How long the first row waits for company. 0 joins only what is queued already, which costs
    a lone caller nothing and still fills batches under load."""


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
    in_flight_limit: int = 1024
    """Requests of this model at once in one gateway worker; above it callers get 429."""
    require_manifest: bool = False
    speaks: tuple[str, ...] = PROTOCOLS
    """The protocols in which its replicas answer, a subset of PROTOCOLS. A caller's own is passed
    through where it is among them, else translated."""
    tenant: str = "default"
    managed_by: str = "control"
    """`control` (API, CLI) or `reload` (TensorFlow Serving's HandleReloadConfigRequest)."""


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
