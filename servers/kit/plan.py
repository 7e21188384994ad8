"""Decide what one model's versions should do next.

Level-triggered and stateless: the whole truth goes in, the actions come out, and asking twice about
the same truth gives the same answer. The manager acts, looks again and asks again. Availability
comes first, as in TensorFlow Serving's default policy: the last version that answers is unloaded
only when a wanted one answers, or when none is wanted.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from gateway.domain.models import All, Latest, VersionPolicy, VersionState
from gateway.domain.names import Version

NEXT: dict[VersionState, frozenset[VersionState]] = {
    VersionState.NEW: frozenset({VersionState.FETCHING, VersionState.GONE}),
    VersionState.FETCHING: frozenset(
        {VersionState.LOADING, VersionState.FAILED, VersionState.GONE}
    ),
    VersionState.LOADING: frozenset({VersionState.READY, VersionState.FAILED}),
    VersionState.READY: frozenset({VersionState.DRAINING}),
    VersionState.DRAINING: frozenset({VersionState.GONE}),
    VersionState.FAILED: frozenset({VersionState.FETCHING, VersionState.GONE}),
    VersionState.GONE: frozenset(),
}
"""Every transition there is. FAILED → FETCHING is the retry; a version that is GONE and wanted
again begins a new life as NEW, in a record of its own."""

ON_ITS_WAY = frozenset({VersionState.NEW, VersionState.FETCHING, VersionState.LOADING})


@dataclass(frozen=True, slots=True)
class View:
    """One version as the manager sees it now."""

    version: Version
    state: VersionState
    aspired: bool
    retry_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """Fetch, load and warm it."""

    version: Version


@dataclass(frozen=True, slots=True)
class Unload:
    """Take it out of reach, drain it, give its memory back."""

    version: Version


@dataclass(frozen=True, slots=True)
class Abandon:
    """Stop what is on its way, or forget what failed."""

    version: Version


Action = Load | Unload | Abandon


def aspired(policy: VersionPolicy, listed: Collection[Version]) -> frozenset[Version]:
    """The versions a policy asks for, given what the source lists.

    `Specific` needs no listing: a version that is not there yet is fetched again and again.
    """
    if isinstance(policy, Latest):
        return frozenset(sorted(listed)[-policy.count :] if policy.count > 0 else ())
    if isinstance(policy, All):
        return frozenset(listed)
    return frozenset(policy.versions)


def plan(views: Collection[View], now: float) -> list[Action]:
    """All that may be begun now. Newest first, so that a fix overtakes what it fixes."""
    actions: list[Action] = []
    wanted = [v for v in views if v.aspired and v.state is not VersionState.GONE]
    answering = any(v.state is VersionState.READY for v in wanted)
    unwanted_ready = sorted(
        v.version for v in views if not v.aspired and v.state is VersionState.READY
    )
    spare = unwanted_ready if answering or not wanted else unwanted_ready[:-1]
    actions.extend(Unload(version) for version in spare)
    for view in sorted(views, key=lambda v: -v.version):
        waiting = view.state in ON_ITS_WAY or view.state is VersionState.FAILED
        if not view.aspired:
            if waiting:
                actions.append(Abandon(view.version))
        elif view.state is VersionState.NEW or (
            view.state is VersionState.FAILED and now >= view.retry_at
        ):
            actions.append(Load(view.version))
    return actions


def retry_delay_s(failures: int, first_s: float, longest_s: float) -> float:
    """Wait before the next try: doubles from `first_s`, never above `longest_s`."""
    return min(longest_s, first_s * 2.0 ** min(max(0, failures - 1), 30))
