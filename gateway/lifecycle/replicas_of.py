"""What one tick makes of the replicas that there are. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from gateway.core.route import RoutingTable, uses_of
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


def canary_uses(
    model: ModelLoop, busy: Collection[Use], table: RoutingTable, replicas: Sequence[Replica]
) -> set[Use]:
    """What requests to the canary of the rollout that is under way use beyond the newest table, or
    may be sent to by that: by its version, or by its replicas where its version tells nothing."""
    rollout = model.rollouts.rollout
    route = table.models.get(model.name)
    if rollout is None:
        return set()
    named = set() if route is None else {(model.name, v, t.replica_id) for v, t in route.held()}
    uses = {use for use in busy if use[0] == model.name}
    if not rollout.is_of_template:
        has_share = route is not None and route.canary is not None
        of_canary = {use for use in named if has_share and use[1] == rollout.version}
        return of_canary | {use for use in uses if use[1] == rollout.version}
    group = {r.id for r in replicas if r.group}
    side = () if route is None or route.side is None else route.side
    named = {use for use in named if use[2] in {t.replica_id for t in side}}
    return named | {use for use in uses if use[2] in group}


def releasable(
    replicas: Sequence[Replica],
    table: RoutingTable,
    busy: Collection[Use],
    models: Mapping[str, ModelLoop],
) -> Iterator[str]:
    """Draining replicas that nobody is sent to and nobody waits for."""
    held = {replica_id for _, _, replica_id in (*uses_of(table), *busy)}
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
