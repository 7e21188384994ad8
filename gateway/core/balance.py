"""Choose which replica answers next.

Some replicas are drawn and the least loaded of them wins (power of several choices, Mitzenmacher
2001). Load is the *work* that one request means to a replica times the requests that it would then
hold. Work is what an answer took, divided by the requests of ours that the replica held: for a
server that works them off one after the other exactly the time that each takes, so a queue of our
own making does not make its replica look slow for long after, as a bare latency would. What others
hold up stays in it, as it is there for our next request, too.

Requests held are those of this gateway, known exactly, and those of others, from the load that
replicas report on their answers (ORCA's `endpoint-load-metrics`); a report fades within the time of
an answer, and where there is none, our own are all that counts.

Pure: `now` is monotonic seconds and `rng` belongs to the caller, so any choice can be replayed.
`python -m loadtests.simulate` runs what is in here against replicas with queues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol, TypeVar


class Replica(Protocol):
    """What is chosen from."""

    @property
    def replica_id(self) -> str: ...


T = TypeVar("T", bound=Replica)

RULES = ("work", "hot_cold", "in_flight")


@dataclass(frozen=True, slots=True)
class BalanceSettings:
    """Which rule, and how its estimates behave."""

    rule: str = "work"
    """`work`: the module's own. `hot_cold`: Prequal's; a replica that holds more than most do is
    hot, of two cold ones the one with the lower latency wins, else the one that holds less.
    `in_flight`: only what this gateway has in flight (plain P2C, Envoy's "least request"). The last
    two are there to compare with; the figures are in loadtests/README.md."""

    draws: int = 4
    """Replicas that are drawn for a choice. With two of eight slowed 5 times, 2 draws leave p99.9
    at 0.8 of plain P2C's, 3 at 0.4, 4 at 0.35, and all of them gain little more, but send several
    gateways to the same replica at once (simulated)."""

    gain: float = 0.1
    """How far an answer moves the estimate. Ten answers learn a change; service times whose
    deviation is their mean leave 23% of noise. 0.05 and 0.2 were no better (simulated)."""

    fade_s: float = 30.0
    """An estimate counts half after it was not heard of for so long, and so on (1/(1+t)): one that
    was five times slower is asked again after two minutes even when nothing else makes it. Each
    such trial costs one request its time; at 20 s they showed in p99.9 with 12 gateways."""

    report_fade: float = 1.0
    """A report of what others have in flight fades to nothing in so many times its replica's
    latency: requests that were there then are answered by now. Believed for a second, it doubled
    p99.9 with 12 gateways, who hear of each replica about twice in that time (simulated)."""

    unknown_s: float = 1.0
    """The work of a replica whose first answer is awaited. It gets one request at once and more
    only when it has answered, or when all others are as loaded as this. Finagle's rule."""

    suspect_s: float = 1.0
    """For so long a replica that just failed is asked only where all that were drawn did."""

    hot_ratio: float = 0.84
    """Of `hot_cold`: the quantile of requests held above which a replica is hot. Prequal's
    2^-0.25 (Wyder et al., NSDI 2024, section 5.1)."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, was {self.rule!r}")


class Load:
    """What is known of one replica's load."""

    __slots__ = ("failed_at", "heard_at", "latency_s", "others", "reported_at", "work_s")

    def __init__(self) -> None:
        self.work_s = 0.0
        """Seconds per request that it holds; 0.0 while no answer has come."""
        self.latency_s = 0.0
        """Seconds from sending to the answer."""
        self.heard_at = 0.0
        """When the last answer came."""
        self.others = 0.0
        """Requests that others had there at `reported_at`."""
        self.reported_at = float("-inf")
        self.failed_at = float("-inf")
        """When it last failed; minus infinity once it has answered again."""

    def __repr__(self) -> str:
        return f"Load({self.work_s * 1e3:.3g} ms per request, {self.others:g} of others)"


class Balancer:
    """The loads of all replicas that one gateway knows, and the choice between them."""

    def __init__(self, settings: BalanceSettings) -> None:
        self.settings = settings
        self._loads: dict[str, Load] = {}
        self._draws = 2 if settings.rule == "in_flight" else max(2, settings.draws)
        self._hot_over = 1.0
        """Of `hot_cold`: the quantile, followed sample by sample (Robbins and Monro 1951)."""
        self._choose = {
            "work": self._least_work,
            "hot_cold": self._coldest,
            "in_flight": self._fewest,
        }[settings.rule]

    # ---- what happened --------------------

    def load(self, replica_id: str) -> Load:
        """Of this replica; empty where it is new."""
        found = self._loads.get(replica_id)
        if found is None:
            found = self._loads[replica_id] = Load()
        return found

    def answered(
        self, replica_id: str, took_s: float, in_flight: int, reported: int | None, now: float
    ) -> None:
        """It gave an answer. `in_flight`: ours that it still holds; `reported`: what it says that
        it holds of everybody's, None where it says nothing."""
        load = self.load(replica_id)
        if reported is not None:
            load.others = float(max(0, reported - in_flight))
            load.reported_at = now
        work_s = took_s / (in_flight + 1)
        if load.work_s == 0.0 or now - load.heard_at > self.settings.fade_s:
            load.work_s, load.latency_s = work_s, took_s
        else:
            gain = self.settings.gain
            load.work_s += gain * (work_s - load.work_s)
            load.latency_s += gain * (took_s - load.latency_s)
        load.heard_at = now
        load.failed_at = float("-inf")

    def abandoned(self, replica_id: str, elapsed_s: float, in_flight: int, now: float) -> None:
        """The caller or its deadline gave up: the answer would have taken longer than this. Counts
        only where that is slower than thought."""
        load = self.load(replica_id)
        if elapsed_s > load.latency_s:
            failed_at = load.failed_at
            self.answered(replica_id, elapsed_s, in_flight, None, now)
            load.failed_at = failed_at

    def failed(self, replica_id: str, now: float) -> None:
        """It gave none. How long that took says nothing of its work."""
        self.load(replica_id).failed_at = now

    def suspects(self, now: float) -> list[str]:
        """Who has just failed."""
        since = now - self.settings.suspect_s
        return [r for r, load in self._loads.items() if load.failed_at > since]

    def keep(self, replica_ids: Mapping[str, object]) -> None:
        """Forget all others; ids are never used again."""
        for gone in [r for r in self._loads if r not in replica_ids]:
            del self._loads[gone]

    # ---- the choice --------------------

    def choose(
        self, targets: Sequence[T], in_flight: Mapping[str, int], now: float, rng: Random
    ) -> T | None:
        """One of `targets`; None only where there is none."""
        count = len(targets)
        if count < 2:
            return targets[0] if targets else None
        draws = self._draws
        if draws == 2:
            # As `sample`, at a third of its cost; 53 bits are far more than there are replicas.
            first = int(rng.random() * count)
            second = int(rng.random() * (count - 1))
            drawn: Sequence[T] = (targets[first], targets[second + (second >= first)])
        elif count > draws:
            # Neighbours, from one random number: nearly as good as independent draws (Kenthapadi
            # and Panigrahy 2006), and their order is that of random ids.
            first = int(rng.random() * count)
            drawn = targets[first : first + draws]
            if len(drawn) < draws:
                drawn = [*drawn, *targets[: draws - len(drawn)]]
        else:
            # Rotated, so that whoever is first by order does not win all that is equal.
            first = int(rng.random() * count)
            drawn = (*targets[first:], *targets[:first]) if first else targets
        return self._choose(drawn, in_flight, now)

    def _least_work(self, drawn: Sequence[T], in_flight: Mapping[str, int], now: float) -> T:
        settings, loads = self.settings, self._loads
        fade_s, fade, suspect_s = settings.fade_s, settings.report_fade, settings.suspect_s
        best, least, is_best_suspect = drawn[0], float("inf"), True
        for target in drawn:
            replica_id = target.replica_id
            held = float(in_flight.get(replica_id, 0))
            load = loads.get(replica_id)
            is_suspect = False
            if load is None or load.work_s == 0.0:
                cost = settings.unknown_s * (held + 1.0) if held else 0.0
                if load is not None:
                    is_suspect = now - load.failed_at < suspect_s
            else:
                if load.others:
                    age_s, whole_s = now - load.reported_at, fade * load.latency_s
                    if 0.0 <= age_s < whole_s:
                        held += load.others * (1.0 - age_s / whole_s)
                idle_s = now - load.heard_at
                cost = load.work_s * (held + 1.0)
                if idle_s > 0.0:
                    cost *= fade_s / (fade_s + idle_s)
                is_suspect = now - load.failed_at < suspect_s
            if is_suspect is is_best_suspect:
                if cost < least:
                    best, least = target, cost
            elif is_best_suspect:
                best, least, is_best_suspect = target, cost, False
        return best

    def held(self, replica_id: str, in_flight: int, now: float) -> float:
        """What a replica is thought to hold now, of everybody's requests."""
        load = self._loads.get(replica_id)
        if load is None:
            return in_flight
        age_s, whole_s = now - load.reported_at, self.settings.report_fade * load.latency_s
        return in_flight + (
            load.others * (1.0 - age_s / whole_s) if 0.0 <= age_s < whole_s else 0.0
        )

    def _coldest(self, drawn: Sequence[T], in_flight: Mapping[str, int], now: float) -> T:
        """Prequal's rule (section 4): hot ones lose; of the cold the lowest latency, else the
        fewest held."""
        settings = self.settings

        def rank(target: T) -> tuple[bool, bool, float]:
            replica_id = target.replica_id
            held = self.held(replica_id, in_flight.get(replica_id, 0), now)
            load = self.load(replica_id)
            is_hot = held > self._hot_over
            step = 0.05 * max(1.0, self._hot_over)
            self._hot_over = max(0.0, self._hot_over + step * (settings.hot_ratio - (not is_hot)))
            if load.work_s == 0.0:
                latency_s = settings.unknown_s if held else 0.0
            else:
                idle_s = max(0.0, now - load.heard_at)
                latency_s = load.latency_s * settings.fade_s / (settings.fade_s + idle_s)
            is_suspect = now - load.failed_at < settings.suspect_s
            return is_suspect, is_hot, held if is_hot else latency_s

        return min(drawn, key=rank)

    def _fewest(self, drawn: Sequence[T], in_flight: Mapping[str, int], now: float) -> T:
        del now
        return min(drawn, key=lambda target: in_flight.get(target.replica_id, 0))
