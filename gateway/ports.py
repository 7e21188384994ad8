"""Where the rooms meet: Protocols of a few methods each. No logic.

The conformance suites under tests/conformance are the definition of each port; these are only
their shapes. Times are monotonic seconds of the running loop unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.core.route import RoutingTable
from gateway.domain.models import ModelRecord, ModelSpec
from gateway.domain.names import Version
from gateway.domain.observed import ModelView
from gateway.domain.replicas import Endpoint, Replica, ReplicaReport, ReplicaSet, Told
from gateway.domain.tensors import Signature


class Clock(Protocol):
    """Monotonic time, so that tests can own it."""

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


# ---- data plane → replicas --------------------


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One call in the replica's own protocol; `body` is passed on as it is."""

    target: str
    """HTTP: `POST /v1/models/m/versions/3:predict`. gRPC: the path, `/package.Service/Call`."""
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    """Lower-case names. HTTP headers or gRPC metadata to send."""


@dataclass(frozen=True, slots=True)
class UpstreamAnswer:
    """What the replica said, undecoded."""

    status: int
    """HTTP status, or gRPC status code number (0 is OK)."""
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    """HTTP headers (hop-by-hop ones removed), or gRPC trailing metadata."""
    message: str = ""
    """gRPC status message; empty for HTTP."""


class Upstream(Protocol):
    """Carries one request to one replica. One implementation for each protocol."""

    async def call(
        self, endpoint: Endpoint, request: UpstreamRequest, deadline_at: float
    ) -> UpstreamAnswer:
        """Raises UpstreamFailed (with `sent`) or DeadlineExceeded; cancelling cancels the call."""
        ...

    def keep(self, endpoints: Collection[Endpoint]) -> None:
        """Close connections to every endpoint but these; those in use, when they are done."""
        ...

    async def aclose(self) -> None: ...


# ---- lifecycle → data plane --------------------


class DataPlanes(Protocol):
    """All the workers that answer requests, seen from the lifecycle loops."""

    def publish(self, table: RoutingTable) -> None:
        """Replace the table in every worker. Returns at once."""
        ...

    def busy(self) -> Collection[tuple[str, Version, str]]:
        """(model, version, replica id) that some worker may still be using although the newest
        table does not name it: requests in flight, or a worker that has not taken the table yet."""
        ...

    async def drained(self) -> None:
        """Wait until `busy()` has shrunk, or returned to nothing."""
        ...


# ---- lifecycle → sources --------------------


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """One version as the source shows it."""

    version: Version
    fingerprint: str
    """The manifest's digest, or a digest of names, sizes and ETags where there is no manifest."""
    settled: bool
    """Whether it may be loaded: a manifest names it, or its listing stood still long enough."""
    has_manifest: bool
    total_bytes: int
    files: tuple[str, ...] = ()
    """Relative paths; empty when only the pointer was read."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One look at a source."""

    versions: Mapping[Version, PublishedVersion] = field(default_factory=dict)
    validator: str = ""
    """ETag of the pointer object; empty for a listed repository."""


class VersionSource(Protocol):
    """Says what a model's repository has. The bytes are fetched by the replicas themselves."""

    async def look(self, uri: str, previous: Listing | None) -> Listing:
        """Look once. Returns `previous` itself when nothing is new.

        Raises:
            NotFound: no such bucket or folder (`source_not_found`).
            Forbidden: credentials are missing or wrong (`source_denied`).
            Unavailable: it did not answer (`source_unreachable`).
            InvalidRequest: the URI or the pointer object cannot be read (`bad_source`).
        """
        ...

    async def files(self, uri: str, version: Version) -> Sequence[str]:
        """Relative paths of one version's files, to tell the backend from."""
        ...


# ---- lifecycle → replicas --------------------


