"""Whether an object is still as it was applied, whatever others have added to it."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.schedulers.kubernetes.objects import covers, is_as_made, live_of

MANIFEST = {
    "spec": {
        "replicas": 2,
        "paused": False,
        "selector": {},
        "containers": [
            {
                "name": "server",
                "image": "a:1",
                "args": ["--a", "--b"],
                "resources": {"limits": {"cpu": "1000m", "memory": "2147483648", "x/gpu": "1"}},
                "ports": [{"containerPort": 8501, "protocol": "TCP"}],
            }
        ],
    }
}


def changed(path: list, value) -> dict:
    made = copy.deepcopy(MANIFEST)
    at = made
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return made


SERVER = ["spec", "containers", 0]

ALIKE = [
    ("as it was", MANIFEST),
    ("a field of others", changed(["spec", "progressDeadlineSeconds"], 600)),
    ("another's container before ours", changed(
        ["spec", "containers"], [{"name": "mesh"}, *MANIFEST["spec"]["containers"]]
    )),
    ("an empty map left out", {"spec": {k: v for k, v in MANIFEST["spec"].items()
                                        if k not in ("selector", "paused")}}),
    ("a quantity written shorter", changed([*SERVER, "resources", "limits", "cpu"], "1")),
    ("a quantity in another unit", changed([*SERVER, "resources", "limits", "memory"], "2Gi")),
    ("a default filled in", changed([*SERVER, "ports", 0, "hostPort"], 0)),
]  # fmt: skip

DIFFERENT = [
    ("scaled by somebody", changed(["spec", "replicas"], 5)),
    ("another image", changed([*SERVER, "image"], "b:1")),
    ("an argument more", changed([*SERVER, "args"], ["--a", "--b", "--c"])),
    ("arguments in another order", changed([*SERVER, "args"], ["--b", "--a"])),
    ("our container gone", changed(["spec", "containers"], [{"name": "mesh"}])),
    ("less memory", changed([*SERVER, "resources", "limits", "memory"], "1Gi")),
    ("a GPU more", changed([*SERVER, "resources", "limits", "x/gpu"], "2")),
    ("all gone", {}),
]


@pytest.mark.parametrize("live", [r[1] for r in ALIKE], ids=[r[0] for r in ALIKE])
def test_what_others_add_changes_nothing(live):
    assert covers(live, MANIFEST)


@pytest.mark.parametrize("live", [r[1] for r in DIFFERENT], ids=[r[0] for r in DIFFERENT])
def test_what_others_change_of_ours_is_seen(live):
    assert not covers(live, MANIFEST)


def test_an_item_of_a_list_does_not_say_what_it_is():
    made = {"apiVersion": "apps/v1", "kind": "Deployment", **MANIFEST}
    assert is_as_made(MANIFEST, made)
    assert not is_as_made({**made, "spec": {}}, made)


leaves = st.one_of(st.integers(), st.booleans(), st.text(max_size=5), st.none())
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(trees)
def test_everything_covers_itself(tree):
    assert covers(tree, tree)


@given(st.dictionaries(st.text(max_size=3), trees), st.dictionaries(st.text(max_size=3), trees))
def test_more_keys_never_hurt(ours, theirs):
    assert covers({**theirs, **ours}, ours)


def test_a_controllers_failure_is_kept_in_its_words():
    failing = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: q"}
    shown = {
        "metadata": {"name": "m", "uid": "u", "resourceVersion": "7"},
        "status": {"conditions": [{"type": "Available", "status": "True"}, failing]},
    }
    assert live_of(shown).trouble == "exceeded quota: q"
