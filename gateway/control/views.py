"""What the API shows of a model: the stored spec and the lifecycle's view, joined. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gateway.control import schema
from gateway.control.deploy import request_of
from gateway.control.quantities import policy_text
from gateway.core.rollout import possible
from gateway.core.templates import differences, digest
from gateway.domain.agreement import Agreement
from gateway.domain.gateways import Role
from gateway.domain.models import ModelRecord, ModelSpec, VersionState
from gateway.domain.names import Version
from gateway.domain.observed import ModelView, ReplicaView, VersionView
from gateway.domain.replicas import ReplicaStanding, ReplicaState
from gateway.domain.rollouts import Phase, RolloutView, Side
from gateway.domain.templates import TemplateChange
from gateway.ports import Event
from gateway.telemetry.traffic import ModelTraffic

_ON_THE_WAY = (VersionState.NEW, VersionState.FETCHING, VersionState.LOADING)


_IDLE = "nobody asks; the next request starts a replica"


def state_of(generation: int, view: ModelView | None) -> tuple[str, str]:
    """The state in one word of a model whose spec is at `generation`, and why it is not `ready`.

    `failed` is said only when nothing answers and nothing is on its way without having failed.
    """
    if view is None:
        return "pending", "its source has not been looked at yet"
    if view.generation < generation:
        return "deploying", "the change is being applied"
    if view.converged:
        return ("idle", _IDLE) if view.is_idle else ("ready", "")
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
    waits = next((r.reason for r in view.replicas if _is_waiting(r)), "")
    return _doing(view) + (f" · {waits}" if waits else "")


def _is_waiting(one: ReplicaView) -> bool:
    """Whether it says what it waits for before it starts: a node with a free GPU, an image."""
    return one.state is ReplicaState.STARTING and bool(one.reason)


def _doing(view: ModelView) -> str:
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
    scale = None if view is None or spec.scaling is None else view.scale
    labels = _labels(live, view, spec.labels)
    return schema.Model(
        name=spec.name,
        backend=spec.backend.value,
        source=spec.source,
        tenant=spec.tenant,
        state=state,
        reason=reason or None,
        replicas=0 if deleting else spec.replicas if scale is None else scale.wanted,
        ready_replicas=_ready_replicas(view),
        min_replicas=None if spec.scaling is None else spec.scaling.least,
        max_replicas=None if spec.scaling is None else spec.scaling.most,
        in_flight=None if scale is None else round(scale.in_flight, 3),
        scale_reason=(scale.why if scale else "") or None,
        scaled_at=(scale.at if scale else "") or None,
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
        template=_template(view),
    )


def _labels(
    live: Version | None, view: ModelView | None, own: Mapping[str, Version]
) -> dict[str, Version]:
    """All labels, the gateway's first."""
    labels = {} if live is None else {"stable": live}
    rollout = view.rollout.rollout if view is not None and view.rollout is not None else None
    if rollout is not None and not rollout.is_over and rollout.phase is not Phase.ROLLING_BACK:
        labels["canary"] = rollout.version
    return {**labels, **own}


def rollout(name: str, view: RolloutView, spec: ModelSpec | None = None) -> schema.Rollout:
    """One rollout as the API shows it; `spec` is its model's, None where that is being deleted."""
    known, finding = view.rollout, view.finding
    return schema.Rollout(
        model=name,
        version=known.version,
        stable_version=known.stable,
        template=None if spec is None else _change(known.change, spec),
        phase=known.phase.value,
        reason=known.reason or None,
        steps=list(known.steps),
        step=known.step,
        weight=known.weight,
        verdict=finding.verdict.value,
        verdict_reason=finding.reason or None,
        canary=_side(finding.canary),
        stable=_side(finding.stable),
        error_evidence=_rounded(finding.error_evidence),
        latency_evidence=_rounded(finding.latency_evidence),
        agreement=None if finding.agreement is None else _agreement(finding.agreement),
        evidence_limit=finding.limit if math.isfinite(finding.limit) else None,
        min_samples=view.min_samples,
        step_s=view.step_s,
        canary_replicas=known.canary_replicas,
        can=possible(known),
        rejected=list(known.rejected),
        started_at=known.started_at,
        phase_at=known.phase_at,
    )