class ReplicaControl(Protocol):
    """ModelService of one replica."""

    async def tell(self, endpoint: Endpoint, told: Told) -> None:
        """HandleReloadConfigRequest. Returns once the replica has taken the configuration; loading
        goes on. Raises UpstreamFailed."""
        ...

    async def report(self, endpoint: Endpoint, model: str) -> ReplicaReport:
        """GetModelStatus, with progress where the replica offers it. Never raises for a replica
        that does not answer: `answered` is False."""
        ...

    async def aclose(self) -> None: ...


class Scheduler(Protocol):
    """Keeps replicas running. Local processes, or pods."""

    async def ensure(self, desired: Sequence[ReplicaSet]) -> None:
        """Start what is missing and mark as DRAINING what is too many, of an old template (once
        enough new ones listen), or of a model that is not desired. Level-triggered, idempotent."""
        ...

    def replicas(self) -> Sequence[Replica]:
        """All of them, as known now."""
        ...

    async def remove(self, replica_id: str) -> None:
        """End a DRAINING replica that has left the routing table: SIGTERM, then SIGKILL after its
        grace. Returns once it has stopped; unknown ids are no error."""
        ...

    async def changed(self) -> None:
        """Wait until `replicas()` would answer differently than when last called."""
        ...

    def logs(self, replica_id: str, *, follow: bool) -> AsyncIterator[bytes]:
        """The replica's output, oldest first; also of one that has stopped. Raises NotFound."""
        ...


class Signatures(Protocol):
    """What servables take and give, as the replicas that hold them say."""

    async def of(
        self, model: str, version: Version, speaks: Collection[str]
    ) -> Mapping[str, Signature]:
        """By name. `speaks` is what replicas answer in that have not said so themselves. Raises
        Unavailable where none could say (`no_selectable_replica`)."""
        ...


# ---- control API → lifecycle --------------------


class Observed(Protocol):
    """The lifecycle loops, seen from the control API."""

    def view(self, name: str) -> ModelView | None:
        """What is known of a model now; None before its first look."""
        ...

    def poke(self, name: str) -> None:
        """Look at this model at once: its spec changed, or somebody asked for a refresh."""
        ...

    async def changed(self) -> None:
        """Wait until some model's view differs from what it was when this was called."""
        ...


# ---- data plane → control --------------------


class Reloader(Protocol):
    """What callers of the prediction ports may ask of the gateway's configuration."""

    async def reload(self, request: bytes, deadline_at: float) -> bytes:
        """TensorFlow Serving's HandleReloadConfigRequest, applied to the gateway itself:
        serialized ReloadConfigRequest in, serialized ReloadConfigResponse out. Raises GatewayError,
        which the front turns into a gRPC status."""
        ...

    async def refresh(self, name: str) -> object:
        """Have a deployed model's source looked at now. Returns without waiting for what it shows.
        Raises NotFound."""
        ...


# ---- everything → store --------------------


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, for people and for watchers."""

    type: str
    """Past tense: `version.ready`, `replica.failed`, `model.deployed`."""
    model: str
    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able; `version`, `replica` and `reason` where they apply."""
    seq: int = 0
    """Assigned by the store, strictly growing."""
    at: str = ""
    """RFC 3339, UTC; assigned by the store."""


class Store(Protocol):
    """What survives a crash."""

    async def models(self) -> Sequence[ModelRecord]: ...

    async def put(self, spec: ModelSpec, expected_generation: int | None) -> ModelRecord:
        """Create (None) or replace (the generation that was read). Raises Conflict
        (`stale_generation`, `model_exists`)."""
        ...

    async def set_live(self, name: str, version: Version | None) -> None:
        """Remember which version answers; does not count as a change of the spec."""
        ...

    async def delete(self, name: str, expected_generation: int | None = None) -> None:
        """Raises NotFound, Conflict."""
        ...

    async def append(self, event: Event) -> Event:
        """Keep an event; returns it with `seq` and `at`. The oldest beyond a bound are dropped."""
        ...

    async def events(
        self, *, after: int = 0, model: str | None = None, limit: int = 1000
    ) -> Sequence[Event]:
        """Oldest first, with `seq` above `after`. With `after=0` the newest `limit`."""
        ...

    async def aclose(self) -> None: ...
