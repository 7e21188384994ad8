"""What one tick makes of the replicas that there are. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from gateway.core.route import RoutingTable
from gateway.domain.gateways import Use
from gateway.domain.models import PROTOCOLS
from gateway.domain.replicas import Endpoint, Replica, ReplicaState
from gateway.lifecycle.model_loop import ModelLoop


def spoken_to(model: ModelLoop | None, endpoint: Endpoint) -> Endpoint:
    """The endpoint with what it speaks: what it said itself, else what the spec says."""
    if endpoint.speaks or model is None or model.record.spec.speaks == PROTOCOLS:
        return endpoint
    return replace(endpoint, speaks=model.record.spec.speaks)


def by_model(replicas: Sequence[Replica], models: Collection[str]) -> dict[str, list[Replica]]:
    """The replicas of each of these models."""
    found: dict[str, list[Replica]] = {name: [] for name in models}
    for replica in replicas:
        if replica.model in found:
            found[replica.model].append(replica)
    return found


def releasable(
    replicas: Sequence[Replica],
    table: RoutingTable,
    busy: Collection[Use],
    models: Mapping[str, ModelLoop],
) -> Iterator[str]:
    """Draining replicas that nobody is sent to and nobody waits for."""
    routed = {
        t.replica_id
        for route in table.models.values()
        for targets in route.targets.values()
        for t in targets
    }
    held = routed | {replica_id for _, _, replica_id in busy}
    for replica in replicas:
        if replica.state is not ReplicaState.DRAINING or replica.id in held:
            continue
        model = models.get(replica.model)
        is_free = model is None or (
            model.decision is not None
            and (replica.endpoint is None or replica.id in model.decision.released)
        )
        if is_free:
            yield replica.id
