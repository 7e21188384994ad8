"""Several gateways on one store, in memory: members with fakes all around.

Each has a scheduler of its own, as local ones are; replicas answer everybody, and outlive their
gateway by `LEASH_S`. Run it in virtual time (virtual_time.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from gateway.control.events import EventLog
from gateway.core.leadership import LeaseSettings
from gateway.core.route import RoutingTable
from gateway.domain.gateways import Beat
from gateway.domain.models import Backend, ModelSpec
from gateway.lifecycle import (
    Election,
    InheritingScheduler,
    LeadersControl,
    Lifecycle,
    LifecycleSettings,
    Member,
    SharedPlanes,
    Term,
)
from tests.parts.fakes_lifecycle import (
    FakeControl,
    FakePlanes,
    FakeScheduler,
    FakeSource,
    LoopClock,
)
from tests.parts.memory_sharing import Hub, MemorySharing

URI = "s3://models/m"
LEASH_S = 30.0
LEASE = LeaseSettings()


class Planes(FakePlanes):
    """Requests go on for a while after the table has changed: at random, some uses stay busy."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self._rng = rng

    def publish(self, table: RoutingTable) -> None:
        before = uses(self.table)
        super().publish(table)
        for use in before - uses(table):
            if self._rng.random() < 0.5:
                self.hold(*use)
                loop = asyncio.get_running_loop()
                loop.call_later(2.0 * self._rng.random(), self.let_go_of, use)

    def let_go_of(self, use: tuple[str, int, str]) -> None:
        self._busy.discard(use)
        self._shrunk.set()


def uses(table: RoutingTable) -> set[tuple[str, int, str]]:
    return {
        (name, version, target.replica_id)
        for name, model in table.models.items()
        for version, targets in model.targets.items()
        for target in targets
    }


@dataclass
class Gateway:
    """One process, as it were."""

    name: str
    fleet: Fleet
    scheduler: FakeScheduler
    planes: Planes
    sharing: MemorySharing
    task: asyncio.Task[None] | None = None
    is_alive: bool = True
    cut_at: float | None = None

    def __post_init__(self) -> None:
        fleet, clock = self.fleet, LoopClock()
        self.shared = SharedPlanes(self.planes, gone_s=LEASE.lease_s)
        self.events = EventLog(fleet.hub.store)
        self.member = Member(
            Beat(self.name, f"{self.name}:8080", ""),
            election=Election(self.name, self.sharing, clock, fleet.rng, LEASE),
            board=self.sharing,
            orders=self.sharing,
            planes=self.shared,
            begin=self._begin,
            clock=clock,
            own=self.scheduler,
            on_event=self.events.catch_up,
        )

    def _begin(self, term: Term) -> Lifecycle:
        fenced = self.sharing.fenced(term.epoch)
        return Lifecycle(
            store=fenced,
            source=self.fleet.source,
            scheduler=InheritingScheduler(self.scheduler, self.shared.table),
            control=LeadersControl(
                _Told(self.fleet, self),  # type: ignore[arg-type]
                lambda: self.member._election.epoch == term.epoch,
            ),
            planes=self.shared,
            emit=self.events.through(fenced),
            clock=LoopClock(),
            rng=self.fleet.rng,
            settings=LifecycleSettings(poll_s=0.5),
            term=term,
        )

    @property
    def leads(self) -> bool:
        return self.is_alive and self.member.role().role == "leader"

    @property
    def table(self) -> RoutingTable:
        return self.planes.table

    def live(self, model: str = "m") -> int | None:
        route = self.table.models.get(model)
        return None if route is None else route.live

    def cut(self) -> None:
        """It cannot reach the database any more."""
        self.sharing.is_cut = True
        self.cut_at = asyncio.get_running_loop().time()

    def mend(self) -> None:
        self.sharing.is_cut = False

    def kill(self) -> None:
        """SIGKILL. Its replicas go on until their leash lets go."""
        assert self.task is not None
        self.is_alive = False
        self.task.cancel()
        loop = asyncio.get_running_loop()
        loop.call_later(LEASH_S, self._end_replicas)

    def _end_replicas(self) -> None:
        for replica in self.scheduler.replicas():
            if replica.endpoint is not None:
                self.fleet.control.silent.add(replica.endpoint.control)
        self.fleet.ended.update(r.id for r in self.scheduler.replicas())


