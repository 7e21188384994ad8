"""Decide which versions of one model should be loaded, which one is live, and who answers for them.

Level-triggered: a snapshot of everything goes in and the whole decision comes out, and asking twice
about the same snapshot gives the same answer. After TensorFlow Serving's aspired versions, with two
differences: an omission from a source that shows nothing at all unloads nothing, and a version goes
live for the model as a whole instead of for each server by itself.

The promises, each held by a property in tests/property/test_versions_properties.py: a version is
routed only to replicas that reported it READY; the live version is replaced only by one that is
READY wherever the model is answered; a version that fails takes nothing down.

A canary may have replicas of its own (a group). Those hold it and nothing else, the model's own
replicas do not hold it before it is promoted, and what is live is for these alone to say.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from gateway.core import canary_group
from gateway.core.snapshot import Decision as Decision
from gateway.core.snapshot import Gate as Gate
from gateway.core.snapshot import Memory as Memory
from gateway.core.snapshot import Offered as Offered
from gateway.core.snapshot import ReplicaSeen as ReplicaSeen
from gateway.core.snapshot import Snapshot as Snapshot
from gateway.domain.models import All, Latest, Specific, VersionState
from gateway.domain.names import Version


def decide(now: Snapshot) -> Decision:
    """The whole decision for one model; see the module's promises."""
    memory = _remember(now)
    eligible = _eligible(now, memory)
    own = replace(now, replicas=tuple(r for r in now.replicas if not r.group))
    wanted = _wanted(own, memory, eligible)
    aspired = _gated(wanted, own, eligible)
    apart = canary_group.aspired(now, eligible)
    released = _released(own, now.live)
    loaded = _loaded(own, aspired, released)
    live = _next_live(own, aspired, released)
    # Once another version is live, draining replicas are measured by that one.
    released = _released(own, live)
    routed = frozenset(aspired | {*(apart or ()), *(() if live is None else (live,))})
    released |= canary_group.released(now, routed, live, released)
    labels = dict(now.labels)
    if live is not None:
        labels["stable"] = live
    if now.gate.canary is not None:
        labels["canary"] = now.gate.canary
    known = memory.fingerprints
    offered = now.offered or {}
    told_of = {*aspired, *(apart or ())}
    prints = {v: known.get(v, offered[v].fingerprint) for v in told_of if v in offered}
    return Decision(
        aspired=tuple(sorted(aspired)),
        live=live,
        routes=canary_group.routes(now, routed, released),
        labels=labels,
        released=released,
        memory=Memory(memory.suspect, prints, memory.anew),
        candidate=_candidate(own, wanted),
        loaded=canary_group.loaded(loaded, now),
        apart=apart,
        side=canary_group.side(now, released),
        is_placed=_is_placed(own, live),
    )


def told(
    decision: Decision,
    offered: Mapping[Version, Offered] | None,
    replica: ReplicaSeen,
    busy: Collection[tuple[Version, str]],
) -> tuple[Version, ...]:
    """What one replica should hold: what is aspired for its group, the live version for as long as
    it is needed, what is routed to it, and what the data planes are still busy with. Ascending.

    `busy` must have been asked after the decision's routes were published; asked before, it would
    miss the requests that are about to lose their version.
    """
    if replica.group:
        wanted = canary_group.told(decision, offered, replica)
    else:
        wanted = _told_own(decision, offered, replica)
    wanted |= {version for version, ids in decision.routes.items() if replica.id in ids}
    wanted |= {version for version, replica_id in busy if replica_id == replica.id}
    return tuple(sorted(wanted))


def _told_own(
    decision: Decision, offered: Mapping[Version, Offered] | None, replica: ReplicaSeen
) -> set[Version]:
    """What one of the model's own replicas is told to hold for its group's sake."""
    wanted, live, holds = set(decision.aspired), decision.live, replica.ready()
    # A live version that the source has withdrawn cannot be fetched again: only holders keep it.
    if live is not None and (live in holds or live in replica.told or live in (offered or {live})):
        wanted.add(live)
    return wanted


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


def _eligible(now: Snapshot, memory: Memory) -> set[Version]:
    """What the source has that may be loaded."""
    keep = _ready_anywhere(now) | ({now.live} if now.live is not None else set())
    return {
        v
        for v, seen in (now.offered or {}).items()
        if v not in memory.anew and (seen.settled or v in keep)
    }


