"""Put together what people and the routing table see of one model. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.core.versions import Decision, Memory, ReplicaSeen
from gateway.domain.models import ModelSpec, VersionState, VersionStatus
from gateway.domain.names import Version
from gateway.domain.observed import ModelView, ReplicaView, VersionView
from gateway.domain.replicas import Replica, ReplicaState
from gateway.ports import PublishedVersion

# The furthest that any replica has got says most; FAILED only where nobody is further.
_FURTHEST = (
    VersionState.READY,
    VersionState.LOADING,
    VersionState.FETCHING,
    VersionState.NEW,
    VersionState.DRAINING,
    VersionState.FAILED,
    VersionState.GONE,
)


@dataclass(frozen=True, slots=True)
class Seen:
    """One model's parts, as one tick saw them."""

    spec: ModelSpec
    generation: int
    template: str
    decision: Decision
    replicas: Sequence[Replica]
    held: Mapping[str, ReplicaSeen]
    """By replica id; only of those that listen."""
    troubles: Mapping[str, str]
    """Why a replica does not take what it is told, by id."""
    published: Mapping[Version, PublishedVersion]
    source_reason: str
    source_failing_since: str
    reasons: Mapping[Version, str]
    """The last failure of each suspect version; kept while it is tried again."""
    shown_versions: int


def merged(seen: Seen) -> list[VersionStatus]:
    """Every version that is aspired or held, merged over the replicas, newest first."""
    decision = seen.decision
    known = {v for s in seen.held.values() for v in s.report.versions} | set(decision.aspired)
    if decision.live is not None:
        known.add(decision.live)
    return [_merge(seen, version) for version in sorted(known, reverse=True)]


def _merge(seen: Seen, version: Version) -> VersionStatus:
    said = [
        s.report.versions[version]
        for s in seen.held.values()
        if s.report.answered and version in s.report.versions
    ]
    if not said:
        return VersionStatus(version, VersionState.NEW)
    best = min(said, key=lambda s: (_FURTHEST.index(s.state), -(s.fetched_bytes or 0)))
    failed = next((s for s in said if s.state is VersionState.FAILED), None)
    if version in seen.decision.memory.suspect and best.state is not VersionState.READY:
        # Tried again and again, it stays what it is to people: kept out, for this reason.
        code = failed.error_code if failed is not None else 0
        reason = (failed.reason if failed is not None else "") or seen.reasons.get(version, "")
        return replace(best, state=VersionState.FAILED, reason=reason, error_code=code)
    if best.state is VersionState.GONE and version in seen.decision.aspired:
        return VersionStatus(version, VersionState.NEW)
    if failed is not None and best is not failed:
        count = sum(1 for s in said if s.state is VersionState.FAILED)
        return replace(best, reason=f"failed on {count} of {len(said)} replicas: {failed.reason}")
    return best


def routed_statuses(statuses: Sequence[VersionStatus]) -> tuple[VersionStatus, ...]:
    """For the routing table: without progress, which would replace it five times a second."""
    return tuple(
        replace(s, fetched_bytes=None, total_bytes=None, phase="")
        for s in statuses
        if s.state is not VersionState.GONE
    )


def model_view(seen: Seen, statuses: Sequence[VersionStatus]) -> ModelView:
    """What people and the API see."""
    replicas = tuple(_replica_view(seen, r) for r in seen.replicas)
    return ModelView(
        name=seen.spec.name,
        generation=seen.generation,
        live=seen.decision.live,
        versions=_versions(seen, statuses),
        replicas=replicas,
        source_reason=seen.source_reason,
        source_failing_since=seen.source_failing_since,
        converged=_is_converged(seen),
    )


def _replica_view(seen: Seen, replica: Replica) -> ReplicaView:
    held = seen.held.get(replica.id)
    ready = tuple(sorted(held.ready())) if held is not None else ()
    state = replica.state
    if state is ReplicaState.LOADING and ready:
        state = ReplicaState.READY
    return ReplicaView(replica, state, ready, replica.reason or seen.troubles.get(replica.id, ""))


def _versions(seen: Seen, statuses: Sequence[VersionStatus]) -> tuple[VersionView, ...]:
    staying = [s for s in seen.held.values() if not s.draining]
    total = max(seen.spec.replicas, len(staying))
    views = {s.version: _version_view(seen, s, total) for s in statuses}
    others = sorted(set(seen.published) - set(views), reverse=True)[: seen.shown_versions]
    for version in others:
        state, reason = _why_not_aspired(seen, version)
        views[version] = VersionView(
            version,
            state,
            reason=reason,
            total_replicas=total,
            total_bytes=seen.published[version].total_bytes or None,
            has_manifest=seen.published[version].has_manifest,
        )
    return tuple(views[v] for v in sorted(views, reverse=True))


_UNSETTLED = "waits for its files to stand still; what gateway publish uploads need not wait"


def _version_view(seen: Seen, status: VersionStatus, total: int) -> VersionView:
    version = status.version
    published = seen.published.get(version)
    holders = sum(1 for s in seen.held.values() if version in s.ready() and not s.draining)
    reason = status.reason
    if published is not None and not published.settled and status.state is VersionState.NEW:
        reason = _UNSETTLED
    return VersionView(
        version=version,
        state=status.state,
        live=version == seen.decision.live,
        reason=reason,
        ready_replicas=holders,
        total_replicas=total,
        fetched_bytes=status.fetched_bytes,
        total_bytes=status.total_bytes,
        phase=status.phase,
        has_manifest=published is not None and published.has_manifest,
        in_source=published is not None,
    )


def _why_not_aspired(seen: Seen, version: Version) -> tuple[VersionState, str]:
    published = seen.published[version]
    if seen.spec.require_manifest and not published.has_manifest:
        return VersionState.GONE, "has no manifest, which this model requires; use gateway publish"
    if not published.settled:
        return VersionState.NEW, _UNSETTLED
    return VersionState.GONE, "not asked for"


def _is_converged(seen: Seen) -> bool:
    decision = seen.decision
    if not decision.aspired or not seen.published:
        return False
    if decision.live != max(decision.aspired) or len(seen.replicas) != seen.spec.replicas:
        return False
    wanted = set(decision.aspired)
    return all(
        r.state is ReplicaState.LOADING
        and r.template == seen.template
        and r.id in seen.held
        and wanted <= seen.held[r.id].ready()
        for r in seen.replicas
    )


def reasons_of(memory: Memory, statuses: Sequence[VersionStatus]) -> dict[Version, str]:
    """The last known failure of each suspect, for the next tick."""
    return {s.version: s.reason for s in statuses if s.version in memory.suspect and s.reason}
