"""What is known of one model's versions and replicas, and what is decided of them: the nouns of
core/versions.py. Immutable, and without a decision in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.domain.models import VersionPolicy, VersionState
from gateway.domain.names import Version
from gateway.domain.replicas import ReplicaReport


@dataclass(frozen=True, slots=True)
class Offered:
    """One version as the source shows it."""

    fingerprint: str = ""
    settled: bool = True


@dataclass(frozen=True, slots=True)
class ReplicaSeen:
    """One replica that listens, as it was last seen."""

    id: str
    report: ReplicaReport
    draining: bool = False
    must_go: bool = False
    """Draining, and not to be waited for: its place is needed (a GPU for its replacement)."""
    told: frozenset[Version] = frozenset()
    """What it was last told to hold."""
    is_silent: bool = False
    """It has answered once, and does not any more."""
    group: str = ""
    """Empty: one of the model's own; else one of the canary's."""
    template: str = ""
    """Digest of what it was started with."""

    def state(self, version: Version) -> VersionState | None:
        """What it says of `version`; None when it does not know it or did not answer."""
        status = self.report.versions.get(version) if self.report.answered else None
        return None if status is None else status.state

    def ready(self) -> frozenset[Version]:
        """The versions that it can answer for."""
        return frozenset(v for v in self.report.versions if self.state(v) is VersionState.READY)


@dataclass(frozen=True, slots=True)
class Memory:
    """What one decision leaves to the next. Losing it (a restart) costs a repetition, no more."""

    suspect: frozenset[Version] = frozenset()
    """Failed everywhere and not READY since. While a suspect is tried again it passes through
    LOADING; without this memory each try would look like a version worth waiting for."""
    fingerprints: Mapping[Version, str] = field(default_factory=dict)
    """What each aspired version looked like when replicas were first told of it."""
    anew: frozenset[Version] = frozenset()
    """Changed in the source before it was READY anywhere: to be dropped by every replica, then
    fetched again."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What a rollout allows (core/rollout.py). The default allows everything."""

    is_held: bool = False
    """The live version changes only to `promoted`."""
    rejected: frozenset[Version] = frozenset()
    """Never live by themselves, and passed over by `latest`."""
    kept: frozenset[Version] = frozenset()
    """Aspired whatever the policy says."""
    canary: Version | None = None
    """While there is one, other versions above the live one wait."""
    canary_replicas: int = 0
    """Above 0: the canary has so many replicas of its own, and before it is promoted it is on no
    others."""
    promoted: Version | None = None
    """Goes live as soon as it is READY wherever the model is answered."""
    is_of_template: bool = False
    """Both sides of the rollout have the live version: the canary's replicas are its side, and
    answer for nobody else where the model's own can. True until nothing is left of it."""
    replaces: bool = False
    """The model's own replicas are being replaced. `promoted` goes live when as many of the new
    ones as are wanted have it, not with the first."""

    def is_apart(self, live: Version | None) -> bool:
        """Whether the canary is a version for replicas of its own only."""
        return self.canary_replicas > 0 and self.canary not in (None, live, self.promoted)

    @property
    def has_sides(self) -> bool:
        """Whether the canary is the same version on replicas of its own."""
        return self.is_of_template and self.canary is not None and self.canary_replicas > 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is known of one model."""

    policy: VersionPolicy
    offered: Mapping[Version, Offered] | None
    """None until the source was read; then the last listing that showed anything."""
    live: Version | None
    replicas: Sequence[ReplicaSeen]
    wanted: int
    """How many of the model's own there should be. 0 (the model is being deleted) releases them
    all, a canary's, too."""
    labels: Mapping[str, Version] = field(default_factory=dict)
    memory: Memory = Memory()
    gate: Gate = Gate()
    templates: Mapping[str, str] = field(default_factory=dict)
    """By group, the digest of what its replicas should be started with now."""

    def is_current(self, replica: ReplicaSeen) -> bool:
        """Whether it was started with what its group should be started with."""
        return self.templates.get(replica.group, replica.template) == replica.template


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from a snapshot."""

    aspired: tuple[Version, ...]
    """By the model's own replicas. Ascending."""
    live: Version | None
    routes: Mapping[Version, tuple[str, ...]]
    """Replica ids by version; no version without a replica."""
    labels: Mapping[str, Version]
    released: frozenset[str]
    """Draining replicas that nothing is routed to any more."""
    memory: Memory
    candidate: Version | None = None
    """What would go live if there were no rollouts; equal to `live` where that is so."""
    loaded: frozenset[Version] = frozenset()
    """Aspired and READY wherever the model is answered. A canary with replicas of its own: READY on
    as many of those as there should be."""
    apart: tuple[Version, ...] | None = None
    """What the canary's own replicas should hold. None: there should be none; those that there are
    keep what they have until they go."""
    side: tuple[str, ...] | None = None
    """Replicas that are the canary's side of a rollout of a template, and hold the live version.
    None: there is no such rollout, or nothing is to be sent there."""
    is_placed: bool = False
    """As many of the model's own replicas as are wanted are current and hold the version that is
    live, and all others are on their way out."""
