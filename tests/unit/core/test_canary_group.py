"""A canary with replicas of its own: who holds it, who answers for it, when they may go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core import rollout as rollouts
from gateway.core.versions import Gate, Offered, ReplicaSeen, Snapshot, decide, told
from gateway.domain.models import All, CanaryPlan, Latest, VersionState, VersionStatus
from gateway.domain.replicas import CANARY_GROUP, ReplicaReport
from gateway.domain.rollouts import Phase, Rollout

R, F, L = VersionState.READY, VersionState.FAILED, VersionState.LOADING
OFFERED = {1: Offered(), 2: Offered()}


def replica(name: str, *, draining: bool = False, must_go: bool = False, **states) -> ReplicaSeen:
    """`v1=R`: it says that version 1 is READY. Those named c… are the canary's own."""
    held = {int(k[1:]): VersionStatus(int(k[1:]), s) for k, s in states.items()}
    group = CANARY_GROUP if name.startswith("c") else ""
    return ReplicaSeen(name, ReplicaReport(True, held), draining, must_go, group=group)


def gate(*, promoted: bool = False, count: int = 2) -> Gate:
    """Version 2 is rolled out, 1 is stable."""
    return Gate(
        is_held=True,
        kept=frozenset({1, 2}),
        canary=2,
        canary_replicas=count,
        promoted=2 if promoted else None,
    )


def snapshot(*replicas: ReplicaSeen, **more) -> Snapshot:
    known = {"policy": Latest(), "offered": OFFERED, "live": 1, "wanted": 2, "gate": gate()}
    return Snapshot(replicas=replicas, **(known | more))


def all_told(now: Snapshot) -> dict[str, tuple[int, ...]]:
    decision = decide(now)
    return {r.id: told(decision, now.offered, r, ()) for r in now.replicas}


def test_each_group_is_told_its_own_version_until_it_is_promoted():
    world = (replica("a", v1=R), replica("b", v1=R), replica("c1"), replica("c2"))
    now = snapshot(*world)
    assert all_told(now) == {"a": (1,), "b": (1,), "c1": (2,), "c2": (2,)}
    promoted = replace(now, gate=gate(promoted=True))
    assert all_told(promoted) == {"a": (1, 2), "b": (1, 2), "c1": (2,), "c2": (2,)}


@pytest.mark.parametrize(
    ("group", "loaded"),
    [
        ((), False),
        ((replica("c1", v2=R),), False),
        ((replica("c1", v2=R), replica("c2", v2=L)), False),
        ((replica("c1", v2=R), replica("c2", v2=R, draining=True)), False),
        ((replica("c1", v2=R), replica("c2", v2=R)), True),
    ],
)
def test_it_is_loaded_when_all_of_its_own_replicas_have_it(group, loaded):
    decision = decide(snapshot(replica("a", v1=R, v2=R), replica("b", v1=R, v2=R), *group))
    assert (2 in decision.loaded) is loaded


def test_its_own_replicas_answer_for_it_and_the_others_for_the_rest():
    now = snapshot(replica("a", v1=R), replica("b", v1=R), replica("c1", v2=R))
    assert decide(now).routes == {1: ("a", "b"), 2: ("c1",)}


def test_replicas_of_the_last_canary_leave_what_is_live_now_to_the_others():
    later = {"gate": replace(gate(), canary=3, kept=frozenset({2, 3})), "live": 2}
    offered = {2: Offered(), 3: Offered()}
    now = snapshot(replica("a", v2=R), replica("c1", v2=R), offered=offered, **later)
    assert decide(now).routes == {2: ("a",)}
    assert all_told(now) == {"a": (2,), "c1": (3,)}
    alone = snapshot(replica("a"), replica("c1", v2=R), offered=offered, **later)
    assert decide(alone).routes == {2: ("c1",)}
    assert all_told(alone) == {"a": (2,), "c1": (2, 3)}


def test_replicas_that_had_it_before_answer_for_it_until_one_of_its_own_does():
    before = snapshot(replica("a", v1=R, v2=R), replica("c1", v2=L))
    assert decide(before).routes[2] == ("a",)
    assert all_told(before)["a"] == (1, 2)
    after = snapshot(replica("a", v1=R, v2=R), replica("c1", v2=R))
    assert decide(after).routes[2] == ("c1",)
    assert all_told(after)["a"] == (1,)


def test_it_stays_on_replicas_where_a_label_holds_it():
    now = snapshot(replica("a", v1=R), replica("c1", v2=R), labels={"golden": 2})
    assert all_told(now)["a"] == (1, 2)


