"""Put together what people and the routing table see of one model. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.core.versions import Decision, Memory, ReplicaSeen
from gateway.domain.models import ModelSpec, VersionState, VersionStatus
from gateway.domain.names import Version
from gateway.domain.observed import ModelView, ReplicaView, VersionView
from gateway.domain.replicas import Replica, ReplicaStanding, ReplicaState
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
    templates: Mapping[str, str]
    """By group, the digest of what its replicas are started with now."""
    decision: Decision
    replicas: Sequence[Replica]
    held: Mapping[str, ReplicaSeen]
    """By replica id; only of those that listen."""
    troubles: Mapping[str, str]
    """Why a replica does not take what it is told, by id."""
    published: Mapping[Version, PublishedVersion]
    source_reason: str
    source_failing_since: str
    wanted: int
    """Replicas of the model's own."""
    canary_wanted: int
    """Replicas of a canary's own."""
    is_on_demand: bool
    """It has none while nobody asks, and the next request starts one."""
    reasons: Mapping[Version, str]
    """The last failure of each suspect version; kept while it is tried again."""
    shown_versions: int


def merged(seen: Seen) -> list[VersionStatus]:
    """Every version that is aspired or held, merged over the replicas, newest first."""
    decision = seen.decision
    known = {v for s in seen.held.values() for v in s.report.versions}
    known |= {*decision.aspired, *(decision.apart or ())}
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
        if version in seen.decision.memory.suspect:
            return VersionStatus(version, VersionState.FAILED, seen.reasons.get(version, ""))
        return VersionStatus(version, VersionState.NEW)
    best = min(said, key=lambda s: (_FURTHEST.index(s.state), -(s.fetched_bytes or 0)))
    failed = next((s for s in said if s.state is VersionState.FAILED), None)
    if version in seen.decision.memory.suspect and best.state is not VersionState.READY:
        # Tried again and again, it stays what it is to people: kept out, for this reason.
        code = failed.error_code if failed is not None else 0
        reason = (failed.reason if failed is not None else "") or seen.reasons.get(version, "")
        return replace(best, state=VersionState.FAILED, reason=reason, error_code=code)
    wanted = (*seen.decision.aspired, *(seen.decision.apart or ()))
    if best.state is VersionState.GONE and version in wanted:
        return VersionStatus(version, VersionState.NEW)
    if failed is not None and best is not failed:
        count = sum(1 for s in said if s.state is VersionState.FAILED)
        return replace(best, reason=f"failed on {count} of {len(said)} replicas: {failed.reason}")
    return best


def routed_statuses(seen: Seen, statuses: Sequence[VersionStatus]) -> tuple[VersionStatus, ...]:
    """For the routing table: without progress, which would replace it five times a second. What a
    request would start is READY: it is answered, however long that takes."""
    held = _started_on_demand(seen)
    return tuple(
        VersionStatus(s.version, VersionState.READY)
        if s.version in held
        else replace(s, fetched_bytes=None, total_bytes=None, phase="")
        for s in statuses
        if s.version in held or s.state is not VersionState.GONE
    )


_FAILING = 2
"""Failures in a row. One is a port that was taken, or memory that was short for a moment."""


def _started_on_demand(seen: Seen) -> frozenset[Version]:
    """Versions that may be asked for although no replica runs. Those above the live one have to be
    loaded first, which is done without being asked for."""
    live = seen.decision.live
    # Replicas that only ever fail: whoever waits for one should hear of it before his deadline.
    is_failing = bool(seen.replicas) and all(r.restarts >= _FAILING for r in seen.replicas)
    if not seen.is_on_demand or live is None or is_failing:
        return frozenset()
    known = {v for v in seen.decision.aspired if v <= live} | {live}
    return frozenset(known) - seen.decision.memory.suspect


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
    total = max(seen.wanted, len(_staying(seen)))
    idle = _started_on_demand(seen) if total == 0 else frozenset()
    views = {s.version: _version_view(seen, s, is_idle=s.version in idle) for s in statuses}
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


def _staying(seen: Seen, *, canarys: bool = False) -> list[ReplicaSeen]:
    """Replicas that listen and are not on their way out: the model's own, or the canary's."""
    return [s for s in seen.held.values() if not s.draining and bool(s.group) is canarys]


_UNSETTLED = "waits for its files to stand still; what gateway publish uploads need not wait"


_IDLE = "no replica while nobody asks; the next request starts one"


def _version_view(seen: Seen, status: VersionStatus, *, is_idle: bool) -> VersionView:
    version = status.version
    if is_idle:
        status = VersionStatus(version, VersionState.READY, _IDLE)
    published = seen.published.get(version)
    canarys = version in (seen.decision.apart or ()) and version not in seen.decision.aspired
    staying = _staying(seen, canarys=canarys)
    reason = status.reason
    if published is not None and not published.settled and status.state is VersionState.NEW:
        reason = _UNSETTLED
    return VersionView(
        version=version,
        state=status.state,
        live=version == seen.decision.live,
        reason=reason,
        ready_replicas=sum(version in s.ready() for s in staying),
        total_replicas=max(seen.canary_wanted if canarys else seen.wanted, len(staying)),
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
    if decision.live is None or len(seen.replicas) != seen.wanted + seen.canary_wanted:
        return False
    if decision.live != decision.candidate and seen.spec.canary is None:
        return False
    wanted = {False: set(decision.aspired), True: set(decision.apart or ())}
    return all(
        r.state is ReplicaState.LOADING
        and r.template == seen.templates.get(r.group)
        and r.id in seen.held
        and wanted[bool(r.group)] <= seen.held[r.id].ready()
        for r in seen.replicas
    )


def reasons_of(memory: Memory, statuses: Sequence[VersionStatus]) -> dict[Version, str]:
    """The last known failure of each suspect, for the next tick."""
    return {s.version: s.reason for s in statuses if s.version in memory.suspect and s.reason}


def with_standings(view: ModelView, standings: Mapping[str, ReplicaStanding]) -> ModelView:
    """The view with what the data planes think of its replicas now, which is no part of what the
    loops keep and compare: it changes from one request to the next."""
    replicas = [replace(r, standing=standings.get(r.replica.id)) for r in view.replicas]
    return replace(view, replicas=tuple(replicas))


def canary_trouble(seen: Seen, version: Version, reasons: Mapping[Version, str]) -> str:
    """Why a rollout's version is not loaded: a replica of its own that does not run or cannot load
    it, or what the version's last failure was. Empty where nothing has gone wrong."""
    for replica in seen.replicas:
        reason = replica.reason or seen.troubles.get(replica.id, "")
        held = seen.held.get(replica.id)
        if not reason and held is not None and held.state(version) is VersionState.FAILED:
            reason = held.report.versions[version].reason
        if replica.group and reason and replica.state is not ReplicaState.DRAINING:
            return f"canary replica {replica.id}: {reason}"
    return reasons.get(version, "")
