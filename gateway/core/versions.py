"""Decide which versions of one model should be loaded, which one is live, and who answers for them.

Level-triggered: a snapshot of everything goes in and the whole decision comes out, and asking twice
about the same snapshot gives the same answer. After TensorFlow Serving's aspired versions, with two
differences: an omission from a source that shows nothing at all unloads nothing, and a version goes
live for the model as a whole instead of for each server by itself.

The promises, each held by a property in tests/property/test_versions_properties.py: a version is
routed only to replicas that reported it READY; the live version is replaced only by one that is
READY wherever the model is answered; a version that fails takes nothing down.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.domain.models import All, Latest, Specific, VersionPolicy, VersionState
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
class Snapshot:
    """All that is known of one model."""

    policy: VersionPolicy
    offered: Mapping[Version, Offered] | None
    """None until the source was read; then the last listing that showed anything."""
    live: Version | None
    replicas: Sequence[ReplicaSeen]
    wanted: int
    """How many replicas there should be. 0 (the model is being deleted) releases them all."""
    labels: Mapping[str, Version] = field(default_factory=dict)
    memory: Memory = Memory()


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from a snapshot."""

    aspired: tuple[Version, ...]
    """Ascending."""
    live: Version | None
    routes: Mapping[Version, tuple[str, ...]]
    """Replica ids by version; no version without a replica."""
    labels: Mapping[str, Version]
    released: frozenset[str]
    """Draining replicas that nothing is routed to any more."""
    memory: Memory


def decide(now: Snapshot) -> Decision:
    """The whole decision for one model; see the module's promises."""
    memory = _remember(now)
    aspired = _aspired(now, memory)
    released = _released(now, now.live)
    live = _next_live(now, aspired, released)
    # Once another version is live, draining replicas are measured by that one.
    released = _released(now, live)
    answering = [r for r in now.replicas if r.id not in released]
    routed = aspired if live is None else aspired | {live}
    routes = {v: tuple(sorted(r.id for r in answering if v in r.ready())) for v in sorted(routed)}
    labels = dict(now.labels)
    if live is not None:
        labels["stable"] = live
    known = memory.fingerprints
    offered = now.offered or {}
    prints = {v: known.get(v, offered[v].fingerprint) for v in aspired if v in offered}
    return Decision(
        aspired=tuple(sorted(aspired)),
        live=live,
        routes={v: ids for v, ids in routes.items() if ids},
        labels=labels,
        released=released,
        memory=Memory(memory.suspect, prints, memory.anew),
    )


def told(
    decision: Decision,
    offered: Mapping[Version, Offered] | None,
    replica: ReplicaSeen,
    busy: Collection[tuple[Version, str]],
) -> tuple[Version, ...]:
    """What one replica should hold: the aspired versions, the live one for as long as it is needed,
    and what the data planes are still busy with. Ascending.

    `busy` must have been asked after the decision's routes were published; asked before, it would
    miss the requests that are about to lose their version.
    """
    holds = {v for v in replica.report.versions if replica.state(v) is VersionState.READY}
    wanted = set(decision.aspired)
    live = decision.live
    # A live version that the source has withdrawn cannot be fetched again: only holders keep it.
    if live is not None and (live in holds or live in replica.told or live in (offered or {live})):
        wanted.add(live)
    wanted |= {version for version, replica_id in busy if replica_id == replica.id}
    return tuple(sorted(wanted))


def _ready_anywhere(now: Snapshot) -> frozenset[Version]:
    return frozenset(v for r in now.replicas for v in r.ready())


def _held(now: Snapshot) -> frozenset[Version]:
    """Versions that some replica has anything to do with, failed ones too."""
    return frozenset(
        v
        for r in now.replicas
        for v in r.report.versions
        if r.state(v) not in (None, VersionState.GONE, VersionState.DRAINING)
    )


