"""A rollout of another template: what begins, gives way, waits, ends and is remembered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.rollout import Look, decide, gate, order, start, undo
from gateway.core.templates import key_of
from gateway.core.versions import Gate
from gateway.domain.errors import FailedPrecondition
from gateway.domain.models import CanaryPlan
from gateway.domain.rollouts import Finding, Phase, Rollout, Verdict
from gateway.domain.templates import Template, TemplateChange

PLAN = CanaryPlan((5.0, 50.0), 100, 60.0, replicas=2)
AT = "2026-11-30T05:00:00.000Z"
OLD, NEW, NEWER = Template(image="s:1"), Template(image="s:2"), Template(image="s:3")
CHANGE, OTHER = TemplateChange(OLD, NEW), TemplateChange(OLD, NEWER)
KEY = key_of(NEW, 0)
ROLLOUT = Rollout(1, 1, Phase.PROGRESSING, PLAN.steps, 0, "so", canary_replicas=2, change=CHANGE)
LOOK = Look(
    PLAN, ROLLOUT, 1, 1, frozenset({1}), frozenset({1}), in_step_s=99.0, running=OLD, change=CHANGE
)
GOOD, BAD = Finding(Verdict.PASS, "it is no worse"), Finding(Verdict.FAIL, "it fails more")


def look(phase: Phase | None = None, **changes) -> Look:
    rollout = None if phase is None else replace(ROLLOUT, phase=phase)
    return replace(LOOK, **{"rollout": rollout, **changes})


@pytest.mark.parametrize(
    ("now", "phase"),
    [
        (look(), Phase.PENDING),
        (look(is_refused=True), None),
        (look(change=None), None),
        (look(plan=None), None),
        (look(Phase.PENDING), Phase.PROGRESSING),
        (look(Phase.PENDING, loaded=frozenset()), None),
        (look(Phase.PENDING, loaded=frozenset(), change=None), Phase.ROLLING_BACK),
        (look(Phase.PROGRESSING), None),  # its version being live is no reason to promote it
        (look(Phase.PROGRESSING, finding=BAD), Phase.ROLLING_BACK),
        (look(Phase.PROGRESSING, change=None), Phase.ROLLING_BACK),
        (look(Phase.PROGRESSING, change=OTHER), None),
        (look(Phase.PROGRESSING, candidate=2), None),
        (look(Phase.PROGRESSING, offered=frozenset({2})), Phase.ROLLING_BACK),
        (look(Phase.PAUSED), None),
        (look(Phase.PAUSED, finding=BAD), Phase.ROLLING_BACK),
        (look(Phase.PAUSED, change=None), Phase.ROLLING_BACK),
        (look(Phase.PROMOTING), None),
        (look(Phase.PROMOTING, is_placed=True), Phase.SUCCEEDED),
        (look(Phase.PROMOTING, change=None), Phase.ROLLING_BACK),
        # What runs was written down, and then the gateway crashed.
        (look(Phase.PROMOTING, change=None, running=NEW), None),
        (look(Phase.PROMOTING, change=None, running=NEW, is_placed=True), Phase.SUCCEEDED),
        (look(Phase.ROLLING_BACK, is_busy=True), None),
        (look(Phase.ROLLING_BACK), Phase.FAILED),
        (look(Phase.FAILED, is_refused=True), None),
        (look(Phase.FAILED, change=OTHER), Phase.PENDING),
        (look(Phase.SUCCEEDED, change=None, running=NEW), None),
        (look(Phase.SUCCEEDED, change=TemplateChange(NEW, OLD), running=NEW), Phase.PENDING),
    ],
)
def test_what_happens_next(now, phase):
    after = decide(now, AT)
    assert (None if after is None else after.phase) is phase


def test_it_keeps_the_live_version_and_takes_all_steps():
    now, weights = replace(LOOK, rollout=decide(look(), AT)), []
    assert (now.rollout.version, now.rollout.stable, now.rollout.change) == (1, 1, CHANGE)
    assert now.rollout.canary_replicas == 2
    now = replace(now, rollout=decide(now, AT), finding=GOOD)
    while now.rollout.phase is Phase.PROGRESSING:
        weights.append(now.rollout.weight)
        now = replace(now, rollout=decide(now, AT))
    assert (weights, now.rollout.phase) == ([0.05, 0.5], Phase.PROMOTING)


def test_one_that_is_taken_back_is_remembered_by_its_key_and_its_version_is_not():
    back = decide(look(Phase.PROGRESSING, finding=BAD), AT)
    assert (back.rejected, back.rejected_templates) == ((), (KEY,))
    both = replace(ROLLOUT, version=2)
    back = decide(replace(LOOK, rollout=both, offered=frozenset({1, 2}), finding=BAD), AT)
    assert (back.rejected, back.rejected_templates) == ((2,), (KEY,))


PENDING = {"loaded": frozenset({1}), "offered": frozenset({1, 2, 3})}


@pytest.mark.parametrize(
    ("rollout", "now", "version", "change"),
    [
        # A template that has not begun gives way to a newer one, and takes a newer version along.
        (ROLLOUT, {"change": OTHER}, 1, OTHER),
        (ROLLOUT, {"candidate": 2}, 2, CHANGE),
        (ROLLOUT, {"candidate": 3, "change": OTHER}, 3, OTHER),
        # A version that may never load without it, a template.
        (replace(ROLLOUT, version=2, change=None), {}, 2, CHANGE),
        # One that is not asked for any more leaves the version alone.
        (replace(ROLLOUT, version=2), {"change": None}, 2, None),
        (replace(ROLLOUT, version=2, change=None, canary_replicas=0), {}, 2, CHANGE),
    ],
)
def test_what_has_not_begun_gives_way_to_what_is_newer(rollout, now, version, change):
    rollout = replace(rollout, phase=Phase.PENDING)
    loaded = frozenset() if rollout.is_of_template else frozenset({1})
    look = replace(LOOK, **(PENDING | {"candidate": rollout.version, "loaded": loaded} | now))
    after = decide(replace(look, rollout=rollout), AT)
    assert (after.version, after.change, after.phase) == (version, change, Phase.PENDING)
    assert after.canary_replicas == (0 if rollout.canary_replicas == 0 and not change else 2)
    assert after.rejected_templates == ()


def test_a_version_that_is_loaded_begins_without_waiting_for_a_newer_one():
    pending = replace(ROLLOUT, version=2, change=None, phase=Phase.PENDING)
    now = replace(LOOK, rollout=pending, change=None, candidate=3, offered=frozenset({1, 2, 3}))
    assert decide(replace(now, loaded=frozenset({1, 2})), AT).phase is Phase.PROGRESSING


def test_both_begin_together_where_both_are_new():
    begun = decide(look(candidate=2, offered=frozenset({1, 2})), AT)
    assert (begun.version, begun.stable, begun.change) == (2, 1, CHANGE)
    refused = decide(look(candidate=2, offered=frozenset({1, 2}), is_refused=True), AT)
    assert (refused.version, refused.change) == (2, None)


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (Phase.PROGRESSING, Gate(True, kept=frozenset({1}), canary=1, canary_replicas=2)),
        (
            Phase.PROMOTING,
            Gate(True, kept=frozenset({1}), canary=1, canary_replicas=2, promoted=1),
        ),
    ],
)
def test_what_versions_may_do_meanwhile(phase, expected):
    found = gate(PLAN, replace(ROLLOUT, phase=phase))
    assert found == replace(expected, is_of_template=True, replaces=True)
    assert found.has_sides
    assert not found.is_apart(1)


def test_its_replicas_are_apart_until_nothing_is_left_of_them():
    back = gate(PLAN, replace(ROLLOUT, phase=Phase.ROLLING_BACK))
    assert (back.is_of_template, back.has_sides, back.canary) == (True, False, None)


# ---- orders --------------------

FAILED = replace(ROLLOUT, phase=Phase.FAILED, rejected_templates=("x", KEY))


def test_orders_are_taken_although_its_version_is_live():
    for action, phase in (("pause", Phase.PAUSED), ("promote", Phase.PROMOTING)):
        assert order(LOOK, action, "m", AT).phase is phase
    assert order(LOOK, "abort", "m", AT).rejected_templates == (KEY,)


def test_start_tries_again_what_was_taken_back():
    again = start(replace(LOOK, rollout=FAILED, is_refused=True), None, "m", AT)
    assert (again.version, again.change, again.rejected_templates) == (1, CHANGE, ("x",))
    both = replace(FAILED, version=2, rejected=(2,))
    now = replace(LOOK, rollout=both, is_refused=True, offered=frozenset({1, 2}))
    again = start(now, None, "m", AT)
    assert (again.version, again.change, again.rejected) == (2, CHANGE, ())
    # Who names a version gets that, and not the template with it.
    again = start(now, 2, "m", AT)
    assert (again.version, again.change, again.rejected_templates) == (2, None, ("x", KEY))


def test_start_says_that_it_needs_replicas_of_its_own():
    now = replace(LOOK, plan=replace(PLAN, replicas=0), rollout=FAILED, is_refused=True)
    with pytest.raises(FailedPrecondition, match="--canary-replicas 1"):
        start(now, None, "m", AT)


def test_undo_goes_back_in_place_and_keeps_the_newer_one_out():
    done = replace(ROLLOUT, phase=Phase.SUCCEEDED)
    now = replace(LOOK, rollout=done, running=NEW, change=None)
    back = undo(now, "m", AT)
    assert (back.version, back.change, back.steps, back.canary_replicas) == (
        1, TemplateChange(NEW, OLD), (), 0,
    )  # fmt: skip
    assert (back.rejected, back.rejected_templates) == ((), (KEY,))
    now = replace(now, rollout=back)
    for phase in (Phase.PROGRESSING, Phase.PROMOTING):
        now = replace(now, rollout=decide(now, AT))
        assert now.rollout.phase is phase
    assert decide(now, AT) is None
    ended = decide(replace(now, is_placed=True), AT)
    assert ended.phase is Phase.SUCCEEDED
    later = replace(now, rollout=ended, running=OLD, change=CHANGE, is_refused=True)
    assert decide(later, AT) is None
    assert undo(later, "m", AT).change == CHANGE


def test_undo_says_that_something_else_runs_by_now():
    done = replace(ROLLOUT, phase=Phase.SUCCEEDED)
    with pytest.raises(FailedPrecondition, match="something else"):
        undo(replace(LOOK, rollout=done, running=NEWER), "m", AT)