class _Told:
    """ports.ReplicaControl of one gateway: notes who tells."""

    def __init__(self, fleet: Fleet, gateway: Gateway) -> None:
        self._fleet = fleet
        self._gateway = gateway

    async def tell(self, endpoint: Any, told: Any) -> None:
        at = asyncio.get_running_loop().time()
        self._fleet.tells.append((at, self._gateway.name))
        if self._gateway.is_alive and not self._gateway.leads:
            self._fleet.strangers.append((at, self._gateway.name))
        await self._fleet.control.tell(endpoint, told)

    async def report(self, endpoint: Any, model: str) -> Any:
        return await self._fleet.control.report(endpoint, model)

    async def aclose(self) -> None:
        return None


@dataclass
class Fleet:
    """All of them."""

    rng: Random
    tasks: asyncio.TaskGroup
    hub: Hub = field(default_factory=Hub)
    source: FakeSource = field(default_factory=FakeSource)
    control: FakeControl = field(default_factory=lambda: FakeControl(load_s=0.3))
    gateways: list[Gateway] = field(default_factory=list)
    tells: list[tuple[float, str]] = field(default_factory=list)
    strangers: list[tuple[float, str]] = field(default_factory=list)
    """Tells of gateways that did not lead."""
    ended: set[str] = field(default_factory=set)

    async def start(self) -> Gateway:
        """One more."""
        number = len(self.gateways)
        scheduler = FakeScheduler(start_s=0.5)
        scheduler._count = 1000 * (number + 1)  # ids and ports of its own
        gateway = Gateway(f"g{number}", self, scheduler, Planes(self.rng), MemorySharing(self.hub))
        await gateway.member.join()
        gateway.task = self.tasks.create_task(gateway.member.run())
        self.gateways.append(gateway)
        return gateway

    async def deploy(self, at: Gateway, name: str = "m", **changes: Any) -> None:
        """As the control API of one of them does it."""
        old = next((r for r in await self.hub.store.models() if r.spec.name == name), None)
        spec = ModelSpec(name, URI, Backend.ONNX, **changes)
        await self.hub.store.put(spec, None if old is None else old.generation)
        at.member.poke(name)

    async def until(self, said: Callable[[], object], seconds: float = 60.0) -> float:
        """Wait for it; returns how long."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while not said():
            if loop.time() > begun + seconds:
                raise AssertionError(f"not so within {seconds} s")
            await asyncio.sleep(0.01)
        return loop.time() - begun

    @property
    def leader(self) -> Gateway | None:
        leaders = [g for g in self.gateways if g.leads]
        assert len(leaders) <= 1, leaders
        return leaders[0] if leaders else None

    async def has_leader(self) -> Gateway:
        await self.until(lambda: self.leader is not None)
        assert self.leader is not None
        return self.leader

    def others(self, than: Gateway) -> list[Gateway]:
        return [g for g in self.gateways if g is not than and g.is_alive]

    def wrong_routes(self, spared: Collection[str] = ()) -> list[tuple[str, str, int, str]]:
        """What living gateways would send to replicas that do not hold it (any more)."""
        found = []
        for gateway in self.gateways:
            if not gateway.is_alive or gateway.name in spared:
                continue
            for name, model in gateway.table.models.items():
                for version, targets in model.targets.items():
                    for target in targets:
                        server = self.control.servers.get(target.endpoint.control)
                        holds = server is not None and version in server.states
                        if not holds and target.replica_id not in self.ended:
                            found.append((gateway.name, name, version, target.replica_id))
        return found


@asynccontextmanager
async def fleet(size: int, seed: int = 1) -> AsyncIterator[Fleet]:
    """So many gateways; they are ended with the block."""
    async with asyncio.TaskGroup() as tasks:
        made = Fleet(Random(seed), tasks)
        for _ in range(size):
            await made.start()
        yield made
        for gateway in made.gateways:
            if gateway.task is not None:
                gateway.task.cancel()
