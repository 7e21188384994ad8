"""Which versions are aspired, live and routed: one rule, one test."""

from __future__ import annotations

from dataclasses import replace

from gateway.core.versions import (
    Memory,
    Offered,
    ReplicaSeen,
    Snapshot,
    decide,
    given_up,
    told,
)
from gateway.domain.models import All, Latest, Specific, VersionState, VersionStatus
from gateway.domain.replicas import ReplicaReport

READY, LOADING, FAILED = VersionState.READY, VersionState.LOADING, VersionState.FAILED


def seen(name, *, draining=False, must_go=False, answered=True, told=(), **states):
    versions = {int(v[1:]): VersionStatus(int(v[1:]), s) for v, s in states.items()}
    return ReplicaSeen(name, ReplicaReport(answered, versions), draining, must_go, frozenset(told))


def snapshot(*replicas, policy=None, offered=(), live=None, wanted=2, labels=None, memory=None):
    return Snapshot(
        policy or Latest(1),
        {v: Offered() for v in offered} if not isinstance(offered, dict) else offered,
        live,
        replicas,
        wanted,
        labels or {},
        memory or Memory(),
    )


def aspired(**more):
    return decide(snapshot(**more)).aspired


def test_latest_aspires_the_newest():
    assert aspired(offered=(1, 2, 3)) == (3,)
    assert aspired(offered=(1, 2, 3), policy=Latest(2)) == (2, 3)


def test_all_aspires_everything():
    assert aspired(offered=(1, 2, 3), policy=All()) == (1, 2, 3)


def test_specific_aspires_what_is_named_and_there():
    assert aspired(offered=(1, 2, 3), policy=Specific((2, 9))) == (2,)


def test_an_unsettled_version_waits():
    offered = {1: Offered(), 2: Offered(settled=False)}
    assert aspired(offered=offered) == (1,)


def test_a_label_keeps_its_version_loaded():
    decision = decide(snapshot(offered=(1, 2, 3), labels={"prod": 1}))
    assert decision.aspired == (1, 3)


def test_a_failing_newest_version_stays_told_and_the_one_before_it_is_aspired_as_well():
    now = snapshot(seen("a", v5=FAILED), offered=(1, 2, 3, 4, 5))
    decision = decide(now)
    assert decision.aspired == (4, 5)
    assert decision.memory.suspect == {5}


def test_a_suspect_that_is_tried_again_does_not_push_the_working_one_out():
    memory = Memory(suspect=frozenset({5}))
    now = snapshot(seen("a", v4=READY, v5=LOADING), offered=(4, 5), live=4, memory=memory)
    assert decide(now).aspired == (4, 5)


def test_a_suspect_that_loads_is_a_suspect_no_more_and_goes_live():
    memory = Memory(suspect=frozenset({5}))
    now = snapshot(seen("a", v4=READY, v5=READY), offered=(4, 5), live=4, memory=memory)
    decision = decide(now)
    assert (decision.live, decision.aspired, decision.memory.suspect) == (5, (5,), frozenset())


def test_before_the_first_live_version_one_replica_is_enough():
    assert decide(snapshot(seen("a", v1=READY), seen("b"), offered=(1,))).live == 1


def test_a_new_version_waits_for_every_replica_that_answers():
    half = snapshot(seen("a", v1=READY, v2=READY), seen("b", v1=READY), offered=(1, 2), live=1)
    assert decide(half).live == 1
    whole = snapshot(seen("a", v2=READY), seen("b", v1=READY, v2=READY), offered=(1, 2), live=1)
    assert decide(whole).live == 2


def test_a_replica_that_restarts_does_not_hold_up_a_swap():
    now = snapshot(seen("a", v1=READY, v2=READY), seen("b", v2=LOADING), offered=(1, 2), live=1)
    assert decide(now).live == 2


def test_a_replica_that_does_not_answer_does_not_hold_up_a_swap():
    silent = seen("b", v1=READY, answered=False)
    now = snapshot(seen("a", v1=READY, v2=READY), silent, offered=(1, 2), live=1)
    assert decide(now).live == 2


def test_an_older_version_that_is_first_back_after_a_restart_does_not_become_live():
    now = snapshot(seen("a", v1=READY, v2=LOADING), offered=(1, 2), live=2, policy=Latest(2))
    assert decide(now).live == 2


