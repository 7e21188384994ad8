"""What several workers think of the same replicas, put together. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from gateway.domain.replicas import ReplicaStanding

_WORST = ("ejected", "probation", "suspect")
"""First what keeps most requests away."""


def merged(told: Sequence[Mapping[str, tuple[str, str]]]) -> dict[str, ReplicaStanding]:
    """By replica id the worst that a worker thinks, the cause that most of those name, and how many
    they are. Each of `told` is one worker's replicas that are not in good standing with it."""
    found = {}
    for replica_id in {replica_id for each in told for replica_id in each}:
        said = [each[replica_id] for each in told if replica_id in each]
        worst = min((standing for standing, _ in said), key=_rank)
        causes = Counter(cause for standing, cause in said if standing == worst)
        (cause, _), *_ = causes.most_common(1)
        found[replica_id] = ReplicaStanding(worst, cause, causes.total(), len(told))
    return found


def _rank(standing: str) -> int:
    """A word of a newer worker's comes last."""
    return _WORST.index(standing) if standing in _WORST else len(_WORST)
