"""The way of one request: admit, route, choose, call, observe, answer.

Nothing in here knows a protocol: the fronts parse and answer, the upstreams carry bytes. The
routing table is read anew for every attempt, and nothing is awaited between reading it and counting
the call as in flight, so that the lifecycle can trust `busy()`: a replica and version that the
newest table does not name, and that is not busy, will get no request any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random
from time import perf_counter

from gateway.core import admission
from gateway.core.dialect import Dialect
from gateway.core.retry import (
    Attempt,
    Failure,
    RetryBudget,
    Step,
    after_failure,
    candidates,
)
from gateway.core.route import ModelRoute, RoutingTable, Target, is_interrupted, route
from gateway.dataplane.inflight import InFlight, Use
from gateway.dataplane.replicas import Replicas
from gateway.dataplane.settings import DataplaneSettings
from gateway.dataplane.translating import Translation
from gateway.domain.errors import (
    DeadlineExceeded,
    GatewayError,
    Overloaded,
    Unavailable,
    UpstreamFailed,
)
from gateway.domain.models import PROTOCOLS
from gateway.domain.names import Version
from gateway.ports import Upstream, UpstreamAnswer, UpstreamRequest
from gateway.telemetry import Metrics

Pin = Callable[[Version], UpstreamRequest]
"""Makes the request for one version. Called once for each attempt."""


@dataclass(frozen=True, slots=True)
class Transport:
    """A caller's protocol, with how it says what routing must understand."""

    name: str
    """`http` or `grpc`, as metrics say it."""
    dialect: Dialect
    upstream: Upstream
    """To replicas that speak `dialect`; others are spoken to through the plane's Translation."""
    unavailable: int
    """The status that means "not now, ask another"."""
    not_found: int


@dataclass(slots=True)
class Admitted:
    """A request that has been let in, and what has become of it so far."""

    name: str
    version: Version | None
    label: str | None
    started_at: float
    deadline_at: float
    speaks: tuple[str, ...] = PROTOCOLS
    """What the model's replicas speak, where they have not said it themselves."""
    begun: float = field(default_factory=perf_counter)
    """Durations are measured by `perf_counter`: a loop's own time may be coarse (uvloop's stands
    still within one turn and counts milliseconds) and is for deadlines."""
    sent: float = 0.0
    """When the first call began, by `perf_counter`; 0.0 before."""
    upstream_s: float = 0.0
    """Time spent in calls, failed ones too."""
    answered_by: Version | None = None
    attempts: list[Attempt] = field(default_factory=list)
    wait_until: float = 0.0
    outcome: UpstreamAnswer | UpstreamFailed | None = None
    """What the last attempt ended with."""