def test_a_version_withdrawn_from_the_source_gives_way_to_an_older_one_when_that_is_ready():
    loading = snapshot(seen("a", v2=READY, v1=LOADING), offered=(1,), live=2)
    assert (decide(loading).live, decide(loading).routes) == (2, {2: ("a",)})
    ready = snapshot(seen("a", v2=READY, v1=READY), offered=(1,), live=2)
    assert (decide(ready).live, decide(ready).routes) == (1, {1: ("a",)})


def test_an_old_version_leaves_the_routes_as_the_new_one_goes_live():
    now = snapshot(seen("a", v1=READY, v2=READY), offered=(1, 2), live=1)
    assert decide(now).routes == {2: ("a",)}


def test_what_is_busy_is_told_until_it_is_not():
    replica = seen("a", v1=READY, v2=READY)
    decision = decide(snapshot(replica, offered=(1, 2), live=1))
    assert told(decision, {2: Offered()}, replica, [(1, "a"), (3, "b")]) == (1, 2)
    assert told(decision, {2: Offered()}, replica, []) == (2,)


def test_a_withdrawn_live_version_is_not_told_to_a_replica_that_would_have_to_fetch_it():
    holder, fresh = seen("a", v2=READY), seen("b")
    now = snapshot(holder, fresh, offered=(1,), live=2)
    decision = decide(now)
    assert told(decision, now.offered, holder, ()) == (1, 2)
    assert told(decision, now.offered, fresh, ()) == (1,)


def test_while_the_source_shows_nothing_all_that_is_held_and_live_is_aspired():
    now = snapshot(seen("a", v1=READY, v2=FAILED), seen("b"), offered={}, live=3)
    assert decide(now).aspired == (1, 2, 3)


def test_a_version_that_changes_before_it_was_ready_is_dropped_and_then_fetched_anew():
    memory = Memory(fingerprints={1: "old"})
    offered = {1: Offered("new")}
    dropped = decide(snapshot(seen("a", told=(1,), v1=FAILED), offered=offered, memory=memory))
    assert dropped.aspired == ()
    waiting = decide(snapshot(seen("a", v1=LOADING), offered=offered, memory=dropped.memory))
    assert waiting.aspired == ()
    again = decide(snapshot(seen("a"), offered=offered, memory=waiting.memory))
    assert again.aspired == (1,)
    assert again.memory.fingerprints == {1: "new"}


def test_a_version_that_changes_while_it_answers_goes_on_answering():
    memory = Memory(fingerprints={1: "old"})
    offered = {1: Offered("new", settled=False)}
    now = snapshot(seen("a", v1=READY), offered=offered, memory=memory, live=1)
    assert decide(now).routes == {1: ("a",)}


def test_draining_replicas_answer_until_as_many_others_do():
    old = [seen("a", draining=True, v1=READY), seen("b", draining=True, v1=READY)]
    first = decide(snapshot(*old, seen("c", v1=READY), seen("d"), offered=(1,), live=1))
    assert first.routes == {1: ("a", "c")}
    assert first.released == {"b"}
    then = decide(snapshot(*old, seen("c", v1=READY), seen("d", v1=READY), offered=(1,), live=1))
    assert then.released == {"a", "b"}


def test_a_draining_replica_whose_place_is_needed_is_not_waited_for():
    now = snapshot(seen("a", draining=True, must_go=True, v1=READY), offered=(1,), live=1)
    assert decide(now).released == {"a"}


def test_a_deleted_model_releases_all_replicas():
    now = snapshot(seen("a", draining=True, v1=READY), offered=(1,), live=1, wanted=0)
    assert decide(now).released == {"a"}


def test_stable_names_the_live_version_and_cannot_be_set_by_hand():
    now = snapshot(seen("a", v2=READY), offered=(1, 2), live=2, labels={"stable": 1, "x": 2})
    assert decide(now).labels == {"stable": 2, "x": 2}


def test_a_live_version_that_fails_after_all_replicas_restarted_is_not_replaced_by_an_older_one():
    now = snapshot(seen("a", v2=FAILED, v1=READY), offered=(1, 2), live=2)
    decision = decide(now)
    assert (decision.live, decision.aspired, decision.routes) == (2, (2,), {})


def test_a_silent_replica_is_given_up_where_another_can_answer():
    silent = replace(seen("a", answered=False), is_silent=True)
    starting = seen("b", answered=False)
    for others, expected in (
        ([seen("c", v1=READY)], ("a",)),
        ([seen("c", v1=LOADING)], ()),
        ([starting], ()),
        ([], ()),
    ):
        replicas = (silent, *others)
        decision = decide(snapshot(*replicas, offered=(1,), live=1))
        assert given_up(replicas, decision) == expected
