"""Decide how many replicas of a model there should be, by how many of its requests are in flight.

After Knative's pod autoscaler (KPA): the average over a long window decides; one over a short
window takes over while it asks for twice what there is (panic), in which nothing is taken away.
In flight counts what waits as well, in all data planes. Differences, because a model server starts
in seconds to minutes: a tolerance, so that a load at the edge moves nothing; a delay before each
step down; and whatever has waited while no replica was ready is left out, as that says how long a
start takes and not how many replicas the load needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import NamedTuple

from gateway.domain.models import Batching, Scaling


@dataclass(frozen=True, slots=True)
class AutoscaleSettings:
    """How demand is measured, and how fast it is followed."""

    look_s: float = 1.0
    """Between two measures. Half of Knative's 2 s: six of them in a panic window."""

    stable_s: float = 60.0
    """Window of the average that decides. Knative's."""

    panic_s: float = 6.0
    """Window of the average that sees bursts: a tenth of the long one, as in Knative."""

    panic_ratio: float = 2.0
    """Times the target that the short average must reach on the replicas that are ready, to start a
    panic. It lasts until that was so for the last time a whole long window ago. Knative's 200%."""

    most_up_ratio: float = 4.0
    """Replicas wanted at once, at most, for each that is ready. Knative's is 1000, which bounds
    nothing: while few answer, most of what is in flight is a queue, which the first new ones
    shorten."""

    most_down_ratio: float = 2.0
    """One step down leaves at least one in so many. Knative's."""

    down_delay_s: float = 30.0
    """Fewer replicas must have been enough for so long before each step down. Knative waits for
    nothing here and Kubernetes' HPA for 300 s; the average has a minute in it already."""

    tolerance_ratio: float = 0.1
    """Nothing changes while each replica has the target by so much more, or would have it by less
    than so much less with fewer of them. As the HPA's; without it a load that wavers around a
    whole number of replicas starts and stops one all day."""


def windows(stable_s: float) -> AutoscaleSettings:
    """The settings for another long window, everything else in proportion."""
    default = AutoscaleSettings()
    ratio = stable_s / default.stable_s
    return replace(
        default,
        look_s=min(default.look_s, default.look_s * ratio),
        stable_s=stable_s,
        panic_s=default.panic_s * ratio,
        down_delay_s=default.down_delay_s * ratio,
    )


_BUSY_IN_FLIGHT = 8.0

_DUE_RATIO = 0.99
"""Timers may fire a little early."""


def default_target(batching: Batching) -> float:
    """In flight for each replica where nobody has said it.

    What a replica works on and as much again waiting for its next run keeps it busy: twice the
    batch (Triton's advice for full throughput). But the largest batch is a bound that few runs
    reach, so 8 at most: Knative's 70 of 100 fit web servers, and would let callers of a model that
    takes 50 ms wait 3.5 s before a second replica is started.
    """
    return min(2.0 * batching.max_rows, _BUSY_IN_FLIGHT)


class Demand(NamedTuple):
    """What was asked of a model since counting began, in all data planes."""

    request_s: float = 0.0
    """Seconds that its requests have been in flight, waiting included, summed over them."""
    came: int = 0
    """Requests that came."""