class Dataplane:
    """One process's data plane. Implements ports.DataPlanes for itself."""

    def __init__(
        self,
        settings: DataplaneSettings,
        *,
        http: Upstream,
        grpc: Upstream,
        metrics: Metrics,
        rng: Random | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.http = Transport("http", Dialect.TFS_REST, http, unavailable=503, not_found=404)
        self.grpc = Transport("grpc", Dialect.TFS_GRPC, grpc, unavailable=14, not_found=5)
        self.v2_http = replace(self.http, dialect=Dialect.V2_REST)
        self.v2_grpc = replace(self.grpc, dialect=Dialect.V2_GRPC)
        self.translation = Translation(http, grpc, max_body_bytes=settings.max_body_bytes)
        self.table = RoutingTable()
        self.in_flight = InFlight()
        self._replicas = Replicas(settings.balance, self.in_flight, metrics, rng or Random())
        self._budgets: dict[str, RetryBudget] = {}
        self._published = asyncio.Event()

    # ---- for the lifecycle --------------------

    def publish(self, table: RoutingTable) -> None:
        """Replace the table; requests that wait for a replica look again."""
        self.table = table
        targets = {
            t.replica_id: t.endpoint
            for model in table.models.values()
            for group in model.targets.values()
            for t in group
        }
        self._replicas.keep(targets.keys())
        for name in [n for n in self._budgets if n not in table.models]:
            del self._budgets[name]
            self.metrics.forget_model(name)
        endpoints = list(targets.values())
        self.http.upstream.keep(endpoints)
        self.grpc.upstream.keep(endpoints)
        self.translation.keep(table)
        self._published.set()
        self._published = asyncio.Event()

    def busy(self) -> Collection[Use]:
        """What requests in flight still use although the table no longer names it."""
        return self.in_flight.busy(self.table)

    async def drained(self) -> None:
        """Wait until something that was busy is not any more, or nothing is."""
        before = set(self.busy())
        while before and before <= set(self.busy()):
            await self.in_flight.change()

    # ---- for the fronts --------------------

    @contextmanager
    def admit(
        self,
        name: str,
        version: Version | None,
        label: str | None,
        timeout_s: float | None,
        started_at: float,
    ) -> Iterator[Admitted]:
        """Let a request in and count it until the block ends, however it ends.

        Raises:
            NotFound, InvalidRequest, Unavailable: as core.route.route; a live version whose
                replicas are all gone is let in, and `answer` waits for one.
            Overloaded: the model's in-flight limit is reached.
            DeadlineExceeded: the caller's deadline has passed already.
        """
        model = self._known(name, version, label)
        deadline_at = admission.deadline(timeout_s, model.timeout_s, started_at)
        try:
            admission.check_in_flight(name, self.in_flight.by_model[name], model.in_flight_limit)
        except Overloaded as error:
            self.metrics.shed_total.labels(name, error.reason).inc()
            raise
        with self.in_flight.request(name):
            yield Admitted(name, version, label, started_at, deadline_at, model.speaks)

    async def answer(self, transport: Transport, ask: Admitted, pin: Pin) -> UpstreamAnswer:
        """Ask replicas until one has answered, within the deadline and the bounds of retrying.

        The answer is what the replica said, its own errors included. `ask` then tells the version
        that answered and where the time went.

        Raises:
            UpstreamFailed: every attempt broke, and no other replica came up in time.
            Unavailable: the model's replicas are gone and none came up in time.
            DeadlineExceeded: `call` (a replica was at it) or `queue` (none was there).
        """
        budget = self._budget(ask.name)
        budget.deposit()
        loop = asyncio.get_running_loop()
        while True:
            picked = self._pick(ask, loop.time())
            if picked is None:
                await self._next_table(ask, loop)
                continue
            outcome = await self._call(transport, ask, picked, pin, loop)
            failure = _failure(transport, outcome)
            if failure is None:
                return _finish(outcome)
            target, version = picked
            ask.attempts.append(Attempt(target.replica_id, version, failure))
            ask.outcome = outcome
            if not self._may_go_on(ask, target, loop.time(), budget):
                return _finish(outcome)

    # ---- inside --------------------

    def _known(self, name: str, version: Version | None, label: str | None) -> ModelRoute:
        try:
            return route(self.table, name, version, label).model
        except Unavailable:
            if is_interrupted(self.table, name, version, label):
                return self.table.models[name]
            raise

    def _pick(self, ask: Admitted, now: float) -> tuple[Target, Version] | None:
        """A replica and version of the newest table; None when there is nobody to ask for now."""
        try:
            way = route(self.table, ask.name, ask.version, ask.label)
        except Unavailable:
            if ask.attempts or is_interrupted(self.table, ask.name, ask.version, ask.label):
                return None
            raise
        targets = candidates(way.targets, way.version, ask.attempts)
        avoid_s = self.settings.retry.avoid_s if ask.attempts else None
        target = self._replicas.choose(targets, now, avoid_s)
        return None if target is None else (target, way.version)

    async def _call(
        self,
        transport: Transport,
        ask: Admitted,
        picked: tuple[Target, Version],
        pin: Pin,
        loop: asyncio.AbstractEventLoop,
    ) -> UpstreamAnswer | UpstreamFailed:
        target, version = picked
        replica_id = target.replica_id
        upstream = transport.upstream
        said = target.endpoint.speaks
        # The operator's choice (--speaks) restricts what the replica says of itself.
        speaks = tuple(p for p in said if p in ask.speaks) or said or ask.speaks
        if transport.dialect not in speaks or target.endpoint.unversioned:
            upstream = self.translation.upstream(
                transport.dialect, speaks, unversioned=target.endpoint.unversioned
            )
        begun = perf_counter()
        if ask.sent == 0.0:
            ask.sent = begun
        outcome: UpstreamAnswer | UpstreamFailed | None = None
        with self.in_flight.call((ask.name, version, replica_id)):
            try:
                outcome = await upstream.call(target.endpoint, pin(version), ask.deadline_at)
                ask.answered_by = version
            except UpstreamFailed as error:
                outcome = error
            finally:
                now = loop.time()
                took_s = perf_counter() - begun
                ask.upstream_s += took_s
                self.metrics.upstream_took(ask.name, transport.name, took_s)
                failure = _failure(transport, outcome)
                if outcome is None:
                    self._replicas.abandoned(replica_id, took_s, now)
                elif failure is None or failure is Failure.VERSION_SKEW:
                    self._replicas.answered(replica_id, took_s, now)
                else:
                    cause = outcome.reason if isinstance(outcome, UpstreamFailed) else "unavailable"
                    self._replicas.failed(ask.name, replica_id, failure, cause, now)
        return outcome

    def _may_go_on(self, ask: Admitted, target: Target, now: float, budget: RetryBudget) -> bool:
        """Whether the request is tried again, now or (see `_pick`) with the next table."""
        try:
            way = route(self.table, ask.name, ask.version, ask.label)
        except Unavailable:
            others, is_listed = False, False
        except GatewayError:
            return False  # The model or version is gone for good: what was answered stands.
        else:
            others = bool(candidates(way.targets, way.version, ask.attempts))
            is_listed = any(t.replica_id == target.replica_id for t in way.targets)
        step = after_failure(
            ask.attempts, others, is_listed, now, ask.deadline_at, self.settings.retry
        )
        if step is Step.GIVE_UP or not budget.withdraw():
            return False
        self.metrics.retries_total.labels(ask.name, ask.attempts[-1].failure.value).inc()
        return True

    async def _next_table(self, ask: Admitted, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for the next table; raise what there is to say when the wait is over."""
        if ask.wait_until == 0.0:
            limit_at = loop.time() + self.settings.retry.replica_wait_s
            ask.wait_until = min(ask.deadline_at, limit_at)
        published = self._published
        try:
            async with asyncio.timeout_at(ask.wait_until):
                await published.wait()
        except TimeoutError:
            if isinstance(ask.outcome, UpstreamFailed):
                raise ask.outcome from None
            if ask.wait_until == ask.deadline_at:
                raise DeadlineExceeded(
                    f"The deadline passed while no replica of model {ask.name} could answer",
                    reason="queue",
                ) from None
            raise Unavailable(
                f"No replica of model {ask.name} can answer now, and none came up within "
                f"{self.settings.retry.replica_wait_s:g} s",
                reason="no_selectable_replica",
                retry_after_s=1.0,
            ) from None

    def _budget(self, name: str) -> RetryBudget:
        budget = self._budgets.get(name)
        if budget is None:
            budget = self._budgets[name] = RetryBudget(self.settings.retry)
        return budget


def _failure(
    transport: Transport, outcome: UpstreamAnswer | UpstreamFailed | None
) -> Failure | None:
    """What of an outcome is a reason to ask another replica; None when it is an answer."""
    if isinstance(outcome, UpstreamAnswer):
        if outcome.status == transport.unavailable:
            return Failure.UNAVAILABLE
        return Failure.VERSION_SKEW if outcome.status == transport.not_found else None
    if outcome is None or outcome.reason == "bad_answer":
        return None  # Another replica would say the same, at the same cost.
    return Failure.RESET if outcome.sent else Failure.CONNECT


def _finish(outcome: UpstreamAnswer | UpstreamFailed) -> UpstreamAnswer:
    if isinstance(outcome, UpstreamFailed):
        raise outcome
    return outcome
