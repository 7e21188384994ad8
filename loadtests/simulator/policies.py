"""Who is asked: the real decisions, and what they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from random import Random
from typing import NamedTuple, Protocol

from gateway.core.balance import Balancer, BalanceSettings
from gateway.core.ejection import Ejections, EjectionSettings


class Name(NamedTuple):
    """A replica to choose."""

    replica_id: str


class Policy(Protocol):
    """One gateway's. `in_flight` is its own, by replica."""

    in_flight: dict[str, int]

    def choose(self, targets: Sequence[Name], now: float) -> Name: ...

    def answered(self, replica_id: str, took_s: float, reported: int, now: float) -> None: ...

    def failed(self, replica_id: str, now: float) -> None: ...


class RoundRobin:
    """One after the other."""

    def __init__(self, names: Sequence[Name], rng: Random) -> None:
        self.in_flight: dict[str, int] = {}
        start = rng.randrange(len(names))
        self._order = cycle([*names[start:], *names[:start]])

    def choose(self, targets: Sequence[Name], now: float) -> Name:
        """The next of those that may be asked."""
        return next(name for name in self._order if name in targets)

    def answered(self, replica_id: str, took_s: float, reported: int, now: float) -> None:
        """Nothing is learnt."""

    def failed(self, replica_id: str, now: float) -> None:
        """Nothing is learnt."""


class LeastConnections(RoundRobin):
    """Of all, whoever has the fewest of this gateway's requests; of equals the next (HAProxy's
    leastconn)."""

    def choose(self, targets: Sequence[Name], now: float) -> Name:
        """See the class."""
        least = min(self.in_flight.get(t.replica_id, 0) for t in targets)
        equals = [t for t in targets if self.in_flight.get(t.replica_id, 0) == least]
        return super().choose(equals, now)


class Ours:
    """core.balance, and core.ejection where it is to take part."""

    def __init__(
        self,
        names: Sequence[Name],
        rng: Random,
        balance: BalanceSettings,
        *,
        is_ejecting: bool = True,
        is_reported: bool = True,
    ) -> None:
        self.in_flight: dict[str, int] = {}
        self._rng = rng
        self._balancer = Balancer(balance)
        self._is_reported = is_reported
        self.ejections: Ejections | None = None
        if is_ejecting:
            self.ejections = Ejections(EjectionSettings())
            self.ejections.keep({"model": [name.replica_id for name in names]}, 0.0)

    def choose(self, targets: Sequence[Name], now: float) -> Name:
        """As dataplane.replicas does it."""
        ejections = self.ejections
        if ejections is not None:
            if now >= ejections.next_look:
                ejections.look(now)
            if ejections.marked:
                targets = ejections.admitted(targets, now, self._rng)
        chosen = self._balancer.choose(targets, self.in_flight, now, self._rng)
        assert chosen is not None  # there are targets
        return chosen

    def answered(self, replica_id: str, took_s: float, reported: int, now: float) -> None:
        """See Policy."""
        held = self.in_flight.get(replica_id, 0)
        said = reported if self._is_reported else None
        self._balancer.answered(replica_id, took_s, held, said, now)
        if self.ejections is not None:
            self.ejections.answered(replica_id, took_s)

    def failed(self, replica_id: str, now: float) -> None:
        """See Policy."""
        self._balancer.failed(replica_id, now)
        if self.ejections is not None:
            self.ejections.failed(replica_id, now)


def made(kind: str, names: Sequence[Name], rng: Random) -> Policy:
    """One of POLICIES."""
    match kind:
        case "round robin":
            return RoundRobin(names, rng)
        case "least connections":
            return LeastConnections(names, rng)
        case "plain P2C":
            return Ours(names, rng, BalanceSettings(rule="in_flight"), is_ejecting=False)
        case "P2C, ejection":
            return Ours(names, rng, BalanceSettings(rule="in_flight"))
        case "hot/cold":
            return Ours(names, rng, BalanceSettings(rule="hot_cold"))
        case "ours, no reports":
            return Ours(names, rng, BalanceSettings(), is_reported=False)
        case "ours":
            return Ours(names, rng, BalanceSettings())
    raise ValueError(f"no policy {kind!r}")


POLICIES = (
    "round robin",
    "least connections",
    "plain P2C",
    "P2C, ejection",
    "hot/cold",
    "ours, no reports",
    "ours",
)
