"""What happens next in a rollout: a transition table, a pure decision, and what people may order.

Level-triggered as `versions`: asked again with the same truth it has nothing to add, and each
answer is one transition, so that the caller asks until there is none. It moves no traffic: the
weight is read off the rollout by whoever makes the routing table, and `gate` tells `versions` what
may be loaded and what may go live.

Rules: a version that was taken back is not tried again by itself. One rollout at a time; versions
that appear meanwhile wait, except that a version which has not been loaded yet gives way to a newer
one, as it may never load. A restart of the gateway resumes at the stored step, with a new window.

The same is true of templates, which a rollout brings by itself (`Rollout.is_of_template`) or with a
version: what is deployed last wins until the canary has begun, and waits for its end afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from gateway.core.templates import key_of, rejecting
from gateway.core.versions import Gate
from gateway.domain.errors import Conflict, FailedPrecondition, InvalidRequest
from gateway.domain.models import CanaryPlan
from gateway.domain.names import Version
from gateway.domain.rollouts import Finding, Phase, Rollout, Verdict
from gateway.domain.templates import Template, TemplateChange

TRANSITIONS: Mapping[Phase, frozenset[Phase]] = {
    Phase.PENDING: frozenset({Phase.PROGRESSING, Phase.ROLLING_BACK}),
    Phase.PROGRESSING: frozenset({Phase.PAUSED, Phase.PROMOTING, Phase.ROLLING_BACK}),
    Phase.PAUSED: frozenset({Phase.PROGRESSING, Phase.PROMOTING, Phase.ROLLING_BACK}),
    Phase.PROMOTING: frozenset({Phase.SUCCEEDED, Phase.ROLLING_BACK}),
    Phase.ROLLING_BACK: frozenset({Phase.FAILED}),
    Phase.SUCCEEDED: frozenset(),
    Phase.FAILED: frozenset(),
}
"""Every way from one phase to another. PROGRESSING also goes on to itself, one step further."""

MAX_REJECTED = 100
"""Rejected versions that are remembered, the newest: older ones are no candidates any more."""


@dataclass(frozen=True, slots=True)
class Look:
    """All that is known of a model's rollout now."""

    plan: CanaryPlan | None
    rollout: Rollout | None
    live: Version | None
    candidate: Version | None
    """The version that would go live now if there were no rollouts; no rejected one."""
    loaded: frozenset[Version] = frozenset()
    """READY on every replica that answers for the model; a canary with replicas of its own, on as
    many of those as there should be."""
    offered: frozenset[Version] | None = None
    """What the source has; None while it is not known."""
    finding: Finding = field(default_factory=Finding)
    """Of this step's window."""
    in_step_s: float = 0.0
    is_busy: bool = False
    """Whether a request may still be under way to the canary after it has left the table."""
    running: Template | None = None
    """What the model's own replicas are started with."""
    change: TemplateChange | None = None
    """What was deployed in its place; None where they run as was deployed, or where another one
    goes to all of them at once (core/templates.py)."""
    is_refused: bool = False
    """That change was taken back, and nobody has asked for it since."""
    is_placed: bool = False
    """The model's own replicas are all of the template that they should have, and hold the live
    version."""


def move(rollout: Rollout, phase: Phase, reason: str, at: str) -> Rollout:
    """The rollout in another phase. A transition that is not in the table is a bug."""
    if phase not in TRANSITIONS[rollout.phase]:
        raise AssertionError(f"no transition from {rollout.phase} to {phase}")
    moved = replace(rollout, phase=phase, reason=reason, phase_at=at)
    return _rejected(moved) if phase is Phase.ROLLING_BACK else moved


def _rejected(rollout: Rollout) -> Rollout:
    """It remembers what it was to bring as rejected."""
    templates = rollout.rejected_templates
    if rollout.change is not None:
        templates = rejecting(templates, rollout.change)
    if rollout.is_of_template:
        return replace(rollout, rejected_templates=templates)
    rejected = _with(rollout.rejected, rollout.version)
    return replace(rollout, rejected=rejected, rejected_templates=templates)