def _wanted(now: Snapshot, memory: Memory, eligible: set[Version]) -> frozenset[Version]:
    """What the policy asks for, of what may be loaded."""
    if not now.offered:
        # Nothing is known of the source: everything stays as it is, and new replicas get the same.
        return _held(now) if now.live is None else _held(now) | {now.live}
    match now.policy:
        case Specific(versions):
            chosen = eligible & frozenset(versions)
        case All():
            chosen = eligible
        case Latest(count):
            # What has been live has worked. If it fails now (storage is down and every replica
            # restarts), an older version in its place would be a wrong answer, not a rescue.
            sound = eligible - (now.gate.rejected - {now.live})
            chosen = _newest(sound, count, memory.suspect - {now.live})
    # A label that people set holds its version: whoever asks by it must not lose it to a newer one.
    return frozenset(chosen | (eligible & set(now.labels.values())))


def _gated(wanted: frozenset[Version], now: Snapshot, eligible: set[Version]) -> frozenset[Version]:
    """What a rollout leaves of that, and adds to it."""
    canary, live = now.gate.canary, now.live
    if not now.offered:
        return wanted
    labelled = set(now.labels.values())
    if canary is not None and live is not None:
        wanted = frozenset(v for v in wanted if v <= live or v == canary or v in labelled)
    wanted |= eligible & now.gate.kept
    if now.gate.is_apart(live) and canary not in labelled:
        wanted -= {canary}
    return wanted


def _candidate(now: Snapshot, wanted: frozenset[Version]) -> Version | None:
    """The version that would be next to go live; the live one where it is that already."""
    best = max(wanted - now.gate.rejected, default=None)
    if best is None or not now.offered or not _outranks(best, now, wanted):
        return now.live
    return best


def _newest(eligible: set[Version], count: int, suspect: frozenset[Version]) -> set[Version]:
    """The newest `count` that work or may work, and the newest `count` suspects above them, which
    are tried again. With 1 to 5 published and 5 failing, `latest:1` is {4, 5}."""
    sound = sorted(eligible - suspect, reverse=True)[:count]
    floor = min(sound, default=-1)
    failing = sorted((v for v in eligible & suspect if v > floor), reverse=True)[:count]
    return {*sound, *failing}


def _answering(now: Snapshot, released: frozenset[str]) -> list[ReplicaSeen]:
    """Replicas that answer for the model, draining ones only where there are no others."""
    found = [r for r in now.replicas if not r.draining and r.ready()]
    return found or [r for r in now.replicas if r.ready() and r.id not in released]


def _loaded(
    now: Snapshot, aspired: frozenset[Version], released: frozenset[str]
) -> frozenset[Version]:
    """Aspired versions that are READY on all replicas that answer for the model."""
    answering = _answering(now, released)
    return frozenset(v for v in aspired if answering and all(v in r.ready() for r in answering))


def _next_live(
    now: Snapshot, aspired: frozenset[Version], released: frozenset[str]
) -> Version | None:
    """The newest aspired version that is READY on all replicas that answer for the model.

    Before the first live version one replica is enough. A live version that is still wanted gives
    way to newer ones only: while all replicas restart, the older of two would often be first. Where
    rollouts hold it, it gives way to the one that is promoted only.
    """
    loaded = _loaded(now, aspired, released)
    if now.live is None:
        return max((v for v in aspired if v in _ready(now, released)), default=None)
    if now.gate.is_held:
        goes = now.gate.promoted in loaded
        if goes and now.gate.replaces:
            goes = _is_placed(now, now.gate.promoted)
        return now.gate.promoted if goes else now.live
    for version in sorted(loaded, reverse=True):
        if _outranks(version, now, aspired):
            return version
    return now.live


def _is_placed(now: Snapshot, version: Version | None) -> bool:
    """Whether replicas that are current, as many as are wanted, hold `version`, and no others are
    to stay."""
    staying = [r for r in now.replicas if not r.draining]
    holders = sum(version in r.ready() for r in staying if now.is_current(r))
    return holders >= now.wanted and all(now.is_current(r) for r in staying)


def _ready(now: Snapshot, released: frozenset[str]) -> set[Version]:
    return {v for r in _answering(now, released) for v in r.ready()}


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


def given_up(replicas: Sequence[ReplicaSeen], decision: Decision) -> tuple[str, ...]:
    """Silent replicas from which nobody should wait for an answer any more, because another one can
    give it. What is under way at the last replica of a model may still be answered: it may only
    have been stopped for a while."""
    live = decision.live
    if live is None or not decision.routes.get(live):
        return ()
    return tuple(r.id for r in replicas if r.is_silent)
