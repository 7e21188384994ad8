"""What this process has learnt of each replica from calling it, and who is asked next.

Decisions are `core.balance` and `core.ejection`; in here their events meet the metrics and the log.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from random import Random

from gateway.core.balance import Balancer, BalanceSettings
from gateway.core.ejection import Ejections, EjectionSettings, Flip, Standing
from gateway.core.retry import Failure, prefer_reachable
from gateway.core.route import Target
from gateway.dataplane.inflight import InFlight
from gateway.telemetry import Metrics, log

NO_REPORT = -1
"""In place of what a replica says that it holds: it said nothing."""

AN_ERROR = -2
"""In its place, too: the answer was an error that may be the replica's own."""


SUSPECT = "suspect"
"""It failed a moment ago: asked only where there is no other."""


class Replicas:
    """Loads, standings and recent connect failures, by replica id."""

    def __init__(
        self,
        settings: BalanceSettings,
        ejection: EjectionSettings,
        in_flight: InFlight,
        metrics: Metrics,
        rng: Random,
    ) -> None:
        self._in_flight = in_flight
        self._metrics = metrics
        self._rng = rng
        self.balancer = Balancer(settings)
        self.ejections = Ejections(ejection)
        self._unreachable_at: dict[str, float] = {}
        self._models: dict[str, str] = {}

    def choose(self, targets: Sequence[Target], now: float, avoid_s: float | None) -> Target | None:
        """One of `targets`; with `avoid_s`, none of those unreachable within that time."""
        ejections = self.ejections
        if now >= ejections.next_look:
            self._tell(ejections.look(now))
        if ejections.marked:
            targets = ejections.admitted(targets, now, self._rng)
        if avoid_s is not None and self._unreachable_at:
            avoided = {r for r, at in self._unreachable_at.items() if now - at < avoid_s}
            targets = prefer_reachable(targets, avoided)
        return self.balancer.choose(targets, self._in_flight.by_replica, now, self._rng)

    def answered(self, replica_id: str, took_s: float, report: int, now: float) -> None:
        """It gave an answer. `report`: the requests that it says it holds, NO_REPORT, or AN_ERROR.
        The call must have been counted out."""
        in_flight = self._in_flight.by_replica.get(replica_id, 0)
        if report >= 0:
            self.balancer.answered(replica_id, took_s, in_flight, report, now)
            self.ejections.answered(replica_id, took_s)
        elif report == NO_REPORT:
            self.balancer.answered(replica_id, took_s, in_flight, None, now)
            self.ejections.answered(replica_id, took_s)
        else:
            # How fast it fails says nothing of how fast it would answer: it must draw no requests.
            self.balancer.failed(replica_id, now)
            self._tell_one(self.ejections.erred(replica_id, now))

    def abandoned(self, replica_id: str, elapsed_s: float, now: float) -> None:
        """The caller or its deadline gave up: the answer would have taken longer than this."""
        in_flight = self._in_flight.by_replica.get(replica_id, 0)
        self.balancer.abandoned(replica_id, elapsed_s, in_flight, now)

    def late(self, replica_id: str, now: float) -> None:
        """A deadline passed while it worked. Its fault or not: the other replicas tell."""
        self._tell_one(self.ejections.erred(replica_id, now))

    def failed(self, replica_id: str, failure: Failure, now: float) -> None:
        """It gave no answer, or said that it cannot."""
        self.balancer.failed(replica_id, now)
        if failure is Failure.CONNECT:
            self._unreachable_at[replica_id] = now
        self._tell_one(self.ejections.failed(replica_id, now))

    def standing(self, replica_id: str) -> Standing:
        """What is thought of it now."""
        return self.ejections.standing(replica_id)

    def standings(self, now: float) -> dict[str, tuple[str, str]]:
        """Of those who are not in good standing: what is thought of each, and why."""
        found = dict.fromkeys(self.balancer.suspects(now), (SUSPECT, "it has just failed"))
        for replica_id, (standing, cause) in self.ejections.doubted(now).items():
            found[replica_id] = standing.value, cause.value
        return found

    def keep(self, models: Mapping[str, Sequence[Collection[str]]], now: float) -> None:
        """The replicas that there are: for each model, the groups of those that are compared with
        each other. Forget all others; ids are never used again."""
        groups = {(m, i): ids for m, sides in models.items() for i, ids in enumerate(sides)}
        self._models = {r: model for (model, _), ids in groups.items() for r in ids}
        self.balancer.keep(self._models)
        self.ejections.keep(groups, now)
        for gone in [r for r in self._unreachable_at if r not in self._models]:
            del self._unreachable_at[gone]

    def _tell(self, flips: Sequence[Flip]) -> None:
        for flip in flips:
            self._tell_one(flip)

    def _tell_one(self, flip: Flip | None) -> None:
        if flip is None:
            return
        replica_id, model = flip.replica_id, self._models.get(flip.replica_id, "")
        if flip.cause is not None:
            self._metrics.ejections_total.labels(model, flip.cause.value).inc()
            log.warning("replica.ejected", model=model, replica=replica_id, cause=flip.cause.value)
        elif flip.standing is Standing.PROBATION:
            log.event("replica.readmitted", model=model, replica=replica_id)
        else:
            log.event("replica.trusted", model=model, replica=replica_id)
