"""What core/versions.py decides of a canary's own replicas.

They are started for one version and end with its rollout. They hold that version and nothing else;
before it is promoted, nobody else does. So a new version gets a process, memory and GPUs of its
own, and can take nothing from the stable one.

In a rollout of a template they hold the live version, as the model's own do. What tells the two
sides apart is then the group alone: `side` is who answers as the canary.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from gateway.core.snapshot import Decision, Offered, ReplicaSeen, Snapshot
from gateway.domain.models import VersionState
from gateway.domain.names import Version


def aspired(now: Snapshot, eligible: Collection[Version]) -> tuple[Version, ...] | None:
    """What they should hold: nothing while it has to be fetched anew. None: there should be no such
    replicas."""
    canary = now.gate.canary
    if canary is None or not now.gate.canary_replicas:
        return None
    return (canary,) if not now.offered or canary in eligible else ()


def told(
    decision: Decision, offered: Mapping[Version, Offered] | None, replica: ReplicaSeen
) -> set[Version]:
    """What one of them is told to hold. On its way out it keeps what it has."""
    if decision.apart is None:
        return {*replica.ready(), *replica.told}
    return {*decision.apart, *(() if offered else replica.ready())}


def loaded(everywhere: frozenset[Version], now: Snapshot) -> frozenset[Version]:
    """What is loaded, where `everywhere` is so by the model's own replicas: the canary counts by
    its own, of which there must be as many as are wanted."""
    gate = now.gate
    if gate.canary is None or not (gate.has_sides or gate.is_apart(now.live)):
        return everywhere
    group = [r for r in now.replicas if r.group and now.is_current(r) and not r.draining]
    holders = sum(gate.canary in r.ready() for r in group)
    others = everywhere - {gate.canary}
    return others | {gate.canary} if holders >= gate.canary_replicas else others


def routes(
    now: Snapshot, routed: Collection[Version], released: Collection[str]
) -> dict[Version, tuple[str, ...]]:
    """Who answers for each version. The canary's own answer for the canary, the others for all
    else; for what the right ones do not have, whoever has it: replicas that had the canary's
    version before its rollout began, or that still have what the last rollout brought. In a rollout
    of a template the canary's own are a side by themselves."""
    answering = [r for r in now.replicas if r.id not in released]
    found: dict[Version, tuple[str, ...]] = {}
    for version in sorted(routed):
        holders = [r for r in answering if version in r.ready()]
        if now.gate.is_of_template or now.gate.canary is None:
            holders = [r for r in holders if not r.group] or holders
        elif now.gate.is_apart(now.live):
            is_canary = version == now.gate.canary
            holders = [r for r in holders if bool(r.group) is is_canary] or holders
        if holders:
            found[version] = tuple(sorted(r.id for r in holders))
    return found


def side(now: Snapshot, released: Collection[str]) -> tuple[str, ...] | None:
    """Who answers as the canary in a rollout of a template."""
    if not now.gate.has_sides:
        return None
    group = [r for r in now.replicas if r.group and r.id not in released]
    holders = [r for r in group if now.gate.canary in r.ready()]
    return tuple(sorted(r.id for r in [r for r in holders if now.is_current(r)] or holders))


def released(
    now: Snapshot, routed: Collection[Version], live: Version | None, gone: Collection[str]
) -> frozenset[str]:
    """Draining ones that may leave. While there should be some, as many stay as are missing;
    whatever else they answer for, they do until the model's own replicas (without `gone`) do, or
    have all failed to."""
    group = [r for r in now.replicas if r.group]
    draining = sorted((r for r in group if r.draining), key=lambda r: r.id)
    useful = [r for r in draining if now.wanted and not r.must_go]
    canary = now.gate.canary if now.gate.canary_replicas else None
    stayers = sum(1 for r in group if not r.draining and canary in r.ready())
    missing = max(0, now.gate.canary_replicas - stayers)
    kept = [r.id for r in useful if canary in r.ready()][:missing]
    own = [r for r in now.replicas if not r.group and r.id not in gone]
    orphans = {v for v in routed if v != canary and not _is_taken_over(v, own, live)}
    kept += [r.id for r in useful if r.ready() & orphans]
    return frozenset(r.id for r in draining) - frozenset(kept)


def _is_taken_over(version: Version, own: Sequence[ReplicaSeen], live: Version | None) -> bool:
    """Whether the model's own replicas answer for it, or none of them ever will."""
    if any(version in r.ready() for r in own):
        return True
    asked = [r for r in own if r.report.answered and not r.draining]
    failed = all(r.state(version) is VersionState.FAILED for r in asked)
    return bool(asked) and failed and version != live
