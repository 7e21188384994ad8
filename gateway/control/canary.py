"""From what a deploy says of canaries to a plan, and back."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

from msgspec import UnsetType

from gateway.control import shadow
from gateway.control.given import first_given, given_or_default
from gateway.control.naming import refuse
from gateway.control.schema import DeployRequest
from gateway.control.shadow import shadow_plan, shadow_request
from gateway.core.split import OVERRIDE
from gateway.core.templates import is_rejected
from gateway.domain.errors import Unimplemented
from gateway.domain.models import CanaryPlan, ModelSpec
from gateway.domain.rollouts import Rollout

MAX_STEPS = 20
MAX_SAMPLES = 10_000_000
MAX_STEP_S = 7 * 86_400.0

_KNOBS = ("canary_samples", "canary_step_s", "canary_key", "canary_replicas")
_NEED_STEPS = (*_KNOBS, "shadow", *shadow.KNOBS)

_TEMPLATE = (
    *("gpus", "gpu_type", "cpu", "memory", "image", "command", "before", "after"),
    *("batch_size", "batch_delay_ms"),
)
"""What a request says of a template (core/templates.py)."""

_FIELD_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
"""A header's name (RFC 9110 section 5.6.2), which metadata names are too."""


def canary_plan(
    request: DeployRequest, old: CanaryPlan | None, most_replicas: int
) -> CanaryPlan | None:
    """The plan that `request` means for a model whose plan is now `old`. `most_replicas` is how
    many a canary may have of its own; 0 where the scheduler keeps no groups apart.

    Raises:
        InvalidRequest: steps that do not grow from above 0 to below 100 (`bad_canary`), a value out
            of its range, or a knob of canaries without steps.
        Unimplemented: replicas of its own that cannot be had (`canary_replicas_not_offered`).
    """
    value = request.canary
    if value is None or (isinstance(value, UnsetType) and old is None):
        knob = first_given(request, _NEED_STEPS)
        if knob is not None:
            raise refuse(knob, "needs the steps: canary (--canary), as 5,25,50.", "bad_canary")
        return None
    if isinstance(value, UnsetType):
        assert old is not None
        steps = old.steps
    else:
        steps = parse_steps(value)
    before, fresh = old or CanaryPlan(steps), CanaryPlan(steps)
    return CanaryPlan(
        steps,
        _samples(given_or_default(request.canary_samples, before.min_samples, fresh.min_samples)),
        _step_s(given_or_default(request.canary_step_s, before.step_s, fresh.step_s)),
        _sticky(given_or_default(request.canary_key, before.sticky, fresh.sticky)),
        shadow_plan(request, before.shadow),
        _replicas(
            given_or_default(request.canary_replicas, before.replicas, fresh.replicas),
            most_replicas,
        ),
    )


def asked_again(spec: ModelSpec, request: DeployRequest, rollout: Rollout | None) -> ModelSpec:
    """`spec`, to be tried again where a rollout has taken back what `request` names. One that names
    nothing of it (another number of replicas, say) leaves it taken back."""
    names_it = any(not isinstance(getattr(request, key), UnsetType) for key in _TEMPLATE)
    if rollout is None or not names_it or not is_rejected(spec, rollout.rejected_templates):
        return spec
    return replace(spec, attempt=spec.attempt + 1)


def parse_steps(value: list[float] | str) -> tuple[float, ...]:
    """`5,25,50` or a list of them.

    Raises:
        InvalidRequest: `bad_canary`.
    """
    parts = value.split(",") if isinstance(value, str) else value
    try:
        steps = tuple(float(str(p).strip().removesuffix("%")) for p in parts)
    except ValueError:
        steps = ()
    grows = all(a < b for a, b in zip((0.0, *steps), (*steps, 100.0), strict=True))
    if not 1 <= len(steps) <= MAX_STEPS or not grows or not all(map(math.isfinite, steps)):
        raise refuse(
            "canary",
            f"must be 1 to {MAX_STEPS} growing percents above 0 and below 100, as 5,25,50 (all of "
            f"the traffic follows by itself); got {str(value)[:60]!r}.",
        )
    return steps


def _samples(value: int) -> int:
    if not 1 <= value <= MAX_SAMPLES:
        words = f"must be from 1 to {MAX_SAMPLES}; got {value}."
        raise refuse("canary_samples", words, "bad_canary")
    return value


def _step_s(value: float) -> float:
    if not 0.0 <= value <= MAX_STEP_S:  # not so of NaN
        words = f"must be from 0 to {MAX_STEP_S:g} seconds; got {value}."
        raise refuse("canary_step_s", words, "bad_canary")
    return float(value)


def _sticky(value: str) -> str:
    name = value.lower()
    if not _FIELD_NAME.fullmatch(name) or name == OVERRIDE or name.endswith("-bin"):
        raise refuse(
            "canary_key",
            f"must be the name of a header with text in it, as x-user-id, and not {OVERRIDE}; got "
            f"{name[:60]!r}.",
            "bad_canary",
        )
    return name


def _replicas(value: int, most: int) -> int:
    if value > 0 and most == 0:
        raise Unimplemented(
            "canary_replicas (--canary-replicas) is not offered by this gateway's scheduler; a "
            "canary is loaded beside the stable version, in the same replicas. Leave it out.",
            reason="canary_replicas_not_offered",
        )
    if not 0 <= value <= most:
        words = f"must be from 0 (in the model's own replicas) to {most}; got {value}."
        raise refuse("canary_replicas", words, "bad_canary")
    return value


def canary_request(plan: CanaryPlan | None) -> dict[str, Any]:
    """The keys of a DeployRequest that make this plan again."""
    if plan is None:
        return {"canary": None, **dict.fromkeys(_KNOBS), **shadow_request(None)}
    return {
        "canary": list(plan.steps),
        "canary_samples": plan.min_samples,
        "canary_step_s": plan.step_s,
        "canary_key": plan.sticky,
        **shadow_request(plan.shadow),
        "canary_replicas": plan.replicas,
    }