def _remember(now: Snapshot) -> Memory:
    """The memory brought up to this snapshot."""
    ready = _ready_anywhere(now)
    offered = now.offered or {}
    changed = frozenset(
        v
        for v, seen in offered.items()
        if now.memory.fingerprints.get(v, seen.fingerprint) != seen.fingerprint and v not in ready
    )
    anew = frozenset(v for v in now.memory.anew | changed if _lingers(now, v)) - ready
    fresh = changed | anew
    failed = frozenset(v for v in _held(now) if _failed_everywhere(now, v))
    suspect = ((now.memory.suspect & frozenset(offered)) | failed) - ready - fresh
    prints = {v: p for v, p in now.memory.fingerprints.items() if v not in fresh and v in offered}
    return Memory(suspect, prints, anew)


def _lingers(now: Snapshot, version: Version) -> bool:
    """Whether some replica still works on `version`, or is still told to."""
    idle = (None, VersionState.GONE, VersionState.FAILED)
    return any(version in r.told or r.state(version) not in idle for r in now.replicas)


def _failed_everywhere(now: Snapshot, version: Version) -> bool:
    states = [s for r in now.replicas if (s := r.state(version)) is not None]
    return bool(states) and all(s is VersionState.FAILED for s in states)


def _aspired(now: Snapshot, memory: Memory) -> frozenset[Version]:
    """What the policy asks for, of what may be loaded."""
    if not now.offered:
        # Nothing is known of the source: everything stays as it is, and new replicas get the same.
        return _held(now) if now.live is None else _held(now) | {now.live}
    keep = _ready_anywhere(now) | ({now.live} if now.live is not None else set())
    eligible = {
        v for v, seen in now.offered.items() if v not in memory.anew and (seen.settled or v in keep)
    }
    match now.policy:
        case Specific(versions):
            chosen = eligible & frozenset(versions)
        case All():
            chosen = eligible
        case Latest(count):
            # What has been live has worked. If it fails now (storage is down and every replica
            # restarts), an older version in its place would be a wrong answer, not a rescue.
            chosen = _newest(eligible, count, memory.suspect - {now.live})
    # A label that people set holds its version: whoever asks by it must not lose it to a newer one.
    return frozenset(chosen | (eligible & set(now.labels.values())))


def _newest(eligible: set[Version], count: int, suspect: frozenset[Version]) -> set[Version]:
    """The newest `count` that work or may work, and the newest `count` suspects above them, which
    are tried again. With 1 to 5 published and 5 failing, `latest:1` is {4, 5}."""
    sound = sorted(eligible - suspect, reverse=True)[:count]
    floor = min(sound, default=-1)
    failing = sorted((v for v in eligible & suspect if v > floor), reverse=True)[:count]
    return {*sound, *failing}


def _next_live(
    now: Snapshot, aspired: frozenset[Version], released: frozenset[str]
) -> Version | None:
    """The newest aspired version that is READY on all replicas that answer for the model.

    Before the first live version one replica is enough. A live version that is still wanted gives
    way to newer ones only: while all replicas restart, the older of two would often be first.
    """
    staying = [r for r in now.replicas if not r.draining]
    answering = [r for r in staying if r.ready()]
    if not answering:
        answering = [r for r in now.replicas if r.ready() and r.id not in released]
    for version in sorted(aspired, reverse=True):
        holders = [r for r in answering if version in r.ready()]
        if now.live is None and holders:
            return version
        if _outranks(version, now, aspired) and holders and len(holders) == len(answering):
            return version
    return now.live


def _outranks(version: Version, now: Snapshot, aspired: frozenset[Version]) -> bool:
    return now.live is None or version > now.live or now.live not in aspired


def _released(now: Snapshot, live: Version | None) -> frozenset[str]:
    """Draining replicas that may leave: those that do not hold the live version, and as many others
    as are replaced by replicas that do."""
    draining = sorted((r for r in now.replicas if r.draining), key=lambda r: r.id)
    stayers = sum(1 for r in now.replicas if not r.draining and live in r.ready())
    needed = max(0, now.wanted - stayers)
    useful = [r.id for r in draining if live in r.ready() and not r.must_go]
    return frozenset(r.id for r in draining) - frozenset(useful[:needed])
