from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.route import (
    Canary,
    ModelRoute,
    RoutingTable,
    Target,
    is_canarys,
    is_interrupted,
    names,
    peers,
    route,
    statuses,
    uses_of,
)
from gateway.core.split import CANARY_PLACE, STABLE_PLACE
from gateway.domain.errors import InvalidRequest, NotFound, Unavailable
from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.replicas import Endpoint

A = Target("a", Endpoint("h", "g", "c"))


def status(version: int, state: VersionState, reason: str = "") -> VersionStatus:
    return VersionStatus(version, state, reason)


MODEL = ModelRoute(
    "m",
    live=2,
    targets={2: (A,), 1: (A,)},
    labels={"stable": 2, "old": 1, "gone": 7},
    statuses=(
        status(4, VersionState.FAILED, "bad file"),
        status(3, VersionState.LOADING),
        status(2, VersionState.READY),
        status(1, VersionState.READY),
        status(0, VersionState.GONE),
    ),
)
COLD = ModelRoute("cold", statuses=(status(1, VersionState.FETCHING),))
LOST = ModelRoute("lost", live=5, statuses=(status(5, VersionState.LOADING),), labels={"stable": 5})
BARE = ModelRoute("bare", live=5, statuses=(status(5, VersionState.READY),))
TABLE = RoutingTable(1, {m.name: m for m in (MODEL, COLD, LOST, BARE)})


@pytest.mark.parametrize(
    ("version", "label", "meant"), [(None, None, 2), (1, None, 1), (None, "old", 1)]
)
def test_the_version_that_is_meant(version, label, meant):
    way = route(TABLE, "m", version, label)
    assert (way.version, way.targets) == (meant, (A,))


@pytest.mark.parametrize(
    ("name", "version", "label", "kind", "reason"),
    [
        ("x", None, None, NotFound, "model_unknown"),
        ("m", 99, None, NotFound, "version_unknown"),
        ("m", 0, None, NotFound, "version_unknown"),
        ("m", None, "nope", InvalidRequest, "label_unknown"),
        ("m", None, "gone", NotFound, "version_unknown"),
        ("m", 3, None, Unavailable, "version_loading"),
        ("m", 4, None, Unavailable, "version_failed"),
        ("cold", None, None, Unavailable, "version_loading"),
        ("bare", None, None, Unavailable, "no_selectable_replica"),
    ],
)
def test_what_cannot_be_answered_is_told_apart(name, version, label, kind, reason):
    with pytest.raises(kind) as caught:
        route(TABLE, name, version, label)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("name", "version", "label", "expected"),
    [
        ("x", None, None, False),
        ("m", None, None, False),
        ("cold", None, None, False),
        ("lost", None, None, True),
        ("lost", 5, None, True),
        ("lost", 4, None, False),
        ("lost", None, "stable", True),
        ("lost", None, "nope", False),
        ("bare", None, None, True),
    ],
)
def test_only_a_live_version_without_replicas_is_interrupted(name, version, label, expected):
    assert is_interrupted(TABLE, name, version, label) is expected


def test_statuses_are_all_or_the_one_asked_for():
    assert statuses(TABLE, "m") == MODEL.statuses
    assert [s.version for s in statuses(TABLE, "m", 3)] == [3]


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("x", None, "Could not find any versions of model x"),
        ("x", 1, "Could not find version 1 of model x"),
        ("m", 99, "Could not find version 99 of model m"),
    ],
)
def test_unknown_statuses_are_refused_in_the_originals_words(name, version, words):
    with pytest.raises(NotFound) as caught:
        statuses(TABLE, name, version)
    assert caught.value.message == words


@pytest.mark.parametrize(
    ("targets", "canary", "mine", "others"),
    [
        ({1: "ab"}, None, "", "ab"),
        ({1: "ab", 2: "c"}, None, "", "abc"),
        ({1: "ab", 2: "c"}, 2, "c", "ab"),
        ({1: "ab", 2: "ab"}, 2, "", "ab"),
        ({1: "ab", 2: "bc"}, 2, "c", "ab"),
        ({1: "ab"}, 2, "", "ab"),
        ({2: "c"}, 2, "c", ""),
    ],
)
def test_replicas_of_a_canary_alone_are_compared_with_each_other(targets, canary, mine, others):
    held = {v: tuple(Target(i, A.endpoint) for i in ids) for v, ids in targets.items()}
    way = None if canary is None else Canary(canary, 0.1)
    model = ModelRoute("m", live=1, targets=held, canary=way)
    assert peers(model) == (frozenset(mine), frozenset(others))


OWN, APART = Target("own", A.endpoint), Target("apart", A.endpoint)
SIDES = ModelRoute(
    "m",
    live=1,
    targets={1: (OWN,)},
    side=(APART,),
    canary=Canary(1, 0.25, shadow=1.0),
    labels={"stable": 1, "canary": 1, "golden": 1},
    statuses=(status(1, VersionState.READY),),
)


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        ({"place": 0.1}, APART),
        ({"place": 0.3}, OWN),
        ({"place": CANARY_PLACE}, APART),
        ({"place": STABLE_PLACE}, OWN),
        ({}, OWN),
        ({"version": 1}, OWN),
        ({"version": 1, "place": 0.1}, OWN),
        ({"label": "stable"}, OWN),
        ({"label": "golden"}, OWN),
        ({"label": "canary"}, APART),
    ],
)
def test_two_sides_of_one_version_are_told_apart(asked, target):
    table = RoutingTable(1, {"m": SIDES})
    way = route(table, "m", asked.get("version"), asked.get("label"), asked.get("place"))
    assert (way.version, way.targets) == (1, (target,))


def test_a_side_that_is_gone_for_a_moment_leaves_its_share_and_not_its_label_to_the_other():
    table = RoutingTable(1, {"m": replace(SIDES, side=())})
    assert route(table, "m", place=0.1).targets == (OWN,)
    with pytest.raises(Unavailable) as caught:
        route(table, "m", label="canary")
    assert caught.value.reason == "no_selectable_replica"


def test_before_it_has_a_share_its_label_leads_there_already():
    table = RoutingTable(1, {"m": replace(SIDES, canary=None)})
    assert route(table, "m", label="canary").targets == (APART,)
    assert route(table, "m", place=0.1).targets == (OWN,)


def test_all_that_answer_are_in_use_and_peers_of_their_own_side():
    table = RoutingTable(1, {"m": SIDES})
    assert uses_of(table) == {("m", 1, "own"), ("m", 1, "apart")}
    assert peers(SIDES) == (frozenset({"apart"}), frozenset({"own"}))
    # Where nobody else has the version, the canary's answer for both sides.
    alone = replace(SIDES, targets={1: (APART,)})
    assert peers(alone) == (frozenset(), frozenset({"apart"}))
    assert [names(SIDES, 1, r) for r in ("own", "apart", "x")] == [True, True, False]
    assert not names(SIDES, 2, "apart")
    assert not names(None, 1, "own")


@pytest.mark.parametrize(
    ("model", "version", "replica", "expected"),
    [
        (SIDES, 1, "own", False),
        (SIDES, 1, "apart", True),
        (replace(SIDES, side=None, canary=Canary(2, 0.1)), 2, "own", True),
        (replace(SIDES, side=None, canary=Canary(2, 0.1)), 1, "own", False),
    ],
)
def test_whose_answer_it_is(model, version, replica, expected):
    assert is_canarys(model, model.canary, version, replica) is expected