def decide(now: Look, at: str) -> Rollout | None:
    """The next state of the rollout; None: nothing to do. `at` is the time to write into it."""
    rollout = now.rollout
    if rollout is None or rollout.is_over:
        return _begun(now, at)
    if rollout.phase is Phase.ROLLING_BACK:
        if now.is_busy:
            return None
        return move(rollout, Phase.FAILED, rollout.reason, at)
    if now.offered and rollout.version not in now.offered:
        if rollout.phase is Phase.PROMOTING and _has_arrived(rollout, now):
            return move(rollout, Phase.SUCCEEDED, _DONE, at)
        return move(rollout, Phase.ROLLING_BACK, "the source does not have it any more", at)
    if _is_unasked(rollout, now):
        return move(rollout, Phase.ROLLING_BACK, _UNASKED, at)
    match rollout.phase:
        case Phase.PENDING:
            return _pending(rollout, now, at)
        case Phase.PROGRESSING:
            return _progressing(rollout, now, at)
        case Phase.PAUSED if _is_live(rollout, now):
            return move(rollout, Phase.PROMOTING, "it is live", at)
        case Phase.PAUSED if now.finding.verdict is Verdict.FAIL:
            return move(rollout, Phase.ROLLING_BACK, now.finding.reason, at)
        case Phase.PROMOTING if _has_arrived(rollout, now):
            return move(rollout, Phase.SUCCEEDED, _DONE, at)
    return None


_DONE = "it is live"
_UNASKED = "what runs was deployed again"


def _is_unasked(rollout: Rollout, now: Look) -> bool:
    """Whether somebody has deployed what runs now, in the middle of it."""
    change = rollout.change
    if change is None or rollout.is_undo or rollout.phase is Phase.PENDING:
        return False
    return now.change is None and now.running == change.before and not _is_live(rollout, now)


def _is_live(rollout: Rollout, now: Look) -> bool:
    """Whether the version that it brings is live; of a template it brings none."""
    return now.live == rollout.version != rollout.stable


def _has_arrived(rollout: Rollout, now: Look) -> bool:
    """Whether all that it brings is everywhere."""
    return now.live == rollout.version and (rollout.change is None or now.is_placed)


def _begun(now: Look, at: str) -> Rollout | None:
    """A rollout of the candidate, if there is one and the model takes its versions that way, or of
    the template that was deployed; of both where both are there."""
    version = now.candidate
    if now.plan is None or now.live is None:
        return None
    before, change = now.rollout or Rollout(now.live, now.live), _wanted(now)
    if version is None or version in before.rejected:
        version = now.live
    if version == now.live and change is None:
        return None
    return _new(before, version, now.live, now.plan, change, at)


def _wanted(now: Look) -> TemplateChange | None:
    """The template that is to be tried."""
    return None if now.is_refused else now.change


def _new(
    before: Rollout,
    version: Version,
    stable: Version,
    plan: CanaryPlan,
    change: TemplateChange | None,
    at: str,
) -> Rollout:
    """One that remembers what those before it have rejected, but for what it is to bring."""
    return Rollout(
        version,
        stable,
        steps=plan.steps,
        reason="waits until it is loaded",
        started_at=at,
        phase_at=at,
        rejected=tuple(v for v in before.rejected if v != version),
        canary_replicas=plan.replicas,
        change=change,
        rejected_templates=_without(before.rejected_templates, change),
    )


def _pending(rollout: Rollout, now: Look, at: str) -> Rollout | None:
    """The canary has not begun: what was published and deployed last takes its place."""
    version, newer = rollout.version, now.candidate
    change = rollout.change if rollout.is_undo else _wanted(now)
    if change == rollout.change and version in now.loaded:
        return move(rollout, Phase.PROGRESSING, "it is loaded", at)
    if newer is not None and newer > version >= rollout.stable and not rollout.is_undo:
        version = newer
    if (version, change) == (rollout.version, rollout.change):
        return None
    if version == rollout.stable and change is None:
        return move(rollout, Phase.ROLLING_BACK, _UNASKED, at)
    plan = now.plan or CanaryPlan(rollout.steps)
    count = rollout.canary_replicas or (plan.replicas if change is not None else 0)
    plan = replace(plan, steps=rollout.steps, replicas=count)
    return _new(rollout, version, rollout.stable, plan, change, at)


