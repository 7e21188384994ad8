"""What two views of a model differ in, as events for people. Only flips are events. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.domain.models import VersionState
from gateway.domain.observed import ModelView, ReplicaView, VersionView
from gateway.domain.replicas import ReplicaState

_VERSION_EVENTS = {
    VersionState.FETCHING: ("version.fetching", "is being fetched"),
    VersionState.LOADING: ("version.loading", "is being loaded"),
    VersionState.READY: ("version.ready", "is loaded"),
    VersionState.FAILED: ("version.failed", "is kept out"),
}


@dataclass(frozen=True, slots=True)
class News:
    """One event before it is kept."""

    type: str
    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)


def news(before: ModelView | None, now: ModelView, *, adopting: bool) -> Iterator[News]:
    """What happened between two looks. `adopting`: this is the first look of a gateway, so the
    replicas that are there already were started by an earlier one."""
    old = before or ModelView(now.name)
    yield from _source_news(old, now)
    yield from _replica_news(old, now, adopting=adopting)
    yield from _version_news(old, now)
    if now.live is not None and now.live != old.live and (before is not None or not adopting):
        was = "" if old.live is None else f" (was {old.live})"
        yield News("version.live", f"version {now.live} answers now{was}", {"version": now.live})
    if now.is_idle and old.replicas and not now.replicas:
        yield News("model.idle", f"{now.name} has no replica until somebody asks")
    elif now.converged and not old.converged and not now.is_idle:
        yield News("model.ready", f"model {now.name} is as it should be", {"version": now.live})
    if _answers(old) and not _answers(now):
        yield News("model.unavailable", f"no replica of {now.name} can answer now")


def _answers(view: ModelView) -> bool:
    """Callers are answered; a model that is started on demand answers, however long that takes."""
    if view.scale is not None and view.scale.is_on_demand and view.live is not None:
        return True
    return any(v.live and v.state is VersionState.READY for v in view.versions)


def _source_news(old: ModelView, now: ModelView) -> Iterator[News]:
    if now.source_reason and now.source_reason != old.source_reason:
        yield News("source.failing", f"source: {now.source_reason}", {"reason": now.source_reason})
    elif old.source_reason and not now.source_reason:
        yield News("source.recovered", "the source can be read again")


def _version_news(old: ModelView, now: ModelView) -> Iterator[News]:
    was = {v.version: v for v in old.versions}
    for view in reversed(now.versions):
        if now.is_idle and view.state is VersionState.READY:
            was.pop(view.version, None)  # it may be asked for, which is no news
            continue
        yield from _one_version(was.pop(view.version, None), view)
    for gone in was.values():
        if gone.state in (VersionState.READY, VersionState.DRAINING):
            yield _unloaded(gone)


def _one_version(old: VersionView | None, view: VersionView) -> Iterator[News]:
    old_state = old.state if old is not None else VersionState.NEW
    held = (VersionState.READY, VersionState.DRAINING)
    if old is not None and old_state in held and view.state is VersionState.GONE:
        yield _unloaded(old)
        return
    if view.state not in _VERSION_EVENTS:
        return
    failed_anew = (
        view.state is VersionState.FAILED and old is not None and view.reason != old.reason
    )
    if view.state is not old_state or failed_anew:
        kind, words = _VERSION_EVENTS[view.state]
        message = f"version {view.version} {words}"
        fields: dict[str, Any] = {"version": view.version}
        if view.state is VersionState.FAILED:
            message += f": {view.reason}"
            fields["reason"] = view.reason
        yield News(kind, message, fields)


def _unloaded(view: VersionView) -> News:
    return News(
        "version.unloaded", f"version {view.version} was unloaded", {"version": view.version}
    )


def _replica_news(old: ModelView, now: ModelView, *, adopting: bool) -> Iterator[News]:
    was = {r.replica.id: r for r in old.replicas}
    for view in now.replicas:
        before = was.pop(view.replica.id, None)
        if before is None and view.state is not ReplicaState.FAILED:
            # One that was started by this very look has no process yet. One that is FAILED may not
            # have been started at all: no pod could be made for it, or no GPU was free.
            adopted = adopting and view.replica.pid is not None
            kind, words = ("adopted", "goes on") if adopted else ("started", "was started")
            yield _replica(view, kind, words)
        state = before.state if before is not None else ReplicaState.STARTING
        if view.state is ReplicaState.READY and state is not ReplicaState.READY:
            yield _replica(view, "ready", "is ready")
        if view.state is ReplicaState.LOADING and state is ReplicaState.READY and view.reason:
            yield _replica(view, "silent", view.reason, reason=view.reason)
        if view.state is ReplicaState.FAILED and state is not ReplicaState.FAILED:
            yield _replica(view, "failed", f"failed: {view.reason}", reason=view.reason)
    for gone in was.values():
        if gone.state is not ReplicaState.FAILED:
            yield _replica(gone, "stopped", "has stopped")


def _replica(view: ReplicaView, kind: str, words: str, **more: Any) -> News:
    replica_id = view.replica.id
    return News(f"replica.{kind}", f"replica {replica_id} {words}", {"replica": replica_id, **more})
