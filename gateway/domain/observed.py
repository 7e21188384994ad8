"""What is, as opposed to what is wanted: the lifecycle's view of a model, for people."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.domain.models import VersionState
from gateway.domain.names import Version
from gateway.domain.replicas import Replica, ReplicaStanding, ReplicaState
from gateway.domain.rollouts import RolloutView


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
    standing: ReplicaStanding | None = None
    """What data planes think of it now; None where all of them think well."""


@dataclass(frozen=True, slots=True)
class ScaleView:
    """How many replicas a model has by its requests, and why."""

    wanted: int
    """0: it is stopped, and the next request starts it."""
    why: str = ""
    """Why it is so many; empty where that has not changed since the gateway started."""
    at: str = ""
    """When that changed last, RFC 3339, UTC; empty as `why`."""
    is_on_demand: bool = False
    """It has none while nobody asks."""
    is_panicking: bool = False
    """A burst: replicas are only added."""
    in_flight: float = field(default=0.0, compare=False)
    """On average over the long window. Not compared: alone it is no news."""


@dataclass(frozen=True, slots=True)
class TemplateView:
    """What a model's own replicas are started with, for people."""

    running: str
    """Digest (core/placement.template_of)."""
    deployed: str
    """The same of what was deployed last; another one while a rollout brings it, or when one has
    taken it back."""
    changes: tuple[str, ...] = ()
    """In which parts the deployed one differs."""
    is_rejected: bool = False
    """The deployed one was taken back: it waits until somebody deploys or starts it again."""


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
    newest aspired version, or waits for a rollout: nothing is left to do but that."""
    rollout: RolloutView | None = None
    """The newest one, under way or over."""
    scale: ScaleView | None = None
    """None where it has a fixed number of replicas."""
    template: TemplateView | None = None

    @property
    def is_idle(self) -> bool:
        """It is stopped because nobody asks; the next request starts it."""
        return self.scale is not None and self.scale.wanted == 0