def test_while_it_is_promoted_whoever_has_it_answers_and_it_goes_live_with_the_last():
    one = snapshot(
        replica("a", v1=R, v2=R), replica("b", v1=R), replica("c1", v2=R), gate=gate(promoted=True)
    )
    assert decide(one).live == 1
    assert decide(one).routes == {1: ("a", "b"), 2: ("a", "c1")}
    both = replace(one, replicas=(one.replicas[0], replica("b", v1=R, v2=R), one.replicas[2]))
    assert decide(both).live == 2


def test_its_own_replicas_alone_make_nothing_live():
    now = snapshot(replica("c1", v2=R), replica("c2", v2=R), gate=gate(promoted=True))
    assert decide(now).live == 1


def test_a_version_that_is_to_be_fetched_anew_is_told_to_none_of_them():
    told_before = replace(replica("c1", v2=L), told=frozenset({2}))
    now = snapshot(replica("a", v1=R), told_before)
    first = decide(now)
    changed = replace(now, offered={1: Offered(), 2: Offered("other")}, memory=first.memory)
    assert decide(changed).apart == ()
    assert all_told(changed)["c1"] == ()
    gone = replace(
        changed, replicas=(now.replicas[0], replica("c1")), memory=decide(changed).memory
    )
    assert decide(gone).apart == (2,)


DRAINING = replica("c1", draining=True, v2=R)
OVER = Gate(is_held=True, rejected=frozenset({2}))


@pytest.mark.parametrize(
    ("world", "more", "released"),
    [
        # Rolled back: nobody wants what it has.
        ((replica("a", v1=R), DRAINING), {"gate": OVER}, True),
        # The policy still wants it, and nobody else has it yet.
        ((replica("a", v1=R, v2=L), DRAINING), {"gate": OVER, "policy": All()}, False),
        ((replica("a", v1=R, v2=R), DRAINING), {"gate": OVER, "policy": All()}, True),
        # … and nobody ever will.
        ((replica("a", v1=R, v2=F), DRAINING), {"gate": OVER, "policy": All()}, True),
        # It is live, and the others have it.
        ((replica("a", v2=R), DRAINING), {"gate": Gate(is_held=True), "live": 2}, True),
        # It is live, and all others have just died.
        ((DRAINING,), {"gate": Gate(is_held=True), "live": 2}, False),
        ((replica("a", v2=F), DRAINING), {"gate": Gate(is_held=True), "live": 2}, False),
        # Its template has changed: it stays until as many new ones answer.
        ((replica("a", v1=R), DRAINING, replica("c2", v2=L)), {"gate": gate(count=1)}, False),
        ((replica("a", v1=R), DRAINING, replica("c2", v2=R)), {"gate": gate(count=1)}, True),
        ((replica("a", v1=R), DRAINING, replica("c2", v2=R)), {"gate": gate(count=2)}, False),
        # Its place is needed, or the model is being deleted.
        (
            (replica("a", v1=R), replace(DRAINING, must_go=True)),
            {"gate": gate(count=1)},
            True,
        ),
        ((replica("a", v1=R), DRAINING), {"gate": gate(), "wanted": 0}, True),
    ],
)
def test_a_draining_one_may_go_when_nobody_needs_it(world, more, released):
    decision = decide(snapshot(*world, **more))
    assert ("c1" in decision.released) is released
    assert any("c1" in ids for ids in decision.routes.values()) is not released


def test_on_its_way_out_it_keeps_what_it_has():
    decision = decide(snapshot(replica("a", v1=R), replica("c1", v2=R), gate=OVER))
    assert decision.apart is None
    assert told(decision, OFFERED, replica("c1", v2=R), ()) == (2,)


# ---- the rollout --------------------

PLAN = CanaryPlan((5.0, 50.0), replicas=2)


@pytest.mark.parametrize(
    ("phase", "wanted"),
    [
        (Phase.PENDING, 2),
        (Phase.PROGRESSING, 2),
        (Phase.PAUSED, 2),
        (Phase.PROMOTING, 2),
        (Phase.ROLLING_BACK, 0),
        (Phase.SUCCEEDED, 0),
        (Phase.FAILED, 0),
    ],
)
def test_there_are_replicas_of_its_own_until_it_is_decided(phase, wanted):
    assert Rollout(2, 1, phase, canary_replicas=2).replicas_wanted == wanted


def test_a_rollout_keeps_the_number_that_it_began_with():
    begun = rollouts.decide(rollouts.Look(PLAN, None, 1, 2), "")
    assert begun.canary_replicas == 2
    newer = rollouts.decide(rollouts.Look(replace(PLAN, replicas=5), begun, 1, 3), "")
    assert (newer.version, newer.canary_replicas) == (3, 2)
    assert rollouts.gate(replace(PLAN, replicas=0), begun).canary_replicas == 2
    started = rollouts.start(rollouts.Look(PLAN, None, 1, 1, offered=frozenset({1, 2})), 2, "m", "")
    assert started.canary_replicas == 2