def _progressing(rollout: Rollout, now: Look, at: str) -> Rollout | None:
    finding = now.finding
    if _is_live(rollout, now):  # a crash came between storing that and storing this
        return move(rollout, Phase.PROMOTING, "it is live", at)
    if finding.verdict is Verdict.FAIL:
        return move(rollout, Phase.ROLLING_BACK, finding.reason, at)
    if not rollout.steps:
        return move(rollout, Phase.PROMOTING, "it goes without steps", at)
    if now.plan is None or finding.verdict is not Verdict.PASS or now.in_step_s < now.plan.step_s:
        return None
    if rollout.step + 1 < len(rollout.steps):
        return replace(rollout, step=rollout.step + 1, reason=finding.reason, phase_at=at)
    return move(rollout, Phase.PROMOTING, finding.reason, at)


def gate(plan: CanaryPlan | None, rollout: Rollout | None) -> Gate:
    """What a rollout lets `versions` do."""
    if rollout is None:
        return Gate(is_held=plan is not None)
    rejected = frozenset(rollout.rejected)
    if rollout.is_over:
        return Gate(is_held=plan is not None, rejected=rejected)
    if rollout.phase is Phase.ROLLING_BACK:
        return Gate(
            is_held=True,
            rejected=rejected,
            kept=frozenset({rollout.stable}),
            is_of_template=rollout.is_of_template,
        )
    return Gate(
        is_held=True,
        rejected=rejected,
        kept=frozenset({rollout.stable, rollout.version}),
        canary=rollout.version,
        canary_replicas=rollout.canary_replicas,
        promoted=rollout.version if rollout.phase is Phase.PROMOTING else None,
        is_of_template=rollout.is_of_template,
        replaces=rollout.change is not None,
    )


# ---- what people order --------------------


def start(now: Look, version: Version | None, name: str, at: str) -> Rollout:
    """A rollout of `version`, or of what was deployed and does not run, or of the newest version,
    whether it was rejected before or not.

    Raises:
        Conflict: one is under way (`rollout_in_progress`).
        FailedPrecondition: the model has no steps, or there is nothing newer than what is live.
        InvalidRequest: the source has no such version, or it is not newer.
    """
    rollout = now.rollout
    if rollout is not None and not rollout.is_over:
        raise Conflict(
            f"A rollout of version {rollout.version} of {name} is under way ({rollout.phase}). "
            f"Let it end, or end it: `gateway rollout promote {name}` or `gateway rollout abort "
            f"{name}`.",
            reason="rollout_in_progress",
        )
    if now.plan is None:
        raise FailedPrecondition(
            f"{name} takes its versions at once, not in steps. Give it some first: `gateway deploy "
            f"model {name} --canary 5,25,50`.",
            reason="no_canary_steps",
        )
    if now.live is None:
        raise FailedPrecondition(
            f"{name} has no live version yet; its first one goes live without steps.",
            reason="no_live_version",
        )
    newer = sorted(v for v in now.offered or () if v > now.live)
    change = _wanted(now)
    if version is None and now.change is not None:
        _check_group(now.plan, name)
        change, version = now.change, _brought_with(now.change, rollout, newer) or now.live
    elif version is None:
        if not newer:
            raise FailedPrecondition(
                f"The source of {name} has nothing newer than version {now.live}, which is live. "
                "Publish a version first: `gateway publish DIR URI`.",
                reason="nothing_newer",
            )
        version = newer[-1]
    elif version not in newer:
        has = ", ".join(map(str, newer[-20:])) or "none"
        raise InvalidRequest(
            f"version {version} of {name} cannot be rolled out: it must be in the source and newer "
            f"than {now.live}, which is live. There are: {has}. To go back, use `gateway rollout "
            f"undo {name}`.",
            reason="bad_version",
        )
    return _new(rollout or Rollout(now.live, now.live), version, now.live, now.plan, change, at)


def _check_group(plan: CanaryPlan, name: str) -> None:
    if not plan.replicas:
        raise FailedPrecondition(
            f"Replicas of {name} that were started otherwise are tried only apart from its own: "
            f"`gateway deploy model {name} --canary-replicas 1`. Or name a version: --version N.",
            reason="no_canary_replicas",
        )


