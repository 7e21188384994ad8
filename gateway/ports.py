"""Where the rooms meet: Protocols of a few methods each. No logic.

The conformance suites under tests/conformance are the definition of each port; these are only
their shapes. Times are monotonic seconds of the running loop unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from gateway.core.autoscale import Demand
from gateway.core.route import ModelRoute, RoutingTable, Target
from gateway.domain.agreement import AgreementTally
from gateway.domain.gateways import Beat, Heard, Lease, Order, Outcome
from gateway.domain.models import ModelRecord, ModelSpec
from gateway.domain.names import Version
from gateway.domain.observed import ModelView
from gateway.domain.replicas import (
    Endpoint,
    Replica,
    ReplicaReport,
    ReplicaSet,
    ReplicaStanding,
    Told,
)
from gateway.domain.rollouts import Rollout
from gateway.domain.templates import Template
from gateway.domain.tensors import Signature
from gateway.wire.exchange import AnswerSink, ClientExchange, Data
from gateway.wire.fields import Fields


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
    """Lower-case names. HTTP headers or gRPC metadata to send; values of `-bin` names are base64
    text, as on the wire."""


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
    """Carries one request to one replica. One implementation for each protocol, and those that
    translate between them."""

    async def call(
        self, endpoint: Endpoint, request: UpstreamRequest, deadline_at: float
    ) -> UpstreamAnswer:
        """Ask and collect the whole answer. Raises UpstreamFailed (with `sent`) or
        DeadlineExceeded; cancelling cancels the call."""
        ...

    def keep(self, endpoints: Collection[Endpoint]) -> None:
        """Close connections to every endpoint but these; those in use, when they are done."""
        ...

    async def aclose(self) -> None: ...


class DirectUpstream(Upstream, Protocol):
    """One that passes on what comes as it comes, too."""

    def begin(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        fields: Sequence[Fields],
        body: Data | None,
        timeout_s: float,
        sink: AnswerSink,
        *,
        length: int | None = None,
    ) -> ClientExchange:
        """Send a request without waiting: its answer comes to `sink` as it comes in. As
        `wire.exchange.Client.request`, with what is left of the deadline told to the replica; who
        calls ends it (`cancel`) when that is over. Nothing is raised for a replica that cannot be
        reached: `sink.on_failed` hears of it."""
        ...

    def drop(self, endpoint: Endpoint) -> None:
        """Close its connections now, in use or not: whoever waits for an answer from it hears of a
        broken connection."""
        ...


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

    def tallies(self, model: str) -> Mapping[Version, Sequence[int]]:
        """What the canary and the live version of `model` have answered in the window that the
        newest table names (core/analysis.py), summed over all workers; where both have the same
        version, the canary's by core.route.CANARY_SIDE. Of requests only that
        were split, not of those that name a version, a label or a side. A worker tells within half
        a second."""
        ...

    def standings(self) -> Mapping[str, ReplicaStanding]:
        """Replicas that are not in good standing with all workers, by id. A worker tells within
        half a second."""
        ...

    def demand(self, model: str) -> Demand:
        """What was asked of `model` until now, summed over all workers, where the newest table says
        that it is scaled; its differences are averages. A worker tells within half a second."""
        ...

    async def called(self) -> Collection[str]:
        """Wait until requests wait for models that have no replica and are started on demand;
        returns their names. Told at once, and once for each table."""

    def agreement(self, model: str) -> AgreementTally | None:
        """What copies to the canary of `model` have shown in the same window (core/agreement.py);
        None where none are made."""
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
        enough new ones listen), or of a model that is not desired. Level-triggered, idempotent; one
        that drains and is needed after all goes on."""
        ...

    def replicas(self) -> Sequence[Replica]:
        """All of them, as known now."""
        ...

    async def remove(self, replica_id: str) -> None:
        """End a DRAINING replica that has left the routing table: SIGTERM, then SIGKILL after its
        grace. Returns once it has stopped. Nothing happens to one that is unknown, or needed after
        all."""
        ...

    async def changed(self) -> None:
        """Wait until `replicas()` would answer differently than when last called."""
        ...

    def logs(self, replica_id: str, *, follow: bool) -> AsyncIterator[bytes]:
        """The replica's output, oldest first; also of one that has stopped. `ID/OUTPUT` asks for
        one of `Replica.outputs`. Raises NotFound."""
        ...