def test_an_undo_goes_in_place():
    done = Rollout(2, 1, Phase.SUCCEEDED, (5.0,), canary_replicas=2)
    back = rollouts.undo(rollouts.Look(PLAN, done, 2, 2, offered=frozenset({1, 2})), "m", "")
    assert (back.version, back.canary_replicas) == (1, 0)


# ---- a template --------------------

NOW = {"": "old", CANARY_GROUP: "new"}
SIDES = Gate(
    is_held=True,
    kept=frozenset({1}),
    canary=1,
    canary_replicas=2,
    is_of_template=True,
    replaces=True,
)


def run_by(name: str, template: str, **states) -> ReplicaSeen:
    return replace(replica(name, **states), template=template)


OWN = (run_by("a", "old", v1=R), run_by("b", "old", v1=R))


def of_template(*more: ReplicaSeen, **changes) -> Snapshot:
    known = {"offered": {1: Offered()}, "gate": SIDES, "templates": NOW}
    return snapshot(*OWN, *more, **(known | changes))


def test_both_sides_hold_the_live_version_and_only_the_models_own_are_routed_to():
    now = of_template(run_by("c1", "new", v1=R), run_by("c2", "new", v1=L))
    decision = decide(now)
    assert all_told(now) == {"a": (1,), "b": (1,), "c1": (1,), "c2": (1,)}
    assert (decision.routes, decision.side) == ({1: ("a", "b")}, ("c1",))
    assert decision.labels == {"stable": 1, "canary": 1}
    assert 1 not in decision.loaded


@pytest.mark.parametrize(
    ("templates", "loaded"),
    [(("new", "new"), True), (("new", "other"), False), (("new",), False)],
)
def test_it_begins_when_all_of_its_own_hold_it_and_are_of_its_template(templates, loaded):
    group = [run_by(f"c{i}", template, v1=R) for i, template in enumerate(templates)]
    assert (1 in decide(of_template(*group)).loaded) is loaded


def test_one_of_an_older_template_answers_only_where_there_is_no_other():
    older, newer = run_by("c1", "other", v1=R), run_by("c2", "new", v1=L)
    assert decide(of_template(older, newer)).side == ("c1",)
    assert decide(of_template(older, run_by("c2", "new", v1=R))).side == ("c2",)


@pytest.mark.parametrize("gate", [SIDES, replace(SIDES, canary=None), Gate(is_held=True)])
def test_they_answer_for_the_live_version_only_where_nobody_else_can(gate):
    group = [run_by("c1", "new", v1=R)]
    assert decide(of_template(*group, gate=gate)).routes == {1: ("a", "b")}
    lost = replace(of_template(gate=gate), replicas=(run_by("a", "old", v1=L), *group))
    assert decide(lost).routes == {1: ("c1",)}
    assert (decide(lost).side is None) is (gate is not SIDES)


@pytest.mark.parametrize(
    ("world", "placed"),
    [
        ((run_by("a", "new", v1=R), run_by("b", "new", v1=R)), True),
        ((run_by("a", "new", v1=R), run_by("b", "new", v1=L)), False),
        ((run_by("a", "new", v1=R), run_by("b", "new", v1=R), run_by("d", "old", v1=R)), False),
        ((run_by("a", "new", v1=R),), False),
        (
            (
                run_by("a", "new", v1=R),
                run_by("b", "new", v1=R),
                replace(run_by("d", "old", v1=R), draining=True),
            ),
            True,
        ),
    ],
)
def test_it_is_everywhere_when_as_many_as_are_wanted_are_of_the_new_one(world, placed):
    promoting = replace(SIDES, promoted=1)
    now = replace(
        of_template(gate=promoting), replicas=world, templates={"": "new", CANARY_GROUP: "new"}
    )
    assert decide(now).is_placed is placed


def test_a_version_with_a_template_goes_live_with_as_many_new_ones_as_are_wanted():
    promoting = replace(gate(promoted=True), replaces=True)
    first = (run_by("a", "new", v1=R, v2=R), replace(run_by("b", "old", v1=R), draining=True))
    known = {"gate": promoting, "templates": {"": "new", CANARY_GROUP: "new"}}
    assert decide(snapshot(*first, **known)).live == 1
    assert decide(snapshot(*first, run_by("d", "new", v2=R), **known)).live == 2
