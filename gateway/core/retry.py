"""Whether a failed call is made again, and where.

Predictions are pure, and no byte of an answer reaches the caller before the whole of it is there,
so a call that broke may be made again whether or not it was sent. What bounds it: attempts, a
budget shared by all requests of a model, and the caller's deadline. A replica that answered with an
error of its own has answered; only "I am not able to now" and "I do not have that version" (while
the table says that others do) are reasons to ask another.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gateway.core.route import Target
from gateway.domain.names import Version


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """Bounds of trying again."""

    max_attempts: int = 3
    """Calls for one request, the first included. Three: one that fails, one that fails on a replica
    which died at the same time, one on a replica that has just come up."""

    budget_deposit: float = 0.2
    """What each request pays in; each retry costs 1. So retries add at most 20% load in the long
    run, as in Finagle, and an outage is not made worse by them."""

    budget_cap: float = 1024.0
    """The most that is saved up, and what a model starts with. It has to cover every request that
    was with a replica at the moment it was killed, which the learnt limit keeps far below this."""

    replica_wait_s: float = 10.0
    """How long a request is held for a replica to come (back) when none that holds its version is
    left. A local replica restarts in 1 to 5 s; the caller's deadline comes first where it is
    shorter."""

    avoid_s: float = 2.0
    """How long retries avoid a replica that refused a connection, where there is another."""


class Failure(StrEnum):
    """What was wrong with an attempt; the values label the retry metric."""

    CONNECT = "connect"
    """No connection: certainly nothing was sent."""
    RESET = "reset"
    """The connection broke before the whole answer was there."""
    UNAVAILABLE = "unavailable"
    """The replica said UNAVAILABLE or 503."""
    VERSION_SKEW = "version_skew"
    """The replica said NOT_FOUND for a version that the table names on it."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call that failed."""

    replica_id: str
    version: Version
    failure: Failure


class Step(StrEnum):
    """What to do after a failed attempt."""

    AGAIN = "again"
    """Call one of the candidates now."""
    WAIT = "wait"
    """Wait for a table that names another replica."""
    GIVE_UP = "give_up"
    """Tell the caller what the last attempt ended with."""


class RetryBudget:
    """A token bucket: requests deposit a fraction, retries withdraw 1."""

    __slots__ = ("_cap", "_deposit", "tokens")

    def __init__(self, settings: RetrySettings) -> None:
        self._cap = settings.budget_cap
        self._deposit = settings.budget_deposit
        self.tokens = settings.budget_cap

    def deposit(self) -> None:
        """A request has come."""
        self.tokens = min(self._cap, self.tokens + self._deposit)

    def withdraw(self) -> bool:
        """Take one retry out; False, and nothing taken, when the budget is spent."""
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


def candidates(
    targets: Sequence[Target], version: Version, attempts: Sequence[Attempt]
) -> Sequence[Target]:
    """Who may be called next: replicas that have not failed this request. Empty when all have.

    One exception: the only replica, whose connection broke once, is asked a second time. A
    kept-alive connection that the replica had just closed looks the same, and a new connection
    tells.
    """
    if not attempts:
        return targets
    fresh = [t for t in targets if not _has_failed(t.replica_id, version, attempts)]
    if fresh or len(targets) != 1:
        return fresh
    mine = [a.failure for a in attempts if a.replica_id == targets[0].replica_id]
    return targets if mine == [Failure.RESET] else []


def prefer_reachable(targets: Sequence[Target], avoided: Collection[str]) -> Sequence[Target]:
    """Leave out replicas that refused a connection lately, unless that leaves nobody."""
    reachable = [t for t in targets if t.replica_id not in avoided]
    return reachable or targets


def after_failure(
    attempts: Sequence[Attempt],
    has_candidates: bool,
    is_listed: bool,
    now: float,
    deadline_at: float,
    settings: RetrySettings,
) -> Step:
    """Decide what follows the last of `attempts` (never empty).

    `is_listed` says whether the newest table still names the replica that failed last. One that
    said "unavailable" and stays listed is alive and means it: its answer goes to the caller. One
    whose connection broke is dead or replaced, so waiting for the next table is worth it.
    """
    if now >= deadline_at or len(attempts) >= settings.max_attempts:
        return Step.GIVE_UP
    failure = attempts[-1].failure
    if failure is Failure.VERSION_SKEW:
        skewed = sum(1 for a in attempts if a.failure is Failure.VERSION_SKEW)
        return Step.AGAIN if skewed == 1 and has_candidates else Step.GIVE_UP
    if has_candidates:
        return Step.AGAIN
    return Step.GIVE_UP if failure is Failure.UNAVAILABLE and is_listed else Step.WAIT


def _has_failed(replica_id: str, version: Version, attempts: Sequence[Attempt]) -> bool:
    """A broken replica is broken for all versions, a skewed one only for that version."""
    return any(
        a.replica_id == replica_id
        and (a.failure is not Failure.VERSION_SKEW or a.version == version)
        for a in attempts
    )
