"""A small world for the lifecycle: replicas in memory with scheduled faults, sources, data planes.

FakeScheduler passes the same conformance suite as the local one (tests/conformance).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.core.autoscale import Demand
from gateway.core.placement import Existing, plan
from gateway.core.route import RoutingTable
from gateway.domain.agreement import AgreementTally
from gateway.domain.errors import NotFound, UpstreamFailed
from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.names import Version
from gateway.domain.replicas import (
    Endpoint,
    Replica,
    ReplicaReport,
    ReplicaSet,
    ReplicaStanding,
    ReplicaState,
    Told,
)
from gateway.ports import Listing, PublishedVersion


class LoopClock:
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def published(
    version: Version, fingerprint: str = "a", *, settled: bool = True, manifest: bool = True
):
    return PublishedVersion(version, fingerprint, settled, manifest, 100)


class FakeSource:
    """Repositories by URI; `errors` are raised while they are there."""

    def __init__(self) -> None:
        self.listings: dict[str, Listing] = {}
        self.errors: dict[str, BaseException] = {}
        self.looks = 0

    def show(self, uri: str, *versions: PublishedVersion) -> None:
        self.listings[uri] = Listing({v.version: v for v in versions})

    async def look(self, uri: str, previous: Listing | None) -> Listing:
        self.looks += 1
        if uri in self.errors:
            raise self.errors[uri]
        if uri not in self.listings:
            raise NotFound(f"{uri} does not exist", reason="source_not_found")
        listing = self.listings[uri]
        return previous if previous == listing and previous is not None else listing

    async def files(self, uri: str, version: Version) -> Sequence[str]:
        return ("model.onnx",)


@dataclass
class FakeServer:
    """What a replica process would hold."""

    told: tuple[Version, ...] = ()
    states: dict[Version, VersionStatus] = field(default_factory=dict)
    tells: list[Told] = field(default_factory=list)


class FakeScheduler:
    """ports.Scheduler in memory. Replicas listen `start_s` after their start; those of a group in
    `crashing` fail instead, with the reason there, until `heal`; while there is `held_up`, they
    wait for that, until `let_start`."""

    def __init__(self, start_s: float = 0.0, surge: int = 1) -> None:
        self.start_s = start_s
        self._surge = surge
        self._replicas: dict[str, Replica] = {}
        self._order: dict[str, int] = {}
        self._news = asyncio.Event()
        self._count = 0
        self._logs: dict[str, bytes] = {}
        self._desired: Sequence[ReplicaSet] = ()
        self.removed: list[str] = []
        self.crashing: dict[str, str] = {}
        self.held_up = ""

    async def ensure(self, desired: Sequence[ReplicaSet]) -> None:
        self._desired = desired
        self._settle()

    def _settle(self) -> None:
        wanted = {(d.spec.name, d.group): d for d in self._desired}
        for replica in list(self._replicas.values()):
            if (replica.model, replica.group) not in wanted:
                self._drain(replica.id)
        of_group: dict[tuple[str, str], list[Replica]] = {}
        for replica in self._replicas.values():
            of_group.setdefault((replica.model, replica.group), []).append(replica)
        for group, one in wanted.items():
            existing = [
                Existing(
                    r.id,
                    r.template,
                    r.state is ReplicaState.LOADING,
                    r.state is ReplicaState.DRAINING,
                    may_stay=r.endpoint is not None,
                    started=self._order[r.id],
                )
                for r in of_group.get(group, ())
            ]
            step = plan(one.wanted, one.template, existing, self._surge)
            for replica_id in step.keep:
                kept = replace(self._replicas[replica_id], state=ReplicaState.LOADING)
                self._replicas[replica_id] = kept
                self._news.set()
            for replica_id in step.drain:
                self._drain(replica_id)
            for _ in range(step.start):
                self._start(one)

    def _start(self, one: ReplicaSet) -> None:
        self._count += 1
        replica_id = f"{one.spec.name}-{'abcdefghij'[self._count % 10]}{self._count:04d}"
        self._order[replica_id] = self._count
        self._logs[replica_id] = b"started\n"
        self._replicas[replica_id] = Replica(
            replica_id,
            one.spec.name,
            ReplicaState.STARTING,
            template=one.template,
            group=one.group,
            pid=self._count,
        )
        asyncio.get_running_loop().call_later(self.start_s, self._listen, replica_id)
        self._news.set()

    def _listen(self, replica_id: str) -> None:
        replica = self._replicas.get(replica_id)
        if replica is not None and replica.state is ReplicaState.STARTING:
            self._news.set()
            if self.held_up:
                waits = replace(replica, reason=self.held_up, is_held_up=True)
                self._replicas[replica_id] = waits
                return
            if reason := self.crashing.get(replica.group):
                failed = replace(replica, state=ReplicaState.FAILED, reason=reason, pid=None)
                self._replicas[replica_id] = failed
                return
            at = f"127.0.0.1:{10000 + self._order[replica_id]}"
            self._replicas[replica_id] = replace(
                replica, state=ReplicaState.LOADING, endpoint=Endpoint(at, at, at)
            )

    def _drain(self, replica_id: str) -> None:
        replica = self._replicas[replica_id]
        if replica.state is ReplicaState.FAILED:
            del self._replicas[replica_id]
            self._news.set()
        elif replica.state is not ReplicaState.DRAINING:
            self._replicas[replica_id] = replace(replica, state=ReplicaState.DRAINING)
            self._news.set()

    def kill(self, replica_id: str) -> None:
        """It dies, and another is started in its place."""
        del self._replicas[replica_id]
        self._news.set()
        asyncio.get_running_loop().call_later(self.start_s, self._settle)

    def let_start(self) -> None:
        """What has kept replicas from starting is over."""
        self.held_up = ""
        for replica in list(self._replicas.values()):
            self._replicas[replica.id] = replace(replica, reason="", is_held_up=False)
            self._listen(replica.id)

    def heal(self, group: str) -> None:
        """What has failed of this group is started again, and works."""
        del self.crashing[group]
        for replica in list(self._replicas.values()):
            if (replica.group, replica.state) == (group, ReplicaState.FAILED):
                del self._replicas[replica.id]
        self._settle()
        self._news.set()

    def replicas(self) -> Sequence[Replica]:
        self._news.clear()
        return list(self._replicas.values())

    async def remove(self, replica_id: str) -> None:
        if self._replicas.pop(replica_id, None) is not None:
            self.removed.append(replica_id)
            self._news.set()

    async def changed(self) -> None:
        await self._news.wait()

    async def logs(self, replica_id: str, *, follow: bool) -> AsyncIterator[bytes]:
        if replica_id not in self._logs:
            raise NotFound("no such replica", reason="replica_unknown")
        yield self._logs[replica_id]


class FakeControl:
    """ports.ReplicaControl over replicas in memory, which load what they are told after `load_s`.

    `broken` versions fail; `silent` endpoints do not answer; `holding` versions never finish.
    """

    def __init__(self, load_s: float = 0.01) -> None:
        self.servers: dict[str, FakeServer] = {}
        self.broken: dict[Version, str] = {}
        self.holding: set[Version] = set()
        self.silent: set[str] = set()
        self.load_s = load_s

    def server(self, endpoint: Endpoint) -> FakeServer:
        return self.servers.setdefault(endpoint.control, FakeServer())

    async def tell(self, endpoint: Endpoint, told: Told) -> None:
        if endpoint.control in self.silent:
            raise UpstreamFailed("silent", reason="connect_refused", sent=False)
        server = self.server(endpoint)
        server.tells.append(told)
        server.told = told.versions
        for version in list(server.states):
            if version not in told.versions:
                del server.states[version]
        for version in told.versions:
            if version not in server.states:
                server.states[version] = VersionStatus(version, VersionState.LOADING)
                asyncio.get_running_loop().call_later(self.load_s, self._load, server, version)

    def _load(self, server: FakeServer, version: Version) -> None:
        if version not in server.told or version in self.holding:
            return
        if version in self.broken:
            status = VersionStatus(version, VersionState.FAILED, self.broken[version], 3)
        else:
            status = VersionStatus(version, VersionState.READY)
        server.states[version] = status

    def finish(self, version: Version) -> None:
        """A version that was held up loads now."""
        self.holding.discard(version)
        for server in self.servers.values():
            self._load(server, version)

    async def report(self, endpoint: Endpoint, model: str) -> ReplicaReport:
        if endpoint.control in self.silent:
            return ReplicaReport(answered=False)
        return ReplicaReport(answered=True, versions=dict(self.server(endpoint).states))

    async def aclose(self) -> None:
        return None


class FakePlanes:
    """ports.DataPlanes: keeps every table; `hold` makes something busy."""

    def __init__(self) -> None:
        self.tables: list[RoutingTable] = []
        self._busy: set[tuple[str, Version, str]] = set()
        self._shrunk = asyncio.Event()
        self.counted: dict[Version, list[int]] = {}
        """What `tallies` says, of any model, while the table has a canary."""
        self.doubted: dict[str, ReplicaStanding] = {}
        self.in_flight = 0.0
        """Requests of any model that are in flight, from `ask` on."""
        self.came = 0
        self._request_s = 0.0
        self._asked_at = 0.0
        self._calls: set[str] = set()
        self._calling = asyncio.Event()
        self.agreed: AgreementTally | None = None
        """What `agreement` says then."""

    @property
    def table(self) -> RoutingTable:
        return self.tables[-1] if self.tables else RoutingTable()

    def publish(self, table: RoutingTable) -> None:
        self.tables.append(table)

    def tallies(self, model: str) -> Mapping[Version, Sequence[int]]:
        route = self.table.models.get(model)
        return {} if route is None or route.canary is None else self.counted

    def standings(self) -> Mapping[str, ReplicaStanding]:
        return self.doubted

    def ask(self, in_flight: float) -> None:
        """From now on so many requests are in flight."""
        self.demand("")
        self.came += in_flight > self.in_flight
        self.in_flight = in_flight

    def demand(self, model: str) -> Demand:
        now = asyncio.get_running_loop().time()
        self._request_s += self.in_flight * (now - self._asked_at)
        self._asked_at = now
        return Demand(self._request_s, self.came)

    def call(self, model: str) -> None:
        self._calls.add(model)
        self._calling.set()

    async def called(self) -> Collection[str]:
        await self._calling.wait()
        self._calling.clear()
        calls, self._calls = self._calls, set()
        return calls

    def agreement(self, model: str) -> AgreementTally | None:
        route = self.table.models.get(model)
        return None if route is None or route.canary is None else self.agreed

    def busy(self) -> Collection[tuple[str, Version, str]]:
        return set(self._busy)

    def hold(self, model: str, version: Version, replica_id: str) -> None:
        self._busy.add((model, version, replica_id))

    def let_go(self) -> None:
        self._busy.clear()
        self._shrunk.set()

    async def drained(self) -> None:
        self._shrunk.clear()
        if self._busy:
            await self._shrunk.wait()


@dataclass
class Emitted:
    """Keeps what was emitted."""

    events: list[tuple[str, str, str, dict[str, Any]]] = field(default_factory=list)

    async def __call__(self, type: str, model: str, message: str, **fields: Any) -> None:
        self.events.append((type, model, message, fields))

    @property
    def types(self) -> list[str]:
        return [e[0] for e in self.events]


__all__ = [
    "Emitted",
    "FakeControl",
    "FakePlanes",
    "FakeScheduler",
    "FakeServer",
    "FakeSource",
    "LoopClock",
    "published",
]
