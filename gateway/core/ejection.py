"""Leave out replicas that stand out, for a while, and let them back in slowly.

A replica is **ejected** for failing several times in a row, for failing far more often than its
model's other replicas do, or for being far slower than they are. It comes back after a time that
doubles with each ejection, on **probation**: its share of the requests grows over some seconds, and
a failure then ejects it again at once. Outliers as in Envoy (outlier_detection.proto), but measured
against the others and not against a deviation, which two to four replicas do not have.

Never more than half of a model's replicas are ejected at once, and never the last: above that the
fault is more likely the model's, the callers' or ours, and the rest could not carry the load.

A state machine of events: `now` is monotonic seconds, and each event returns what it changed.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from statistics import median_low
from typing import NamedTuple, TypeVar

from gateway.core.balance import Replica

T = TypeVar("T", bound=Replica)
G = TypeVar("G", bound=Hashable)

HTTP_ERRORS = frozenset((429, *range(500, 600)))
GRPC_ERRORS = frozenset((2, 4, 8, 13, 15))
"""Statuses that may be the replica's own fault, or say that it has too much to do: UNKNOWN,
DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL and DATA_LOSS."""


@dataclass(frozen=True, slots=True)
class EjectionSettings:
    """When a replica is left out, and for how long."""

    consecutive_failures: int = 5
    """Failures in a row that eject a replica. Five, as in Envoy: one burst of resets while a
    replica restarts should not eject it, a dead one should go within a handful of requests."""

    error_ratio: float = 0.2
    """An ejection for errors needs at least this share of a replica's answers to be failures or
    errors of its own (5xx, INTERNAL), …"""

    error_excess: float = 3.0
    """… and so many times the share of the model's other replicas. A bad client gets errors from
    all of them alike; a broken GPU gives them alone, and fast, which draws requests to it."""

    error_samples: int = 20
    """… among at least so many answers. With a true share of 5% the chance that four of twenty
    fail is 1.6%, and the comparison with the others is still to come."""

    latency_excess: float = 10.0
    """An ejection for latency needs so many times the median of the model's replicas. What is less
    slow than that is worth something under load, and the choice (`core.balance`) leaves it alone
    otherwise. 0 never ejects for latency."""

    latency_samples: int = 10
    """… over at least so many answers in the window: one slow batch is no trend."""

    window_s: float = 10.0
    """What shares and means are counted over: one to two times this, Envoy's interval."""

    base_s: float = 2.0
    """The first ejection. A local replica restarts in 1 to 5 s (as a new one: this one is not asked
    again); what heals sooner than that is back soon."""

    max_s: float = 60.0
    """The longest. A minute: an ejection must not outlive its cause by more than people wait."""

    forgive_s: float = 60.0
    """After so long without one, one past ejection is forgotten."""

    slow_start_s: float = 5.0
    """How long probation lasts: the share grows from a tenth to the whole."""

    max_ejected_ratio: float = 0.5
    """Never more than this share of a model's replicas. Envoy's default is 10% but at least one;
    with two to four replicas that is one, too."""


class Cause(StrEnum):
    """Why a replica was ejected; the values label the metric."""

    CONSECUTIVE = "consecutive_failures"
    ERRORS = "error_ratio"
    LATENCY = "latency"
    PROBATION = "probation"
    """It failed before it was let back in whole."""


class Standing(StrEnum):
    """What the others think of a replica."""

    GOOD = "good"
    EJECTED = "ejected"
    PROBATION = "probation"


class Flip(NamedTuple):
    """A change of standing."""

    replica_id: str
    standing: Standing
    cause: Cause | None = None
    """Why it was ejected."""
    until: float = 0.0
    """When the ejection ends."""


class Record:
    """One replica."""

    __slots__ = (
        "answers", "before", "cause", "ejected_until", "ejections", "errors", "group",
        "last_ejected_at", "readmitted_at", "row", "standing", "took_s",
    )  # fmt: skip

    def __init__(self, group: Hashable) -> None:
        self.group = group
        """The model whose replica it is, and those of them that it can be compared with."""
        self.standing = Standing.GOOD
        self.row = 0
        """Failures since the last answer."""
        self.answers = 0
        """In the present window; failures count among them."""
        self.errors = 0
        self.took_s = 0.0
        self.before = (0, 0, 0.0)
        """The same of the window before."""
        self.ejections = 0
        """Lately: the time doubles with each."""
        self.cause: Cause | None = None
        """Of the last ejection."""
        self.ejected_until = 0.0
        self.last_ejected_at = 0.0
        self.readmitted_at = 0.0

    def __repr__(self) -> str:
        return f"Record({self.standing}, {self.row} in a row, {self.ejections} ejections)"

    def sums(self) -> tuple[int, int, float]:
        """Answers, errors and seconds in both windows."""
        answers, errors, took_s = self.before
        return answers + self.answers, errors + self.errors, took_s + self.took_s


