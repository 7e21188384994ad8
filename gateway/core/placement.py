"""Decide which replicas to start and which to drain, on which GPUs, and when to try again.

A replica is replaced, never changed: what a running one cannot change is its template, and a model
whose template changed is moved over by a surge. New replicas start beside the old ones, old ones
drain only as new ones listen, and the lifecycle keeps sending requests to a draining replica until
as many new ones are READY (core/versions.py). So capacity never falls below what was asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from gateway.domain.models import ModelSpec

FIRST_RESTART_S = 0.5
LAST_RESTART_S = 30.0
"""A crash is often over at once (a port taken, memory short for a moment); one that is not must not
cost more than a start every half minute."""

STEADY_S = 60.0
"""Up for this long, a replica's earlier failures are forgotten."""


def template_of(spec: ModelSpec) -> str:
    """Digest of the parts of a spec that a running replica cannot change."""
    parts = (
        spec.source,
        str(spec.backend),
        (spec.resources.gpus, spec.resources.gpu_type, spec.resources.cpus),
        spec.resources.memory_bytes,
        (spec.batching.max_rows, spec.batching.delay_s),
        (spec.image, spec.command, spec.before, spec.after),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Existing:
    """One replica of the model, as the scheduler knows it."""

    id: str
    template: str
    listening: bool
    draining: bool = False
    may_stay: bool = False
    """Draining, and not told to end yet."""
    started: int = 0
    """Order of starting; greater is younger."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do for one model now."""

    start: int = 0
    drain: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    """Draining ones that are needed after all."""


def plan(wanted: int, template: str, existing: Sequence[Existing], surge: int = 1) -> Plan:
    """Which replicas to start and to drain so that `wanted` of `template` remain.

    At most `wanted + surge` exist at a time, draining ones included, and the number that listens
    does not fall below `wanted` by draining unless it was below already. One that is draining and
    needed again is kept: nothing has to be started, nor to wait for its GPU.
    """
    lacking = wanted - sum(1 for e in existing if not e.draining and e.template == template)
    keep = [e.id for e in existing if e.draining and e.may_stay and e.template == template]
    keep = keep[: max(0, lacking)]
    active = [e for e in existing if not e.draining or e.id in keep]
    current = [e for e in active if e.template == template]
    old = [e for e in active if e.template != template]
    room = wanted + surge - len(existing) if old or len(existing) > len(active) else wanted
    start = max(0, min(wanted - len(current), room))
    listening = sum(1 for e in current if e.listening)
    # Those that do not listen yet answer nobody, so they go first and cost nothing; then the
    # youngest, whose caches are the coldest.
    surplus = sorted(current, key=lambda e: (e.listening, -e.started))
    drain = [e.id for e in surplus[: max(0, len(current) - wanted)]]
    mute = [e.id for e in old if not e.listening]
    speaking = sorted((e for e in old if e.listening), key=lambda e: e.started)
    spare = max(0, min(listening, wanted) + len(speaking) - wanted)
    return Plan(start, (*drain, *mute, *(e.id for e in speaking[:spare])), tuple(keep))


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of this machine."""

    id: str
    """What CUDA_VISIBLE_DEVICES calls it."""
    product: str = ""


@dataclass(frozen=True, slots=True)
class Assigned:
    """GPUs for one replica, or why there are none."""

    gpus: tuple[str, ...] = ()
    lacking: str = ""
    """Empty when the wish was met."""


def assign_gpus(
    need: int,
    product: str | None,
    gpus: Sequence[Gpu],
    used: Mapping[str, int],
    per_gpu: int = 1,
) -> Assigned:
    """Pick `need` GPUs of `product` (None: any), the least used first, none for more than
    `per_gpu` replicas."""
    if need == 0:
        return Assigned()
    fitting = [g for g in gpus if product in (None, g.product)]
    free = [g for g in fitting if used.get(g.id, 0) < per_gpu]
    if len(free) < need:
        kind = "" if product is None else f" of type {product}"
        have = f"{len(free)} free of {len(fitting)}"
        return Assigned(lacking=f"needs {need} GPU{'s'[: need > 1]}{kind}, {have} on this machine")
    best = sorted(free, key=lambda g: used.get(g.id, 0))[:need]
    return Assigned(tuple(g.id for g in best))


def restart_delay_s(failures: int, rng: Random) -> float:
    """How long to wait after the `failures`-th failure in a row (1 is the first): 0.5 s doubling to
    30 s, less up to a quarter so that replicas that fell together do not rise together."""
    full = min(LAST_RESTART_S, FIRST_RESTART_S * 2.0 ** min(failures - 1, 16))
    return full * (1.0 - 0.25 * rng.random())
