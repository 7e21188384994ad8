from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.rollout import TRANSITIONS, Look, decide, gate, move, order, possible, start, undo
from gateway.core.versions import Gate
from gateway.domain.errors import Conflict, FailedPrecondition, GatewayError, InvalidRequest
from gateway.domain.models import CanaryPlan
from gateway.domain.rollouts import Finding, Phase, Rollout, Verdict

PLAN = CanaryPlan((5.0, 25.0, 50.0), 100, 60.0)
AT = "2026-11-29T15:00:00.000Z"
ROLLOUT = Rollout(2, 1, Phase.PROGRESSING, PLAN.steps, reason="because")
LOOK = Look(PLAN, ROLLOUT, 1, 2, frozenset({1, 2}), frozenset({1, 2}), in_step_s=99.0)
GOOD = Finding(Verdict.PASS, "it is no worse")
BAD = Finding(Verdict.FAIL, "it is slower")


def look(phase: Phase | None = None, **changes) -> Look:
    rollout = None if phase is None else replace(ROLLOUT, phase=phase)
    return replace(LOOK, **{"rollout": rollout, **changes})


@pytest.mark.parametrize(
    ("now", "phase"),
    [
        (look(), Phase.PENDING),
        (look(plan=None), None),
        (look(live=None), None),
        (look(candidate=1), None),
        (look(Phase.PENDING), Phase.PROGRESSING),
        (look(Phase.PENDING, loaded=frozenset({1})), None),
        (look(Phase.PROGRESSING), None),
        (look(Phase.PROGRESSING, finding=BAD), Phase.ROLLING_BACK),
        (look(Phase.PROGRESSING, finding=GOOD, in_step_s=59.0), None),
        (look(Phase.PROGRESSING, live=2), Phase.PROMOTING),
        (look(Phase.PAUSED), None),
        (look(Phase.PAUSED, finding=GOOD), None),
        (look(Phase.PAUSED, finding=BAD), Phase.ROLLING_BACK),
        (look(Phase.PAUSED, live=2), Phase.PROMOTING),
        (look(Phase.PROMOTING), None),
        (look(Phase.PROMOTING, live=2), Phase.SUCCEEDED),
        (look(Phase.PROMOTING, live=2, offered=frozenset({1})), Phase.SUCCEEDED),
        (look(Phase.ROLLING_BACK, is_busy=True), None),
        (look(Phase.ROLLING_BACK), Phase.FAILED),
        (look(Phase.PROGRESSING, offered=frozenset({1})), Phase.ROLLING_BACK),
        (look(Phase.PROGRESSING, offered=frozenset()), None),
        (look(Phase.SUCCEEDED, live=2), None),
        (look(Phase.FAILED, candidate=1), None),
        (look(Phase.FAILED, candidate=3), Phase.PENDING),
    ],
)
def test_what_happens_next(now, phase):
    after = decide(now, AT)
    assert (None if after is None else after.phase) is phase
    if after is not None:
        assert after.phase_at == AT
        assert after.reason


def test_steps_are_taken_one_after_the_other_and_then_everything():
    now, weights = replace(LOOK, finding=GOOD), []
    while now.rollout.phase is Phase.PROGRESSING:
        weights.append(now.rollout.weight)
        now = replace(now, rollout=decide(now, AT))
    assert weights == [0.05, 0.25, 0.5]
    assert now.rollout.phase is Phase.PROMOTING
    assert now.rollout.weight == 0.5


def test_a_version_that_was_taken_back_is_not_tried_again_by_itself():
    failed = decide(look(Phase.ROLLING_BACK, rollout=move(ROLLOUT, Phase.ROLLING_BACK, "", AT)), AT)
    assert failed.phase is Phase.FAILED
    assert failed.rejected == (2,)
    assert decide(replace(LOOK, rollout=failed), AT) is None


def test_a_version_that_has_not_loaded_gives_way_to_a_newer_one():
    pending = replace(ROLLOUT, phase=Phase.PENDING)
    now = replace(LOOK, rollout=pending, candidate=3, loaded=frozenset({1}))
    assert decide(now, AT).version == 3
    now = replace(LOOK, rollout=replace(pending, phase=Phase.PROGRESSING), candidate=3)
    assert decide(now, AT) is None