class Ejections:
    """The standing of all replicas that one gateway knows."""

    def __init__(self, settings: EjectionSettings) -> None:
        self.settings = settings
        self._records: dict[str, Record] = {}
        self._groups: dict[Hashable, list[str]] = {}
        self.marked: set[str] = set()
        """Replicas that are not in good standing; empty as a rule."""
        self._next_turn = 0.0
        self.next_look = float("inf")
        """When `look` has something to do at the latest."""

    def keep(self, groups: Mapping[G, Collection[str]], now: float) -> None:
        """The replicas that there are, by model or what else makes them comparable. All others are
        forgotten."""
        self._groups = {group: sorted(ids) for group, ids in groups.items()}
        group_of = {r: group for group, ids in self._groups.items() for r in ids}
        for gone in [r for r in self._records if r not in group_of]:
            del self._records[gone]
        for replica_id, group in group_of.items():
            known = self._records.get(replica_id)
            if known is None:
                self._records[replica_id] = Record(group)
            else:
                known.group = group
        self.marked.intersection_update(group_of)
        if self.next_look == float("inf"):
            self.next_look = now

    # ---- what happened --------------------

    def answered(self, replica_id: str, took_s: float) -> None:
        """It gave an answer that is none of its own errors."""
        record = self._records.get(replica_id)
        if record is not None:
            record.row = 0
            record.answers += 1
            record.took_s += took_s

    def erred(self, replica_id: str, now: float) -> Flip | None:
        """It answered with an error that is its own, or the request's."""
        record = self._records.get(replica_id)
        if record is None:
            return None
        record.row = 0
        record.answers += 1
        record.errors += 1
        return self._judge_errors(replica_id, record, now)

    def failed(self, replica_id: str, now: float) -> Flip | None:
        """It gave no answer, or said that it cannot."""
        record = self._records.get(replica_id)
        if record is None:
            return None
        record.row += 1
        record.answers += 1
        record.errors += 1
        if record.standing is Standing.PROBATION:
            return self._eject(replica_id, record, Cause.PROBATION, now)
        if record.row >= self.settings.consecutive_failures:
            return self._eject(replica_id, record, Cause.CONSECUTIVE, now)
        return self._judge_errors(replica_id, record, now)

    def look(self, now: float) -> list[Flip]:
        """What time has changed: ejections that end, probations, windows, latency outliers."""
        flips: list[Flip] = []
        settings = self.settings
        for replica_id in sorted(self.marked):
            record = self._records[replica_id]
            if record.standing is Standing.EJECTED and now >= record.ejected_until:
                record.standing = Standing.PROBATION
                record.readmitted_at = now
                record.row = 0
                flips.append(Flip(replica_id, Standing.PROBATION))
            elif (
                record.standing is Standing.PROBATION
                and now >= record.readmitted_at + settings.slow_start_s
            ):
                record.standing = Standing.GOOD
                self.marked.discard(replica_id)
                flips.append(Flip(replica_id, Standing.GOOD))
        if now >= self._next_turn:
            self._next_turn = now + settings.window_s
            flips += self._judge_latency(now)
            for record in self._records.values():
                record.before = (record.answers, record.errors, record.took_s)
                record.answers, record.errors, record.took_s = 0, 0, 0.0
        self.next_look = min([self._next_turn, *[self._ends(r) for r in self.marked]])
        return flips

    # ---- what follows --------------------

    def standing(self, replica_id: str) -> Standing:
        """Of one replica; GOOD where nothing is known."""
        record = self._records.get(replica_id)
        return Standing.GOOD if record is None else record.standing

    def doubted(self, now: float) -> dict[str, tuple[Standing, Cause]]:
        """Who is not in good standing at this time, and why; also where nobody has asked for any of
        them lately, so that `look` has not been told of the time."""
        found: dict[str, tuple[Standing, Cause]] = {}
        for replica_id in self.marked:
            record = self._records[replica_id]
            is_out = record.standing is Standing.EJECTED and now < record.ejected_until
            begun = record.readmitted_at
            if record.standing is Standing.EJECTED:
                begun = record.ejected_until
            if record.cause is None or not (is_out or now < begun + self.settings.slow_start_s):
                continue
            standing = Standing.EJECTED if is_out else Standing.PROBATION
            found[replica_id] = standing, record.cause
        return found

    def admitted(self, targets: Sequence[T], now: float, rng: Random) -> Sequence[T]:
        """Those of `targets` that may be asked. Called only while `marked` is not empty. When all
        are ejected, all may: somebody has to be asked."""
        marked = self.marked
        if not any(t.replica_id in marked for t in targets):
            return targets
        asked = [t for t in targets if self._is_asked(t.replica_id, now, rng)]
        if asked:
            return asked
        return [
            t for t in targets if self.standing(t.replica_id) is not Standing.EJECTED
        ] or targets

    def _is_asked(self, replica_id: str, now: float, rng: Random) -> bool:
        if replica_id not in self.marked:
            return True
        record = self._records[replica_id]
        if record.standing is Standing.EJECTED:
            return False
        grown = (now - record.readmitted_at) / self.settings.slow_start_s
        return rng.random() < max(0.1, grown)

    # ---- inside --------------------

    def _ends(self, replica_id: str) -> float:
        record = self._records[replica_id]
        if record.standing is Standing.EJECTED:
            return record.ejected_until
        return record.readmitted_at + self.settings.slow_start_s

    def _may_eject(self, record: Record) -> bool:
        group = self._groups.get(record.group, ())
        ejected = sum(self.standing(r) is Standing.EJECTED for r in group)
        return ejected + 1 <= min(int(len(group) * self.settings.max_ejected_ratio), len(group) - 1)

    def _eject(self, replica_id: str, record: Record, cause: Cause, now: float) -> Flip | None:
        if record.standing is Standing.EJECTED or not self._may_eject(record):
            return None
        settings = self.settings
        if record.ejections:
            good_s = now - record.last_ejected_at
            record.ejections = max(0, record.ejections - int(good_s / settings.forgive_s))
        lasts_s = min(settings.max_s, settings.base_s * 2.0 ** min(record.ejections, 32))
        record.ejections += 1
        record.standing = Standing.EJECTED
        record.cause = cause
        record.last_ejected_at = now
        record.ejected_until = now + lasts_s
        record.answers, record.errors, record.took_s = 0, 0, 0.0
        record.before = (0, 0, 0.0)
        self.marked.add(replica_id)
        self.next_look = min(self.next_look, record.ejected_until)
        return Flip(replica_id, Standing.EJECTED, cause, record.ejected_until)

    def _others(self, replica_id: str, record: Record) -> list[Record]:
        group = self._groups.get(record.group, ())
        found = [self._records[r] for r in group if r != replica_id]
        return [other for other in found if other.standing is not Standing.EJECTED]

    def _judge_errors(self, replica_id: str, record: Record, now: float) -> Flip | None:
        settings = self.settings
        answers, errors, _ = record.sums()
        if answers < settings.error_samples or errors < settings.error_ratio * answers:
            return None
        sums = [other.sums() for other in self._others(replica_id, record)]
        others, their_errors = sum(s[0] for s in sums), sum(s[1] for s in sums)
        # With nothing heard of the others there is nothing to compare with.
        if not others or errors / answers < settings.error_excess * their_errors / others:
            return None
        return self._eject(replica_id, record, Cause.ERRORS, now)

    def _judge_latency(self, now: float) -> list[Flip]:
        """The slowest outlier of each model, if it has one."""
        settings = self.settings
        flips: list[Flip] = []
        for group in self._groups.values():
            means = {}
            for replica_id in group:
                record = self._records[replica_id]
                answers, errors, took_s = record.sums()
                if answers - errors >= settings.latency_samples:
                    means[replica_id] = took_s / (answers - errors)
            if len(means) < 2 or not settings.latency_excess:
                continue
            slowest = max(means, key=lambda r: means[r])
            # The lower median: of two replicas, the faster one's.
            if means[slowest] > settings.latency_excess * median_low(means.values()):
                flip = self._eject(slowest, self._records[slowest], Cause.LATENCY, now)
                flips += [flip] if flip is not None else []
        return flips
