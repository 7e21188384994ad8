"""Who leads: one gateway's part in an election by a lease that all of them share.

After Kubernetes' client-go (tools/leaderelection/leaderelection.go): a holder renews every
`retry_s` and stops leading when it has not been able to for `renew_s`, which is shorter than the
`lease_s` after which others may take over. Two things are stricter. The time of a renewal is when
it was *sent*, by this gateway's own monotonic clock, so that a slow answer makes a term shorter and
never longer. And each term has an epoch that the store compares with every write (fencing;
Kleppmann, "How to do distributed locking", 2016): a leader that was frozen past its time, and does
not know it yet, changes nothing.

No two gateways lead at once as long as their clocks run at rates that differ by less than
lease_s / renew_s; what the clocks show plays no part.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from gateway.domain.gateways import Lease


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """How long a term lasts without news. The ratios are client-go's (15, 10 and 2 s)."""

    lease_s: float = 15.0
    """Others take over so long after the last renewal: the longest time without a leader, in which
    answers go on and nothing is changed. Shorter costs a stalled leader its term."""
    renew_s: float = 10.0
    """A leader that has not renewed for so long stands down."""
    retry_s: float = 2.0
    """Between two tries, of a leader to renew and of a follower to take over."""
    jitter_ratio: float = 1.2
    """Followers wait up to so much longer, so that they do not all come at once."""


def settings_of(lease_s: float) -> LeaseSettings:
    """The same ratios for another length."""
    return LeaseSettings(lease_s, lease_s * 10 / 15, lease_s * 2 / 15)


@dataclass(frozen=True, slots=True)
class Standing:
    """What one gateway knows of its own term."""

    epoch: int | None = None
    """None: it does not lead."""
    confirmed_at: float = 0.0
    """When it sent what confirmed its term last; monotonic."""
    free_at: float = 0.0
    """When another's lease may end, by the same clock."""


def ends_at(standing: Standing, settings: LeaseSettings) -> float:
    """When this gateway must have stopped leading, unless it renews."""
    return standing.confirmed_at + settings.renew_s


def leads(standing: Standing, now: float, settings: LeaseSettings) -> bool:
    """Whether it may act as the leader."""
    return standing.epoch is not None and now < ends_at(standing, settings)


def answered(
    me: str, asked: int | None, asked_at: float, lease: Lease, now: float, settings: LeaseSettings
) -> Standing:
    """Its standing after the store's answer `lease`, to a request for the lease that was sent at
    `asked_at` for the term `asked` (None: for a new one)."""
    if lease.holder != me or (asked is not None and lease.epoch != asked):
        return Standing(free_at=now + max(0.0, lease.remaining_s))
    standing = Standing(lease.epoch, asked_at)
    # An answer that took longer than a term may last came too late to begin one.
    return standing if leads(standing, now, settings) else Standing()


def unanswered(standing: Standing, now: float, settings: LeaseSettings) -> Standing:
    """Its standing when the store did not answer. A term that has ended does not come back: the
    next one is another."""
    return standing if leads(standing, now, settings) else Standing(free_at=standing.free_at)


def pause_s(standing: Standing, now: float, settings: LeaseSettings, rng: Random) -> float:
    """How long to wait before asking again. A follower is there when the lease ends, give or take a
    tenth of the retry time, in which one of several comes first."""
    if standing.epoch is not None:
        return min(settings.retry_s, max(0.0, ends_at(standing, settings) - now))
    full = settings.retry_s * (1.0 + settings.jitter_ratio * rng.random())
    if standing.free_at <= now:
        return full
    return min(full, standing.free_at - now + 0.1 * settings.retry_s * rng.random())


def granted(lease: Lease, me: str, address: str, asked: int | None, at: str) -> Lease | None:
    """The lease as `me` gets it; None where it is another's. For the store: called with the lease
    as it is, inside the transaction that keeps the result.

    A holder that asks for a new term gets one at once: it says by it that its old one is over.
    """
    if lease.holder == me and asked is not None and lease.epoch == asked:
        return Lease(me, asked, address, lease.since)
    is_free = not lease.holder or lease.remaining_s <= 0
    if is_free or (lease.holder == me and asked is None):
        # A renewal of a term that another has followed is no claim for a new one.
        return None if asked is not None else Lease(me, lease.epoch + 1, address, at)
    return None
