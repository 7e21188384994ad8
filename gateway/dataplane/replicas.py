"""What this process has learnt of each replica from calling it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random

from gateway.core.balance import BalanceSettings, PeakEwma, choose, load
from gateway.core.retry import Failure, prefer_reachable
from gateway.core.route import Target
from gateway.dataplane.inflight import InFlight
from gateway.telemetry import Metrics, log

_UNHEARD = PeakEwma()


class Replicas:
    """Latency estimates and recent connect failures, by replica id."""

    def __init__(
        self, settings: BalanceSettings, in_flight: InFlight, metrics: Metrics, rng: Random
    ) -> None:
        self._settings = settings
        self._in_flight = in_flight
        self._metrics = metrics
        self._rng = rng
        self._ewma: dict[str, PeakEwma] = {}
        self._unreachable_at: dict[str, float] = {}
        self._shunned: set[str] = set()

    def choose(self, targets: Sequence[Target], now: float, avoid_s: float | None) -> Target | None:
        """P2C over `targets`; with `avoid_s`, not over those unreachable within that time."""
        if avoid_s is not None and self._unreachable_at:
            avoided = {r for r, at in self._unreachable_at.items() if now - at < avoid_s}
            targets = prefer_reachable(targets, avoided)
        by_replica, ewma, settings = self._in_flight.by_replica, self._ewma, self._settings

        def load_of(target: Target) -> float:
            replica_id = target.replica_id
            return load(ewma.get(replica_id, _UNHEARD), by_replica[replica_id], now, settings)

        return choose(targets, load_of, self._rng)

    def answered(self, replica_id: str, latency_s: float, now: float) -> None:
        """It gave an answer, whatever it said."""
        self._observe(replica_id, latency_s, now)
        if self._shunned and replica_id in self._shunned:
            self._shunned.discard(replica_id)
            self._unreachable_at.pop(replica_id, None)
            log.event("replica.answering", replica=replica_id)

    def abandoned(self, replica_id: str, elapsed_s: float, now: float) -> None:
        """The caller or its deadline gave up: the answer would have taken longer than this."""
        if elapsed_s > self._ewma.get(replica_id, _UNHEARD).latency_s:
            self._observe(replica_id, elapsed_s, now)

    def failed(self, model: str, replica_id: str, failure: Failure, cause: str, now: float) -> None:
        """It gave none. Shunned from now on by its estimate, until that has faded."""
        self._observe(replica_id, self._settings.failure_latency_s, now)
        if failure is Failure.CONNECT:
            self._unreachable_at[replica_id] = now
        if replica_id not in self._shunned:
            self._shunned.add(replica_id)
            self._metrics.ejections_total.labels(model, failure.value).inc()
            log.warning("replica.shunned", model=model, replica=replica_id, cause=cause)

    def keep(self, replica_ids: Collection[str]) -> None:
        """Forget all others; ids are never used again."""
        for known in (self._ewma, self._unreachable_at):
            for gone in [r for r in known if r not in replica_ids]:
                del known[gone]
        self._shunned.intersection_update(replica_ids)

    def _observe(self, replica_id: str, latency_s: float, now: float) -> None:
        before = self._ewma.get(replica_id, _UNHEARD)
        self._ewma[replica_id] = before.observe(latency_s, now, self._settings.decay_s)
