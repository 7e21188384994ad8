"""What all requests of one process share: the table, who is in flight, which replica is next.

Nothing in here knows a protocol: the fronts parse and answer, the upstreams carry bytes, and
`Forwarding` takes one request through. The routing table is read anew for every attempt, and
nothing else happens between reading it and counting the call as in flight, so that the lifecycle
can trust `busy()`: a replica and version that the newest table does not name, and that is not busy,
will get no request any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from random import Random

from gateway.core import admission
from gateway.core.autoscale import Demand
from gateway.core.dialect import Dialect
from gateway.core.ejection import GRPC_ERRORS, HTTP_ERRORS
from gateway.core.limits import Limit
from gateway.core.queueing import Priority, Turns
from gateway.core.retry import Attempt, RetryBudget, Step, after_failure, candidates
from gateway.core.route import (
    Canary,
    Route,
    RoutingTable,
    Target,
    is_interrupted,
    peers,
    route,
    shadow_of,
    to_canary,
)
from gateway.dataplane.awaiting import Awaiting
from gateway.dataplane.callers import Caller, Transport
from gateway.dataplane.demand import DemandCounts
from gateway.dataplane.forwarding import Forwarding
from gateway.dataplane.inflight import InFlight, Use
from gateway.dataplane.replicas import Replicas
from gateway.dataplane.seen import Seen
from gateway.dataplane.settings import DataplaneSettings
from gateway.dataplane.shadowing import Shadowing
from gateway.dataplane.split_counts import SplitCounts
from gateway.dataplane.translating import Translation
from gateway.dataplane.turns import ModelState, Turning
from gateway.domain.agreement import AgreementTally
from gateway.domain.errors import GatewayError, Overloaded, Unavailable
from gateway.domain.names import Version
from gateway.domain.replicas import ReplicaStanding
from gateway.ports import DirectUpstream, UpstreamAnswer, UpstreamRequest
from gateway.telemetry import Metrics, log
from gateway.wire.fields import Pairs
from gateway.wire.tasks import Tasks

Pin = Callable[[Version], UpstreamRequest]
"""Makes the request for one version. Called once for each attempt."""


class Dataplane:
    """One process's data plane. Implements ports.DataPlanes for itself. Made and used within one
    running loop."""

    def __init__(
        self,
        settings: DataplaneSettings,
        *,
        http: DirectUpstream,
        grpc: DirectUpstream,
        metrics: Metrics,
        rng: Random | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.loop = asyncio.get_running_loop()
        self.http = Transport(
            "http", Dialect.TFS_REST, http, 503, 404, HTTP_ERRORS, overloaded=429, last_good=399
        )
        self.grpc = Transport(
            "grpc", Dialect.TFS_GRPC, grpc, 14, 5, GRPC_ERRORS, overloaded=8, last_good=0
        )
        self.v2_http = replace(self.http, dialect=Dialect.V2_REST)
        self.v2_grpc = replace(self.grpc, dialect=Dialect.V2_GRPC)
        self.translation = Translation(http, grpc, max_body_bytes=settings.max_body_bytes)
        self.table = RoutingTable()
        self.in_flight = InFlight()
        self.rng = rng or Random()
        self.replicas = Replicas(
            settings.balance, settings.ejection, self.in_flight, metrics, self.rng
        )
        self.split = SplitCounts()
        self.shadowing = Shadowing(self)
        self.tasks = Tasks(lambda error: log.bug("request.bug", error))
        """Of requests that have to be translated, and of answers that are coroutines."""
        self.held_bytes = 0
        """Of requests that are held, to be sent (again): bounded by `settings.hold`."""
        self.waiting: set[Forwarding] = set()
        """Requests that wait for the next table."""
        self.turning = Turning(metrics)
        self.states: dict[str, ModelState] = {}
        """By model: what lasts from one request to the next."""
        self.demands = DemandCounts(self.in_flight.by_model, self.states, self.loop)

    # ---- for the lifecycle --------------------

    def publish(self, table: RoutingTable) -> None:
        """Replace the table; requests that wait for a replica look again, and those that wait for
        an answer of one that has become silent ask another."""
        before, self.table = self.table, table
        targets = {
            t.replica_id: t.endpoint for model in table.models.values() for _, t in model.held()
        }
        groups = {name: peers(model) for name, model in table.models.items()}
        self.replicas.keep(groups, self.loop.time())
        self.split.keep(table)
        self.demands.keep(table)
        for name in [n for n in self.states if n not in table.models]:
            del self.states[name]
            self.metrics.forget_model(name)
        for name, state in self.states.items():
            state.turns.limit.most = table.models[name].in_flight_limit
        endpoints = list(targets.values())
        self.http.upstream.keep(endpoints)
        self.grpc.upstream.keep(endpoints)
        for target in table.silent:
            if target not in before.silent:
                log.warning("replica.given_up", replica=target.replica_id)
                self.http.upstream.drop(target.endpoint)
                self.grpc.upstream.drop(target.endpoint)
        self.translation.keep(table)
        self.shadowing.signatures.keep(table)
        waiting, self.waiting = self.waiting, set()
        for forwarding in waiting:
            forwarding.go()

    def tallies(self, model: str) -> Mapping[Version, Sequence[int]]:
        """See ports.DataPlanes."""
        return self.split.of(model)

    def standings(self) -> Mapping[str, ReplicaStanding]:
        """See ports.DataPlanes."""
        found = self.replicas.standings(self.loop.time())
        return {r: ReplicaStanding(standing, cause) for r, (standing, cause) in found.items()}

    def demand(self, model: str) -> Demand:
        """See ports.DataPlanes."""
        return self.demands.of(model)

    async def called(self) -> Collection[str]:
        """See ports.DataPlanes."""
        return await self.demands.called()

    def agreement(self, model: str) -> AgreementTally | None:
        """See ports.DataPlanes."""
        return self.split.agreement_of(model)

    def busy(self) -> Collection[Use]:
        """What requests in flight still use although the table no longer names it."""
        return self.in_flight.busy(self.table)

    def turns(self) -> dict[str, tuple[int, int]]:
        """By model: how many requests wait, and how many may be with replicas at once."""
        return {
            name: (state.turns.queue.size, state.turns.limit.value)
            for name, state in self.states.items()
        }

    async def drained(self) -> None:
        """Wait until something that was busy is not any more, or nothing is."""
        before = set(self.busy())
        while before and before <= set(self.busy()):
            await self.in_flight.change()

    async def aclose(self) -> None:
        """End what still runs, and close the connections to replicas."""
        self.demands.close()
        await self.tasks.aclose()
        self.translation.close()
        self.shadowing.close()
        await self.http.upstream.aclose()
        await self.grpc.upstream.aclose()

    # ---- for the fronts --------------------

    def admit(
        self,
        transport: Transport,
        caller: Caller,
        name: str,
        version: Version | None,
        label: str | None,
        timeout_s: float | None,
        started_at: float,
        priority: Priority = Priority.STANDARD,
    ) -> Forwarding:
        """Let a request in. It is counted from here on, until it has ended, however it does.

        Raises:
            NotFound, InvalidRequest, Unavailable: as core.route.route; a live version whose
                replicas are all gone is let in, and waits for one.
            Overloaded: the model's in-flight limit is reached, or it would be answered after its
                deadline (core.queueing).
            DeadlineExceeded: the caller's deadline has passed already.
        """
        table = self.table
        way: Route | None = None
        place: float | None = None
        shadow: Canary | None = None
        try:
            way = route(table, name, version, label)
            model = way.model
            if model.canary is not None and version is None and label is None:
                place = caller.place(name, model.canary.sticky)
                if place is None:
                    place = self.rng.random()
                way, shadow = self._split(way, model.canary, place)
        except Unavailable:
            if not is_interrupted(table, name, version, label):
                raise
            model = table.models[name]
        deadline_at = admission.deadline(timeout_s, model.timeout_s, started_at)
        state = self.states.get(name) or self._known(name, model.in_flight_limit)
        state.came += 1
        turns = state.turns
        in_flight = self.in_flight.by_model.get(name, 0)
        try:
            if in_flight >= model.in_flight_limit:
                admission.check_in_flight(name, in_flight, model.in_flight_limit)
            if turns.active > turns.limit.free:
                turns.check(priority, deadline_at - started_at)
        except Overloaded as error:
            self.metrics.shed_total.labels(name, error.reason).inc()
            raise
        state.budget.deposit()
        asked = Forwarding(
            self, caller, transport, name, version, label, deadline_at, model.speaks, state
        )
        asked.priority = priority
        asked.way, asked.table, asked.place, asked.shadow = way, table, place, shadow
        if model.hedge:
            asked.hedging = state.tail_of(model.hedge)
        return asked

    def _split(self, way: Route, canary: Canary, place: float) -> tuple[Route, Canary | None]:
        """Where a request at this place goes, and who gets a copy of it."""
        other = to_canary(way.model, place)
        if other is not None:
            return other, None
        return way, shadow_of(canary, place, self.rng)

    def _known(self, name: str, most: int) -> ModelState:
        settings = self.settings
        limit = Limit(settings.limit, most, self.loop.time())
        turns: Turns[Forwarding] = Turns(name, limit, settings.queue)
        state = self.states[name] = ModelState(RetryBudget(settings.retry), turns)
        return state

    async def ask(
        self,
        transport: Transport,
        name: str,
        version: Version | None,
        label: str | None,
        timeout_s: float | None,
        pin: Pin,
        seen: Seen | None = None,
        fields: Pairs = (),
        priority: Priority = Priority.STANDARD,
    ) -> UpstreamAnswer:
        """The same for a request that is here whole and whose answer is awaited whole: messages of
        a stream, statistics. Cancelling it cancels the call. `fields` are the caller's, by which it
        keeps its side of a rollout.

        Raises:
            GatewayError: as `admit`, or what the attempts ended with.
        """
        awaiting = Awaiting(pin, fields)
        forwarding = self.admit(
            transport, awaiting, name, version, label, timeout_s, self.loop.time(), priority
        )
        if seen is not None:
            seen.asked = forwarding
        return await awaiting.answer_of(forwarding)

    # ---- for Forwarding --------------------

    def pick(self, asked: Forwarding, now: float) -> tuple[Target, Version] | None:
        """A replica and version of the newest table; None when there is nobody to ask for now.

        Raises:
            GatewayError: as core.route.route.
        """
        table, way = self.table, asked.way
        if way is not None and asked.table is table and not asked.attempts:
            target = self.replicas.choose(way.targets, now, None)
            return None if target is None else (target, way.version)
        try:
            way = route(table, asked.name, asked.version, asked.label, asked.place)
        except Unavailable:
            if asked.attempts or is_interrupted(table, asked.name, asked.version, asked.label):
                return None
            raise
        targets = candidates(way.targets, way.version, asked.attempts)
        avoid_s = self.settings.retry.avoid_s if asked.attempts else None
        target = self.replicas.choose(targets, now, avoid_s)
        return None if target is None else (target, way.version)

    def pick_another(self, asked: Forwarding, use: Use) -> Target | None:
        """A second replica for the version that one is asked for; None where there is none."""
        try:
            way = route(self.table, asked.name, asked.version, asked.label, asked.place)
        except GatewayError:
            return None
        if way.version != use[1]:
            return None
        others = [target for target in way.targets if target.replica_id != use[2]]
        return self.replicas.choose(others, self.loop.time(), None)

    def may_go_on(self, asked: Forwarding, failed: Attempt, now: float) -> bool:
        """Whether the request is tried again, now or (see `pick`) with the next table."""
        try:
            way = route(self.table, asked.name, asked.version, asked.label, asked.place)
        except Unavailable:
            others, is_listed = False, False
        except GatewayError:
            return False  # The model or version is gone for good: what was answered stands.
        else:
            others = bool(candidates(way.targets, way.version, asked.attempts))
            is_listed = any(t.replica_id == failed.replica_id for t in way.targets)
        step = after_failure(
            asked.attempts, others, is_listed, now, asked.deadline_at, self.settings.retry
        )
        if step is Step.GIVE_UP or not asked.state.budget.withdraw():
            return False
        self.metrics.retries_total.labels(asked.name, failed.failure.value).inc()
        return True