def _change(change: TemplateChange | None, spec: ModelSpec) -> schema.TemplateChange | None:
    if change is None:
        return None
    return schema.TemplateChange(
        digest(spec, change.after),
        digest(spec, change.before),
        list(differences(change.before, change.after)),
    )


def _template(view: ModelView | None) -> schema.ModelTemplate | None:
    known = view.template if view is not None else None
    if known is None:
        return None
    return schema.ModelTemplate(
        known.running, known.deployed, list(known.changes), known.is_rejected
    )


def _agreement(found: Agreement) -> schema.Agreement:
    return schema.Agreement(
        compared=found.compared,
        failed=found.failed,
        skipped=found.skipped,
        dropped=found.dropped,
        needed=found.needed,
        differing=found.differing,
        flips=found.flips,
        evidence=_rounded(found.evidence),
        reason=found.reason or None,
        outputs=[
            schema.OutputAgreement(
                name=output.name,
                compared=output.compared,
                mismatched=output.mismatched,
                mismatch=output.mismatch or None,
                differing=output.differing,
                flips=output.flips,
                max_abs_error=output.max_abs_error,
                max_rel_error=output.max_rel_error,
                mean_cosine=output.mean_cosine,
                min_cosine=output.min_cosine,
            )
            for output in found.outputs
        ],
    )


def _side(side: Side) -> schema.RolloutSide:
    return schema.RolloutSide(side.requests, side.failed, side.p50_s, side.p99_s)


def _rounded(evidence: float) -> float:
    """To a few digits, and no larger than people can read."""
    return float(f"{min(evidence, 1e12):.4g}")


def _ready_replicas(view: ModelView | None) -> int:
    replicas = view.replicas if view else ()
    return sum(r.state is ReplicaState.READY and not r.replica.group for r in replicas)


def versions(record: ModelRecord | None, view: ModelView) -> list[schema.ModelVersion]:
    """A model's versions, newest first."""
    labels = _labels(view.live, view, record.spec.labels if record else {})
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
        standing="good" if one.standing is None else one.standing.standing,
        standing_reason=None if one.standing is None else _why(one.standing),
        pid=replica.pid,
        endpoint=replica.endpoint.http if replica.endpoint else None,
        grpc_endpoint=replica.endpoint.grpc if replica.endpoint else None,
        versions=list(one.versions),
        group=replica.group or "stable",
        template=replica.template or None,
        restarts=replica.restarts,
        gpus=list(replica.gpus),
        started_at=replica.started_at or None,
    )


_CAUSES = {
    "consecutive_failures": "it failed several times in a row",
    "error_ratio": "it answers with errors far more often than the others",
    "latency": "it is far slower than the others",
    "probation": "it failed again before it was trusted",
}


def _why(standing: ReplicaStanding) -> str:
    cause = _CAUSES.get(standing.cause, standing.cause)
    if standing.standing == "probation":
        cause = f"let back in slowly: {cause}"
    return f"{cause} ({standing.planes} of {standing.of} workers)" if standing.of > 1 else cause


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


def leadership(role: Role) -> schema.Leadership:
    """A gateway's role as the API shows it."""
    return schema.Leadership(
        role.role,
        role.gateway,
        role.leader or None,
        role.leader_control or None,
        role.since or None,
        role.others,
    )


def traffic(model: ModelTraffic) -> schema.ModelTraffic:
    """One model's traffic as the API shows it."""
    return schema.ModelTraffic(
        model=model.model,
        in_flight=model.in_flight,
        queued=model.queued,
        limit=model.limit,
        shed=model.shed,
        versions=[
            schema.VersionTraffic(
                version=int(v.version) if v.version else None,
                requests=v.requests,
                errors=v.errors,
                latency_counts=v.latency_counts,
            )
            for v in model.versions.values()
        ],
    )