@dataclass(frozen=True, slots=True)
class Span:
    """What was measured between two looks."""

    until: float
    seconds: float
    request_s: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What one decision leaves to the next. Losing it (a restart) only delays steps down."""

    wanted: int
    at: float
    """When `demand` was read."""
    used_at: float
    """When somebody was last seen asking; at first, when looking began."""
    demand: Demand | None = None
    """None before the first look: what was asked before is not known."""
    spans: tuple[Span, ...] = ()
    """Oldest first, a long window of them."""
    since: float = 0.0
    """When the oldest look into the windows was taken without a gap."""
    panic_until: float = -inf
    low_since: float | None = None
    """Since when fewer replicas would have been enough."""
    low_most: int = 0
    """The most that were needed since."""
    stable: float = 0.0
    """In flight, on average over the long window."""
    why: str = ""
    """Why `wanted` is what it is."""


def begun(existing: int, scaling: Scaling, now: float, *, is_proven: bool) -> Memory:
    """Where to start, with so many replicas there. A model that has never answered
    (`is_proven` False) has one, to find out whether it does."""
    least = scaling.least if is_proven else max(1, scaling.least)
    wanted = min(max(existing, least), scaling.most)
    return Memory(wanted, at=now, used_at=now, since=now)


@dataclass(frozen=True, slots=True)
class Seen:
    """All that counts now."""

    now: float
    scaling: Scaling
    demand: Demand
    ready: int
    """Replicas that answer."""
    is_called: bool = False
    """A request waits, and there is no replica."""
    needed: str = ""
    """Why one replica is needed whatever the demand (a version has to be tried); else empty."""


def decide(memory: Memory, seen: Seen, settings: AutoscaleSettings) -> Memory:
    """Take a look, and say how many replicas there should be. May be asked at any time; it measures
    once in `look_s`."""
    now, scaling = seen.now, seen.scaling
    is_due = memory.demand is None or now - memory.at >= _DUE_RATIO * settings.look_s
    is_asked = seen.is_called
    if is_due:
        memory, is_used = _measured(memory, seen, settings)
        # A call is the quick way to hear of it; that somebody has asked is the sure one.
        is_asked = is_asked or is_used
    if seen.needed or seen.is_called:
        memory = replace(memory, used_at=now)
    if memory.wanted < scaling.least:
        return _moved(memory, scaling.least, f"at least {scaling.least} are asked for")
    if memory.wanted > scaling.most:
        return _moved(memory, scaling.most, f"at most {scaling.most} are asked for")
    if memory.wanted == 0:
        why = seen.needed or ("a request came" if is_asked else "")
        return _moved(memory, 1, why) if why else memory
    return _followed(memory, seen, settings) if is_due else memory


def average(spans: Sequence[Span], window_s: float, now: float) -> float:
    """In flight over the last `window_s`. What was not seen of it counts as quiet."""
    found = 0.0
    for span in reversed(spans):
        begin = span.until - span.seconds
        within = min(span.until, now) - max(begin, now - window_s)
        if within <= 0.0:
            break
        found += span.request_s * within / span.seconds
    return found / window_s


def _measured(memory: Memory, seen: Seen, settings: AutoscaleSettings) -> tuple[Memory, bool]:
    """The look taken, and whether anybody has asked since the last one."""
    now, before, seconds = seen.now, memory.demand, seen.now - memory.at
    if before is None or seconds <= 0.0:
        # Nor is it known whether it was idle until now.
        return replace(memory, demand=seen.demand, at=now, since=now, used_at=now), False
    # A data plane that lost its counts (its model was deleted and came back) begins at 0 again.
    request_s = max(0.0, seen.demand.request_s - before.request_s)
    is_used = request_s > 0.0 or seen.demand.came > before.came
    spans: tuple[Span, ...] = ()
    since = now
    if seen.ready:
        oldest = now - settings.stable_s
        spans = (*(s for s in memory.spans if s.until > oldest), Span(now, seconds, request_s))
        since = memory.since
    measured = replace(
        memory,
        demand=seen.demand,
        at=now,
        used_at=now if is_used else memory.used_at,
        spans=spans,
        since=since,
        stable=average(spans, settings.stable_s, now),
    )
    return measured, is_used


def _followed(memory: Memory, seen: Seen, settings: AutoscaleSettings) -> Memory:
    """By demand, of a model that has replicas."""
    now, scaling, ready = seen.now, seen.scaling, max(1, seen.ready)
    burst = average(memory.spans, settings.panic_s, now)
    if burst >= settings.panic_ratio * scaling.target * ready:
        memory = replace(memory, panic_until=now + settings.stable_s)
    most = min(scaling.most, ceil(ready * settings.most_up_ratio))
    for seconds, in_flight in (
        (settings.panic_s, burst if now < memory.panic_until else 0.0),
        (settings.stable_s, memory.stable),
    ):
        is_more = in_flight > memory.wanted * scaling.target * (1.0 + settings.tolerance_ratio)
        wanted = min(most, ceil(in_flight / scaling.target))
        if is_more and wanted > memory.wanted:
            return _moved(memory, wanted, _words(in_flight / ready, seconds, scaling))
    idle_s = now - memory.used_at
    if scaling.least == 0 and idle_s >= scaling.idle_s and not seen.needed:
        return _moved(memory, 0, f"no request for {scaling.idle_s:g} s")
    return _fewer(memory, seen, settings)


def _fewer(memory: Memory, seen: Seen, settings: AutoscaleSettings) -> Memory:
    """A step down, where that has been possible for long enough."""
    now, scaling = seen.now, seen.scaling
    spared = scaling.target * (1.0 - settings.tolerance_ratio)
    enough = max(1, scaling.least, ceil(memory.stable / spared))
    is_known = now - memory.since >= settings.stable_s
    if enough >= memory.wanted or not is_known or now < memory.panic_until:
        return replace(memory, low_since=None)
    if memory.low_since is None:
        return replace(memory, low_since=now, low_most=enough)
    enough = max(enough, memory.low_most)
    if now - memory.low_since < settings.down_delay_s:
        return replace(memory, low_most=enough)
    wanted = max(enough, ceil(memory.wanted / settings.most_down_ratio))
    per_replica = memory.stable / memory.wanted
    return _moved(memory, wanted, _words(per_replica, settings.stable_s, scaling))


def _moved(memory: Memory, wanted: int, why: str) -> Memory:
    return replace(memory, wanted=wanted, why=why, low_since=None)


def _words(per_replica: float, seconds: float, scaling: Scaling) -> str:
    rate = f"{per_replica:.1f} in flight per replica over {seconds:g} s"
    return f"{rate}, target {scaling.target:g}"
