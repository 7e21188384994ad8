"""What is, as opposed to what is wanted: the lifecycle's view of a model, for people."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.domain.models import VersionState
from gateway.domain.names import Version
from gateway.domain.replicas import Replica, ReplicaState


@dataclass(frozen=True, slots=True)
class VersionView:
    """One version of a model, merged over its replicas."""

    version: Version
    state: VersionState
    """READY once it answers on at least one replica; else the furthest that any replica has got;
    FAILED when no replica could load it or its source shows it unsettled for a reason."""
    live: bool = False
    """Whether it answers when the caller names no version."""
    reason: str = ""
    ready_replicas: int = 0
    total_replicas: int = 0
    fetched_bytes: int | None = None
    total_bytes: int | None = None
    phase: str = ""
    has_manifest: bool = False
    in_source: bool = True


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One replica with what it holds."""

    replica: Replica
    state: ReplicaState
    """The scheduler's state, with READY where a version is AVAILABLE."""
    versions: tuple[Version, ...] = ()
    """AVAILABLE ones, ascending."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model as it is now."""

    name: str
    generation: int = 0
    """The generation of the spec that this view was made from."""
    live: Version | None = None
    versions: tuple[VersionView, ...] = ()
    """Newest first."""
    replicas: tuple[ReplicaView, ...] = ()
    source_reason: str = ""
    """Why the source cannot be read now; empty when it can. The last known versions stay."""
    source_failing_since: str = ""
    """RFC 3339, UTC; empty when the source can be read."""
    converged: bool = False
    """Every wanted replica is READY with every aspired version, none is too many, and `live` is the
    newest aspired version: nothing is left to do."""