@pytest.mark.parametrize(
    ("rollout", "found"),
    [
        (None, Gate(is_held=True)),
        (ROLLOUT, Gate(True, frozenset(), frozenset({1, 2}), 2)),
        (
            replace(ROLLOUT, phase=Phase.PROMOTING),
            Gate(True, frozenset(), frozenset({1, 2}), 2, promoted=2),
        ),
        (
            replace(ROLLOUT, phase=Phase.ROLLING_BACK, rejected=(2,)),
            Gate(True, frozenset({2}), frozenset({1})),
        ),
        (replace(ROLLOUT, phase=Phase.FAILED, rejected=(2,)), Gate(True, frozenset({2}))),
    ],
)
def test_what_versions_may_do_meanwhile(rollout, found):
    assert gate(PLAN, rollout) == found


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("action", ["pause", "resume", "promote", "abort"])
def test_an_order_follows_the_table_or_says_what_may_be_ordered(phase, action):
    rollout = replace(ROLLOUT, phase=phase)
    if action in possible(rollout):
        assert order(replace(LOOK, rollout=rollout), action, "m", AT).phase in TRANSITIONS[phase]
        return
    with pytest.raises(FailedPrecondition) as caught:
        order(replace(LOOK, rollout=rollout), action, "m", AT)
    if phase in (Phase.SUCCEEDED, Phase.FAILED):
        assert "gateway rollout start m" in caught.value.message
    else:
        assert all(p in caught.value.message for p in possible(rollout))


def test_a_rollout_that_is_live_already_cannot_be_aborted():
    with pytest.raises(FailedPrecondition, match="rollout undo m"):
        order(replace(look(Phase.PROMOTING), live=2), "abort", "m", AT)


FAILED = replace(ROLLOUT, phase=Phase.FAILED, rejected=(2,))


@pytest.mark.parametrize(
    ("now", "version", "kind", "words"),
    [
        (LOOK, None, Conflict, "gateway rollout abort m"),
        (look(plan=None), None, FailedPrecondition, "--canary 5,25,50"),
        (look(live=None), None, FailedPrecondition, "no live version"),
        (look(live=2), None, FailedPrecondition, "gateway publish"),
        (look(), 7, InvalidRequest, "There are: 2"),
        (look(live=2), 1, InvalidRequest, "gateway rollout undo m"),
    ],
)
def test_what_cannot_be_started_says_what_to_do(now, version, kind, words):
    with pytest.raises(kind) as caught:
        start(now, version, "m", AT)
    assert words in caught.value.message


def test_a_person_may_start_again_what_was_rejected():
    again = start(replace(LOOK, rollout=FAILED), None, "m", AT)
    assert (again.version, again.stable, again.phase) == (2, 1, Phase.PENDING)
    assert again.rejected == ()


def test_undo_goes_back_at_once_and_keeps_the_newer_one_out():
    done = replace(ROLLOUT, phase=Phase.SUCCEEDED)
    now = replace(LOOK, rollout=done, live=2)
    back = undo(now, "m", AT)
    assert (back.version, back.stable, back.steps, back.rejected) == (1, 2, (), (2,))
    progressing = decide(replace(now, rollout=back), AT)
    promoting = decide(replace(now, rollout=progressing), AT)
    assert promoting.phase is Phase.PROMOTING
    ended = decide(replace(now, rollout=promoting, live=1), AT)
    assert ended.phase is Phase.SUCCEEDED
    assert decide(replace(now, rollout=ended, live=1, candidate=1), AT) is None
    assert undo(replace(now, rollout=ended, live=1), "m", AT).version == 2


@pytest.mark.parametrize(
    ("now", "kind", "words"),
    [
        (look(), FailedPrecondition, "no rollout has succeeded"),
        (replace(LOOK, rollout=FAILED), FailedPrecondition, "taken back already"),
        (LOOK, Conflict, "gateway rollout abort m"),
        (look(Phase.SUCCEEDED), FailedPrecondition, "no rollout has brought"),
        (look(Phase.SUCCEEDED, live=2, offered=frozenset({2})), FailedPrecondition, "Publish it"),
    ],
)
def test_what_cannot_be_undone_says_why(now, kind, words):
    with pytest.raises(kind) as caught:
        undo(now, "m", AT)
    assert words in caught.value.message


def test_the_table_reaches_an_end_from_everywhere():
    for phase in Phase:
        seen, todo = set(), [phase]
        while todo:
            here = todo.pop()
            if here not in seen:
                seen.add(here)
                todo += TRANSITIONS[here]
        assert seen & {Phase.SUCCEEDED, Phase.FAILED}


def test_a_way_that_is_not_in_the_table_is_a_bug():
    with pytest.raises(AssertionError):
        move(replace(ROLLOUT, phase=Phase.FAILED), Phase.PROGRESSING, "", AT)
    assert not issubclass(AssertionError, GatewayError)
