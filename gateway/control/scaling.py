"""From what a deploy says of how many replicas there are to a plan, and back."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from gateway.control.given import first_given, given_or_default
from gateway.control.naming import refuse
from gateway.control.schema import DeployRequest
from gateway.core.autoscale import default_target
from gateway.domain.errors import Conflict
from gateway.domain.models import Batching, ModelSpec, Scaling

MAX_TARGET = 100_000.0
MAX_IDLE_S = 30 * 86_400.0
IDLE_S = Scaling(0, 1, 1.0).idle_s

_KNOBS = ("target_in_flight", "idle_s")


def check_replicas(count: int, most: int, field: str = "replicas") -> int:
    """Return `count` if a model may have as many replicas, always.

    Raises:
        InvalidRequest: it is not positive, or over the limit (`bad_replicas`).
    """
    if count == 0:
        raise refuse(
            field,
            "must be at least 1. A model that has no replica while nobody asks is deployed with "
            "min_replicas 0 and a max_replicas (--min-replicas 0 --max-replicas N).",
            "bad_replicas",
        )
    if not 1 <= count <= most:
        raise refuse(field, f"must be from 1 to {most}; got {count}.", "bad_replicas")
    return count


def planned(
    request: DeployRequest, old: ModelSpec, batching: Batching, limit: int
) -> tuple[int, Scaling | None]:
    """The number of replicas, and between what it moves, that `request` means for a model that is
    now `old`; `batching` is what it will be. `limit` is the most that a model may have.

    Raises:
        InvalidRequest: a number out of its range, a fixed number and a range together, a range
            without an upper end, or a knob of ranges without one (`bad_replicas`, …).
    """
    least, most, fixed = request.min_replicas, request.max_replicas, request.replicas
    if isinstance(fixed, int):
        if isinstance(least, int) or isinstance(most, int):
            words = "and min_replicas/max_replicas exclude each other: give one."
            raise refuse("replicas", words, "bad_replicas")
        _check_knobs(request)
        return check_replicas(fixed, limit), None
    before = old.scaling if most is not None else None
    if not isinstance(least, int) and not isinstance(most, int) and before is None:
        _check_knobs(request)
        return (old.replicas if fixed is UNSET else 1), None
    scaling = _range(request, before, old.batching, batching, limit)
    return max(1, scaling.least), scaling


def _range(
    request: DeployRequest,
    before: Scaling | None,
    batching_before: Batching,
    batching: Batching,
    limit: int,
) -> Scaling:
    asked = request.max_replicas
    if not isinstance(asked, int):
        if before is None:
            words = "needs max_replicas (--max-replicas): between the two, requests decide."
            raise refuse("min_replicas", words, "bad_replicas")
        asked = before.most
    most = check_replicas(asked, limit, "max_replicas")
    least = given_or_default(request.min_replicas, 1 if before is None else before.least, 1)
    if not 0 <= least <= limit:
        words = f"must be from 0 to {limit}; got {least}."
        raise refuse("min_replicas", words, "bad_replicas")
    if least > most:
        raise refuse("min_replicas", f"{least} is above max_replicas {most}.", "bad_replicas")
    known = before.target if before is not None else default_target(batching)
    if before is not None and known == default_target(batching_before):
        known = default_target(batching)
    target = float(given_or_default(request.target_in_flight, known, default_target(batching)))
    if not 0.01 <= target <= MAX_TARGET:  # not so of NaN
        words = f"must be from 0.01 to {MAX_TARGET:g}; got {target}."
        raise refuse("target_in_flight", words, "bad_target")
    idle_before = IDLE_S if before is None else before.idle_s
    idle_s = float(given_or_default(request.idle_s, idle_before, IDLE_S))
    if not 1.0 <= idle_s <= MAX_IDLE_S:
        raise refuse("idle_s", f"must be from 1 to {MAX_IDLE_S:g} seconds; got {idle_s}.")
    return Scaling(least, most, target, idle_s)


def _check_knobs(request: DeployRequest) -> None:
    knob = first_given(request, _KNOBS)
    if knob is not None:
        words = "needs max_replicas (--max-replicas): the number of replicas is fixed."
        raise refuse(knob, words, "bad_replicas")


def refuse_fixed(name: str, scaling: Scaling) -> Conflict:
    """What is said to who asks for a number of replicas where requests decide it."""
    return Conflict(
        f"How many replicas {name} has, from {scaling.least} to {scaling.most}, follows from its "
        f"requests. To move that: `gateway deploy model {name} --min-replicas N --max-replicas N`; "
        f"to fix it: `gateway deploy model {name} --replicas N`.",
        reason="autoscaled",
    )


def scaling_request(spec: ModelSpec) -> dict[str, Any]:
    """The keys of a DeployRequest that make this again."""
    scaling = spec.scaling
    if scaling is None:
        return {
            "replicas": spec.replicas,
            "min_replicas": None,
            "max_replicas": None,
        } | dict.fromkeys(_KNOBS)
    return {
        "replicas": None,
        "min_replicas": scaling.least,
        "max_replicas": scaling.most,
        "target_in_flight": scaling.target,
        "idle_s": scaling.idle_s,
    }


def replicas_words(spec: ModelSpec) -> str:
    """`3 replicas`, `0 to 4 replicas`."""
    scaling = spec.scaling
    if scaling is not None:
        return f"{scaling.least} to {scaling.most} replicas"
    return f"{spec.replicas} replicas"