def _brought_with(
    change: TemplateChange, rollout: Rollout | None, newer: Collection[Version]
) -> Version | None:
    """The version with which that template was tried before."""
    known = rollout.change if rollout is not None else None
    if rollout is None or known is None or known.after != change.after:
        return None
    return rollout.version if rollout.version in newer else None


def order(now: Look, action: str, name: str, at: str) -> Rollout:
    """The rollout after `pause`, `resume`, `promote` or `abort`.

    Raises:
        FailedPrecondition: it is not in a phase for that; the words say what may be done.
    """
    rollout = now.rollout
    if rollout is None or rollout.is_over:
        last = "" if rollout is None else f"; that of version {rollout.version} has {rollout.phase}"
        raise FailedPrecondition(
            f"No rollout of {name} is under way{last}. One begins by itself when a newer version "
            f"appears, or with `gateway rollout start {name}`.",
            reason="no_rollout",
        )
    wanted, words = _ORDERS[action]
    if _is_live(rollout, now):
        raise FailedPrecondition(
            f"Version {rollout.version} of {name} is live already. To go back to {rollout.stable}: "
            f"`gateway rollout undo {name}`.",
            reason="wrong_phase",
        )
    if wanted in TRANSITIONS[rollout.phase] and (
        action != "resume" or rollout.phase is Phase.PAUSED
    ):
        return move(rollout, wanted, words, at)
    raise FailedPrecondition(
        f"The rollout of version {rollout.version} of {name} is {rollout.phase}: it cannot "
        f"{action}. It can: {', '.join(possible(rollout)) or 'only be waited for'}.",
        reason="wrong_phase",
    )


_ORDERS: Mapping[str, tuple[Phase, str]] = {
    "pause": (Phase.PAUSED, "paused by an operator"),
    "resume": (Phase.PROGRESSING, "resumed by an operator"),
    "promote": (Phase.PROMOTING, "promoted by an operator"),
    "abort": (Phase.ROLLING_BACK, "aborted by an operator"),
}


def possible(rollout: Rollout) -> list[str]:
    """The orders that a rollout can take now."""
    return [
        action
        for action, (phase, _) in _ORDERS.items()
        if phase in TRANSITIONS[rollout.phase]
        and (action != "resume" or rollout.phase is Phase.PAUSED)
    ]


def undo(now: Look, name: str, at: str) -> Rollout:
    """A rollout, without steps, back to what was live before the last one.

    Raises:
        Conflict: one is under way (`rollout_in_progress`).
        FailedPrecondition: there is nothing to go back to.
    """
    rollout = now.rollout
    if rollout is None or (rollout.phase is Phase.FAILED):
        why = "no rollout has succeeded" if rollout is None else "it was taken back already"
        raise FailedPrecondition(
            f"There is nothing to undo for {name}: {why}.", reason="nothing_to_undo"
        )
    if not rollout.is_over:
        raise Conflict(
            f"The rollout of version {rollout.version} of {name} is still {rollout.phase}; end it "
            f"with `gateway rollout abort {name}`.",
            reason="rollout_in_progress",
        )
    if now.live != rollout.version:
        raise FailedPrecondition(
            f"{name} answers with version {now.live}, which no rollout has brought.",
            reason="nothing_to_undo",
        )
    if now.offered is not None and rollout.stable not in now.offered:
        raise FailedPrecondition(
            f"The source of {name} does not have version {rollout.stable} any more, to which it "
            "would go back. Publish it again, under a new number.",
            reason="version_gone",
        )
    change = rollout.change
    if change is not None:
        if now.running != change.after:
            raise FailedPrecondition(
                f"Replicas of {name} run something else by now than what its last rollout brought.",
                reason="nothing_to_undo",
            )
        change = TemplateChange(change.after, change.before)
    # In place whatever the plan says: nobody is sent to it before it is everywhere.
    plan = CanaryPlan(())
    return _new(_rejected(rollout), rollout.stable, rollout.version, plan, change, at)


def _without(rejected: tuple[str, ...], change: TemplateChange | None) -> tuple[str, ...]:
    key = None if change is None else key_of(change.after, change.attempt)
    return tuple(k for k in rejected if k != key)


def _with(rejected: tuple[Version, ...], version: Version) -> tuple[Version, ...]:
    return tuple(sorted({*rejected, version}))[-MAX_REJECTED:]
