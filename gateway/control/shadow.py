"""From what a deploy says of shadow traffic to a plan, and back."""

from __future__ import annotations

import math
from typing import Any

from msgspec import UnsetType

from gateway.control.given import first_given, given_or_default
from gateway.control.naming import refuse
from gateway.control.schema import DeployRequest
from gateway.domain.models import ShadowPlan

KNOBS = ("shadow_tolerance", "shadow_max_differing", "shadow_max_flips")

_MAX_TOLERANCE = 10.0
"""An error of ten times the value: beyond, everything agrees."""


def shadow_plan(request: DeployRequest, old: ShadowPlan | None) -> ShadowPlan | None:
    """The plan that `request` means for a model whose plan is now `old`.

    Raises:
        InvalidRequest: a share or a tolerance out of its range, or a knob of shadow traffic without
            a share (`bad_shadow`).
    """
    value = request.shadow
    if value is None or (isinstance(value, UnsetType) and old is None):
        knob = first_given(request, KNOBS)
        if knob is not None:
            raise refuse(knob, "needs a share to copy: shadow (--shadow), as 10%.", "bad_shadow")
        return None
    if isinstance(value, UnsetType):
        assert old is not None
        share = old.share
    else:
        share = _ratio("shadow", value)
        if not share:
            raise refuse("shadow", "must be above 0%; null (--shadow none) copies none.")
    before = old or ShadowPlan(share)
    return ShadowPlan(
        share,
        _tolerance(request.shadow_tolerance, before.tolerance),
        _bound("shadow_max_differing", request.shadow_max_differing, before.max_differing),
        _bound("shadow_max_flips", request.shadow_max_flips, before.max_flips),
    )


def _ratio(field: str, value: float | str) -> float:
    """`10%`, `10` and 10 are 0.1."""
    try:
        percent = float(str(value).strip().removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not 0.0 <= percent <= 100.0:  # not so of NaN
        words = f"must be a percentage from 0 to 100, as 10%; got {str(value)[:40]!r}."
        raise refuse(field, words, "bad_shadow")
    return percent / 100.0


def _bound(
    field: str, value: float | str | UnsetType | None, otherwise: float | None
) -> float | None:
    if isinstance(value, UnsetType):
        return otherwise
    if value is None:
        return None
    ratio = _ratio(field, value)
    if ratio == 1.0:
        raise refuse(field, "100% would allow everything; null leaves it unjudged.", "bad_shadow")
    return ratio


def _tolerance(value: float | UnsetType | None, otherwise: float) -> float:
    tolerance = float(given_or_default(value, otherwise, ShadowPlan(1.0).tolerance))
    if not 0.0 <= tolerance <= _MAX_TOLERANCE:
        words = f"must be from 0 to {_MAX_TOLERANCE:g}, as 0.01 for 1% of a value; got {value}."
        raise refuse("shadow_tolerance", words, "bad_shadow")
    return tolerance


def shadow_request(plan: ShadowPlan | None) -> dict[str, Any]:
    """The keys of a DeployRequest that make this plan again."""
    if plan is None:
        return {"shadow": None, **dict.fromkeys(KNOBS)}
    return {
        "shadow": _percent(plan.share),
        "shadow_tolerance": plan.tolerance,
        "shadow_max_differing": _percent(plan.max_differing),
        "shadow_max_flips": _percent(plan.max_flips),
    }


def _percent(ratio: float | None) -> float | None:
    return None if ratio is None else round(ratio * 100.0, 9)