@runtime_checkable
class SharedScheduler(Scheduler, Protocol):
    """One whose replicas several gateways see, and one of them acts on: who leads."""

    def act_only_while(self, may_act: Callable[[], bool]) -> None:
        """Ask this last thing before each write; where it says no, nothing is written."""
        ...

    def stand_down(self) -> None:
        """Only look from now on; `ensure` makes this gateway act again."""
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

    async def order(self, name: str, action: str, version: Version | None = None) -> Rollout:
        """Start, pause, resume, promote, abort or undo a rollout (`action`); `version` is for
        `start`. Returns it as it then is, stored; the table follows at once.

        Raises:
            NotFound: no such model. Conflict, FailedPrecondition, InvalidRequest: as core.rollout;
            the words say what may be done instead.
        """
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

    async def set_running(self, name: str, running: Template) -> None:
        """Remember what a model's own replicas are started with. Raises NotFound."""
        ...

    async def set_rollout(self, name: str, rollout: Rollout | None) -> None:
        """Remember how far a rollout is; does not count as a change of the spec."""
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


# ---- one gateway ⇄ the others --------------------


class Leases(Protocol):
    """The one lease of those who may lead; core/leadership.py has the rules."""

    async def take(self, me: str, address: str, epoch: int | None, lease_s: float) -> Lease:
        """Take the lease for a new term (`epoch` None), or renew it for the one named. Returns the
        lease as it then is, whoever has it. Raises Unavailable."""
        ...

    async def release(self, me: str, epoch: int) -> None:
        """Let the next one take it at once. Does nothing where it is another's already."""
        ...


@dataclass(frozen=True, slots=True)
class Posting:
    """What the leader makes known of one model. All empty: there is no such model any more."""

    route: ModelRoute | None = None
    """As every gateway's routing table is to have it."""
    view: ModelView | None = None
    silent: tuple[Target, ...] = ()
    """Only of the posting under no name (""): the routing table's own."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """What there is to know since the last one."""

    number: int
    """Of the newest posting; grows with each."""
    postings: Mapping[str, Posting]
    """Those after the number that was asked for, by model."""
    gateways: Sequence[Heard]
    """All others, the silent ones among them until they are forgotten."""
    lease: Lease
    newest_event: int
    has_orders: bool


class Board(Protocol):
    """What the gateways of one store tell each other."""

    async def beat(self, beat: Beat) -> Pulse:
        """Say what is true of this gateway, and hear what is new since its number. One transaction:
        who is not heard of in it comes after all that it shows."""
        ...

    async def post(self, epoch: int, number: int, postings: Mapping[str, Posting]) -> None:
        """Replace what is known of these models. Raises Unavailable (`not_leader`) where the term
        `epoch` is over."""
        ...

    def fenced(self, epoch: int) -> Store:
        """The store as the leader of this term writes and reads it: each call raises Unavailable
        (`not_leader`) once the term is over."""
        ...

    async def changed(self) -> None:
        """Wait until something may be new. Returns without reason, too, and within a second."""
        ...


class Orders(Protocol):
    """What followers are asked for and only the leader can do."""

    async def give(self, order: Order) -> int:
        """Leave an order to the leader; returns its number."""
        ...

    async def take_orders(self, epoch: int) -> Sequence[Order]:
        """Those that nobody has taken, oldest first; they are taken then, and never again."""
        ...

    async def reply(self, epoch: int, number: int, outcome: Outcome) -> None:
        """What became of it."""
        ...

    async def outcome(self, number: int) -> Outcome | None:
        """What the leader replied; None as long as it has not."""
        ...

    async def withdraw(self, number: int) -> bool:
        """Take it back. False where the leader has taken it already."""
        ...
