"""What the API shows of a model: the stored spec and the lifecycle's view, joined. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.control import schema
from gateway.control.deploy import request_of
from gateway.control.quantities import policy_text
from gateway.domain.models import ModelRecord, VersionState
from gateway.domain.observed import ModelView, ReplicaView, VersionView
from gateway.domain.replicas import ReplicaState
from gateway.ports import Event

_ON_THE_WAY = (VersionState.NEW, VersionState.FETCHING, VersionState.LOADING)


def state_of(generation: int, view: ModelView | None) -> tuple[str, str]:
    """The state in one word of a model whose spec is at `generation`, and why it is not `ready`.

    `failed` is said only when nothing answers and nothing is on its way without having failed.
    """
    if view is None:
        return "pending", "its source has not been looked at yet"
    if view.generation < generation:
        return "deploying", "the change is being applied"
    if view.converged:
        return "ready", ""
    trouble = _trouble(view)
    if any(v.state is VersionState.READY for v in view.versions):
        return ("degraded", trouble) if trouble else ("deploying", _progress(view))
    if trouble and _is_stuck(view):
        return "failed", trouble
    return "deploying", _progress(view)


def _is_stuck(view: ModelView) -> bool:
    """Whether nothing that has not failed yet is on its way. A version that is only known, as one
    that is still being uploaded, does not hide that another has failed."""
    states = {v.state for v in view.versions}
    if view.replicas and all(r.state is ReplicaState.FAILED for r in view.replicas):
        return True
    if VersionState.FAILED in states:
        return not states & {VersionState.FETCHING, VersionState.LOADING}
    return not states & set(_ON_THE_WAY)


def _trouble(view: ModelView) -> str:
    """The first thing that went wrong, newest version first; empty when nothing did."""
    for version in view.versions:
        if version.state is VersionState.FAILED:
            return f"version {version.version}: {version.reason or 'failed without a reason'}"
    for one in view.replicas:
        if one.state is ReplicaState.FAILED:
            why = one.reason or one.replica.reason or "it stopped without a reason"
            return f"replica {one.replica.id}: {why}"
    return f"source: {view.source_reason}" if view.source_reason else ""


def _progress(view: ModelView) -> str:
    for version in view.versions:
        if version.state in _ON_THE_WAY:
            doing = version.phase or version.state.value
            more = f" ({version.reason})" if version.reason else ""
            return f"version {version.version}: {doing}{more}"
    wanted = [r for r in view.replicas if r.state is not ReplicaState.DRAINING]
    ready = sum(r.state is ReplicaState.READY for r in wanted)
    if not view.versions:
        return "waiting for a version that may be loaded"
    return f"{ready} of {len(wanted)} replicas ready"


def model(record: ModelRecord, view: ModelView | None, *, deleting: bool = False) -> schema.Model:
    """One model as the API shows it."""
    spec = record.spec
    state, reason = state_of(record.generation, view)
    if deleting:
        state, reason = "deleting", "its replicas are finishing"
    live = record.live_version if view is None else view.live
    labels = {"stable": live, **spec.labels} if live is not None else dict(spec.labels)
    return schema.Model(
        name=spec.name,
        backend=spec.backend.value,
        source=spec.source,
        tenant=spec.tenant,
        state=state,
        reason=reason or None,
        replicas=0 if deleting else spec.replicas,
        ready_replicas=_ready_replicas(view),
        policy=policy_text(spec.policy),
        live_version=live,
        versions=sorted(
            v.version for v in (view.versions if view else ()) if v.state is VersionState.READY
        ),
        labels=labels,
        generation=record.generation,
        created_at=record.created_at,
        updated_at=record.updated_at,
        managed_by=spec.managed_by,
        spec=request_of(spec),
        source_reason=(view.source_reason if view else "") or None,
        source_failing_since=(view.source_failing_since if view else "") or None,
    )


def _ready_replicas(view: ModelView | None) -> int:
    return sum(r.state is ReplicaState.READY for r in view.replicas) if view else 0


def versions(record: ModelRecord | None, view: ModelView) -> list[schema.ModelVersion]:
    """A model's versions, newest first."""
    labels = dict(record.spec.labels) if record else {}
    if view.live is not None:
        labels["stable"] = view.live
    return [_version(view.name, v, labels) for v in view.versions]


def _version(name: str, v: VersionView, labels: dict[str, int]) -> schema.ModelVersion:
    return schema.ModelVersion(
        model=name,
        version=v.version,
        state=v.state.value,
        live=v.live,
        labels=sorted(label for label, version in labels.items() if version == v.version),
        reason=v.reason or None,
        ready_replicas=v.ready_replicas,
        total_replicas=v.total_replicas,
        fetched_bytes=v.fetched_bytes,
        total_bytes=v.total_bytes,
        phase=v.phase or None,
        has_manifest=v.has_manifest,
        in_source=v.in_source,
    )


def replicas(record: ModelRecord | None, views: Sequence[ReplicaView]) -> list[schema.Replica]:
    """A model's replicas, in the given order."""
    backend = record.spec.backend.value if record else ""
    return [_replica(backend, one) for one in views]


def _replica(backend: str, one: ReplicaView) -> schema.Replica:
    replica = one.replica
    return schema.Replica(
        id=replica.id,
        model=replica.model,
        backend=backend,
        state=one.state.value,
        reason=one.reason or replica.reason or None,
        pid=replica.pid,
        endpoint=replica.endpoint.http if replica.endpoint else None,
        grpc_endpoint=replica.endpoint.grpc if replica.endpoint else None,
        versions=list(one.versions),
        restarts=replica.restarts,
        gpus=list(replica.gpus),
        started_at=replica.started_at or None,
    )


def event(e: Event) -> schema.Event:
    """One event as the API shows it."""
    version, replica = e.fields.get("version"), e.fields.get("replica")
    return schema.Event(
        seq=e.seq,
        at=e.at,
        type=e.type,
        model=e.model,
        version=version if isinstance(version, int) else None,
        replica=replica if isinstance(replica, str) else None,
        message=e.message,
        fields=dict(e.fields),
    )
