"""Which template a model's replicas are started with while, before and after a rollout brings one.

A deploy changes the spec at once; what the model's own replicas run with follows later, or never.
So that is a value of its own (`running`), kept beside the spec. Without a canary that has replicas
of its own it follows at once, and placement.py replaces them one by one. With one, only a rollout
that has succeeded moves it; what a rollout took back waits until somebody asks for it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import fields, replace

from gateway.core.placement import template_of
from gateway.domain.models import CanaryPlan, ModelSpec
from gateway.domain.names import Version
from gateway.domain.replicas import CANARY_GROUP
from gateway.domain.rollouts import Phase, Rollout
from gateway.domain.templates import Batching, Resources, Template, TemplateChange

MAX_REJECTED = 100
"""Keys that are remembered, the newest. A deploy names one template: the last would nearly do."""


def template_in(spec: ModelSpec) -> Template:
    """The part of `spec` that is a template."""
    return Template(
        spec.resources, spec.batching, spec.image, spec.command, spec.before, spec.after
    )


def started_by(spec: ModelSpec, template: Template) -> ModelSpec:
    """`spec` as replicas of `template` are started by it."""
    return replace(
        spec,
        resources=template.resources,
        batching=template.batching,
        image=template.image,
        command=template.command,
        before=template.before,
        after=template.after,
    )


def key_of(template: Template, attempt: int) -> str:
    """What a rejection is remembered by: a digest, and how often it was asked for. Of those parts
    only that say something: one that a later gateway knows beyond them changes no older key."""
    parts = repr(list(_said(template))).encode()
    return f"{hashlib.sha256(parts).hexdigest()[:16]}.{attempt}"


def _said(of: Template | Resources | Batching) -> Iterator[tuple[str, object]]:
    for part in fields(of):
        value = getattr(of, part.name)
        if isinstance(value, Resources | Batching):
            yield from ((f"{part.name}.{name}", what) for name, what in _said(value))
        elif value != part.default:
            yield part.name, value


def rejecting(rejected: tuple[str, ...], change: TemplateChange) -> tuple[str, ...]:
    """With what `change` would have brought."""
    key = key_of(change.after, change.attempt)
    return (*(k for k in rejected if k != key), key)[-MAX_REJECTED:]


def is_rejected(spec: ModelSpec, rejected: Collection[str]) -> bool:
    """Whether what `spec` asks for was taken back."""
    return key_of(template_in(spec), spec.attempt) in rejected


def running(
    spec: ModelSpec,
    known: Template | None,
    live: Version | None,
    rollout: Rollout | None,
    wanted: int,
) -> Template:
    """What the model's own replicas are to be started with now that nothing has succeeded since
    `known` was. `wanted`: how many of them there should be; none of them, or none that has ever
    answered, is nothing to compare with."""  # fmt: skip
    asked = template_in(spec)
    if known is None or live is None or known == asked:
        return asked
    if rollout is not None:
        change = rollout.change
        if change is not None and not rollout.is_over:
            return change.before if rollout.phase is Phase.ROLLING_BACK else known
        if is_rejected(spec, rollout.rejected_templates):
            return known
    return known if _has_group(spec.canary) and wanted else asked


def _has_group(plan: CanaryPlan | None) -> bool:
    return plan is not None and plan.replicas > 0


def deployed(spec: ModelSpec, running: Template) -> TemplateChange | None:
    """What would make the model's own replicas run as was deployed; None: they do."""
    asked = template_in(spec)
    return None if asked == running else TemplateChange(running, asked, spec.attempt)


def of_group(running: Template, rollout: Rollout | None, group: str = "") -> Template:
    """What the replicas of one group are started with. The model's own get another template when
    it is promoted; an undo, which has no replicas of its own, begins with them."""
    change = rollout.change if rollout is not None else None
    if rollout is None or change is None or rollout.is_over:
        return running
    if rollout.phase is Phase.ROLLING_BACK:
        return change.before
    if group == CANARY_GROUP or rollout.phase is Phase.PROMOTING or not rollout.canary_replicas:
        return change.after
    return change.before


def differences(before: Template, after: Template) -> tuple[str, ...]:
    """In words, part by part: what is short with its values, else that it has changed."""
    return tuple(_differences(before, after))


def _differences(before: Template, after: Template) -> Iterator[str]:
    old, new = before.resources, after.resources
    values = (
        ("image", before.image, after.image),
        ("gpus", old.gpus, new.gpus),
        ("gpu_type", old.gpu_type, new.gpu_type),
        ("cpu", old.cpus, new.cpus),
        ("memory", old.memory_bytes, new.memory_bytes),
        ("batch_size", before.batching.max_rows, after.batching.max_rows),
        ("batch_delay_ms", _ms(before.batching.delay_s), _ms(after.batching.delay_s)),
    )
    for name, was, now in values:
        if was != now:
            yield f"{name} {_word(was)} → {_word(now)}"
    # Programs and hooks are too long to be read in a line, and may hold secrets.
    for name in ("command", "before", "after"):
        if getattr(before, name) != getattr(after, name):
            yield f"{name} changed"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 6)


def _word(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def digest(spec: ModelSpec, template: Template) -> str:
    """Digest of replicas of `spec` that are started with `template`, as they carry it."""
    return template_of(started_by(spec, template))
