from __future__ import annotations

import subprocess
import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.route import Canary, ModelRoute, RoutingTable, Target, route
from gateway.core.split import CANARY_PLACE, STABLE_PLACE, is_chosen, place, place_of
from gateway.domain.errors import InvalidRequest
from gateway.domain.replicas import Endpoint

A = Target("a", Endpoint("h", "g", "c"))


def at(weight: float) -> RoutingTable:
    model = ModelRoute(
        "m",
        live=1,
        canary=Canary(2, weight),
        targets={1: (A,), 2: (A,)},
        labels={"stable": 1, "canary": 2},
    )
    return RoutingTable(1, {"m": model})


def test_places_are_what_they_were():
    """Written down: another hash would send everybody to the other side at an upgrade."""
    assert place_of("m", "alice") == pytest.approx(0.701490859028493)
    assert place_of("m", "bob") == pytest.approx(0.08759168137544249)


def test_places_do_not_depend_on_the_process():
    code = "from gateway.core.split import place_of; print(repr(place_of('m', 'ünï')))"
    run = [sys.executable, "-c", code]
    said = {
        subprocess.run(
            run, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {f"{place_of('m', 'ünï')!r}\n"}


def test_keys_spread_evenly_and_models_are_independent():
    keys = [f"user-{i}" for i in range(20_000)]
    first = [place_of("one", k) < 0.05 for k in keys]
    second = [place_of("two", k) < 0.05 for k in keys]
    assert sum(first) == pytest.approx(1000, abs=150)  # five standard deviations
    both = sum(a and b for a, b in zip(first, second, strict=True))
    assert both == pytest.approx(50, abs=36)


@pytest.mark.parametrize(
    ("key", "override", "found"),
    [
        ("k", "canary", CANARY_PLACE),
        (None, "canary", CANARY_PLACE),
        ("k", "stable", STABLE_PLACE),
        ("k", "something", place_of("m", "k")),
        ("k", None, place_of("m", "k")),
        ("", None, None),
        (None, None, None),
    ],
)
def test_the_place_that_two_fields_give(key, override, found):
    assert place("m", key, override) == found
    assert found is None or is_chosen(found) == (found in (CANARY_PLACE, STABLE_PLACE))


@given(st.text(max_size=30), st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6))
def test_growing_weight_never_gives_anybody_back(key, weights):
    found = place_of("m", key)
    assert 0.0 <= found < 1.0
    sides = [route(at(w), "m", place=found).version for w in sorted(weights)]
    assert sides == sorted(sides)


@pytest.mark.parametrize(
    ("place", "weight", "version"),
    [
        (0.04, 0.05, 2),
        (0.05, 0.05, 1),
        (CANARY_PLACE, 0.0, 2),
        (STABLE_PLACE, 1.0, 1),
        (None, 1.0, 1),
    ],
)
def test_the_side_of_a_place(place, weight, version):
    assert route(at(weight), "m", place=place).version == version


@pytest.mark.parametrize(
    ("asked", "version"),
    [({"version": 1}, 1), ({"version": 2}, 2), ({"label": "stable"}, 1), ({"label": "canary"}, 2)],
)
def test_who_names_a_version_or_label_is_not_split(asked, version):
    for chosen in (CANARY_PLACE, 0.5, STABLE_PLACE):
        assert route(at(0.5), "m", **asked, place=chosen).version == version


def test_a_canary_that_no_replica_holds_leaves_its_share_to_the_live_version():
    model = ModelRoute("m", live=1, canary=Canary(2, 0.5), targets={1: (A,)})
    assert route(RoutingTable(1, {"m": model}), "m", place=0.1).version == 1


def test_without_a_rollout_there_is_no_canary():
    model = ModelRoute("m", live=1, targets={1: (A,)}, labels={"stable": 1})
    table = RoutingTable(1, {"m": model})
    assert route(table, "m", place=CANARY_PLACE).version == 1
    with pytest.raises(InvalidRequest):
        route(table, "m", label="canary")


def test_drawn_places_share_by_weight():
    rng = Random(5)
    hits = sum(route(at(0.25), "m", place=rng.random()).version == 2 for _ in range(10_000))
    assert hits == pytest.approx(2500, abs=220)
