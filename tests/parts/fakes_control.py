"""Fakes of the ports around the control API: a source in a dict, a lifecycle and a scheduler whose
views a test sets by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from gateway.domain.errors import GatewayError, NotFound
from gateway.domain.models import VersionState
from gateway.domain.observed import ModelView, ReplicaView, VersionView
from gateway.domain.replicas import Endpoint, Replica, ReplicaSet, ReplicaState
from gateway.domain.rollouts import Rollout
from gateway.ports import Listing, PublishedVersion


def published(
    version: int, *files: str, settled: bool = True, manifest: bool = False
) -> PublishedVersion:
    """One version of a source."""
    return PublishedVersion(version, f"print-{version}", settled, manifest, 10, files)


@dataclass
class FakeSource:
    """ports.VersionSource: what `versions[uri]` says, or the error it says."""

    versions: dict[str, list[PublishedVersion] | GatewayError] = field(default_factory=dict)
    looks: list[str] = field(default_factory=list)
    hangs: bool = False
    pointer_only: bool = False
    """Answer listings without file names, as when only the pointer object was read."""

    async def look(self, uri: str, previous: Listing | None) -> Listing:
        self.looks.append(uri)
        if self.hangs:
            await asyncio.Event().wait()
        found = self.versions.get(uri)
        if found is None:
            raise NotFound(f"There is no folder {uri}.", reason="source_not_found")
        if isinstance(found, GatewayError):
            raise found
        return Listing({v.version: self._shown(v) for v in found})

    def _shown(self, v: PublishedVersion) -> PublishedVersion:
        if not self.pointer_only:
            return v
        return PublishedVersion(v.version, v.fingerprint, v.settled, v.has_manifest, v.total_bytes)

    async def files(self, uri: str, version: int) -> Sequence[str]:
        found = self.versions[uri]
        assert isinstance(found, list)
        return next(v.files for v in found if v.version == version)


class FakeObserved:
    """ports.Observed: views that the test sets."""

    def __init__(self) -> None:
        self.views: dict[str, ModelView] = {}
        self.poked: list[str] = []
        self.orders: list[tuple[str, str, int | None]] = []
        self.ordered: Rollout | GatewayError = Rollout(2, 1, steps=(5.0,))
        self._changed = asyncio.Event()

    def view(self, name: str) -> ModelView | None:
        return self.views.get(name)

    def poke(self, name: str) -> None:
        self.poked.append(name)

    async def changed(self) -> None:
        await self._changed.wait()

    async def order(self, name: str, action: str, version: int | None = None) -> Rollout:
        """What `ordered` says, and remembers what was asked."""
        self.orders.append((name, action, version))
        if isinstance(self.ordered, GatewayError):
            raise self.ordered
        return self.ordered

    def show(self, view: ModelView | None, name: str = "") -> None:
        """Set one model's view (None with a name: it is gone) and tell who waits."""
        if view is None:
            self.views.pop(name, None)
        else:
            self.views[view.name] = view
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class FakeScheduler:
    """ports.Scheduler: replicas and logs that the test sets."""

    def __init__(self) -> None:
        self.known: list[Replica] = []
        self.written: dict[str, list[bytes]] = {}
        self.more = asyncio.Event()
        """Followers end once this is set."""

    async def ensure(self, desired: Sequence[ReplicaSet]) -> None:
        raise AssertionError("the control API does not schedule")

    def replicas(self) -> Sequence[Replica]:
        return self.known

    async def remove(self, replica_id: str) -> None:
        raise AssertionError("the control API does not remove replicas")

    async def changed(self) -> None:
        await asyncio.Event().wait()

    async def logs(self, replica_id: str, *, follow: bool) -> AsyncIterator[bytes]:
        if replica_id not in self.written:
            raise NotFound(f"There is no replica {replica_id}.", reason="replica_unknown")
        for chunk in self.written[replica_id]:
            yield chunk
        if follow:
            await self.more.wait()
            yield b"the end\n"


def replica(name: str, model: str = "m", state: ReplicaState = ReplicaState.READY) -> Replica:
    """One replica with addresses."""
    return Replica(name, model, state, Endpoint("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:2"), pid=7)


def view(
    name: str = "m",
    *,
    generation: int = 1,
    versions: dict[int, VersionState] | None = None,
    replicas: dict[str, ReplicaState] | None = None,
    live: int | None = None,
    converged: bool = False,
    reason: str = "",
    source_reason: str = "",
) -> ModelView:
    """A view with `reason` on all that failed."""
    failed = (VersionState.FAILED, ReplicaState.FAILED)
    return ModelView(
        name,
        generation,
        live,
        tuple(
            VersionView(v, s, live=v == live, reason=reason if s in failed else "")
            for v, s in sorted((versions or {}).items(), reverse=True)
        ),
        tuple(
            ReplicaView(replica(r, name, s), s, reason=reason if s in failed else "")
            for r, s in (replicas or {}).items()
        ),
        source_reason=source_reason,
        converged=converged,
    )
