"""What is simulated."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class ReplicaSetup:
    """One replica: a queue, first come first served, before so many that work."""

    workers: int = 2
    slowness: float = 1.0
    """What its service times are multiplied by."""
    up_s: float = 0.0
    """It flaps: after so long it is killed, …"""
    down_s: float = 0.0
    """… and comes back after this. 0: it stays up."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Replicas, gateways before them, and the requests that come."""

    replicas: tuple[ReplicaSetup, ...]
    gateways: int = 3
    service_s: float = 0.05
    """The mean service time of a replica that is not slowed; lognormal, …"""
    sigma: float = 0.5
    """… with this deviation of its logarithm: its own p99 is 2.8 times the mean."""
    utilisation: float = 0.4
    """Requests offered, as a share of what the replicas that are up can do on average."""
    burst_every_s: float = 5.0
    burst_s: float = 0.5
    burst_factor: float = 2.5
    """So many times the rate, for so long, so often. Arrivals are Poisson within."""
    network_s: float = 0.0005
    """One way."""
    duration_s: float = 300.0
    warm_up_s: float = 10.0
    """Requests that come before are served and not counted."""
    slowed: tuple[tuple[float, int, float], ...] = ()
    """Changes on the way: when, which replica, its slowness from then on."""

    def rate_per_s(self) -> float:
        """The base rate of arrivals."""
        capacity = 0.0
        for one in self.replicas:
            alive = one.up_s / (one.up_s + one.down_s) if one.down_s else 1.0
            capacity += one.workers / (self.service_s * one.slowness) * alive
        bursts = 1.0 + (self.burst_factor - 1.0) * self.burst_s / self.burst_every_s
        return self.utilisation * capacity / bursts


_SLOW = ReplicaSetup(slowness=5.0)
_FLAPPING = ReplicaSetup(up_s=3.0, down_s=2.0)
_UNEVEN = Setup((_SLOW, _SLOW, _FLAPPING, *[ReplicaSetup()] * 5))
_EVEN = Setup((ReplicaSetup(),) * 8, utilisation=0.7)

SETUPS: dict[str, Setup] = {
    "uneven": _UNEVEN,
    "uneven-busy": replace(_UNEVEN, utilisation=0.7),
    "uneven-12-gateways": replace(_UNEVEN, utilisation=0.6, gateways=12),
    "uneven-1-gateway": replace(_UNEVEN, utilisation=0.6, gateways=1),
    "even": _EVEN,
    "even-heavy": replace(_EVEN, sigma=1.3),
    "changing": replace(
        _EVEN,
        utilisation=0.5,
        slowed=((60.0, 3, 5.0), (120.0, 3, 1.0), (150.0, 5, 5.0), (210.0, 5, 1.0)),
    ),
}
"""`uneven`: eight replicas, two slowed five times, one flapping, bursts."""
