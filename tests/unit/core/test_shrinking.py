"""Which replicas go, where a Deployment ends them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.shrinking import Member, Shrink, shrink


def member(name, *, up=True, marked=False, first=False, revision="r1"):
    return Member(name, revision, up, marked, first, order=name)


A, B, C = member("a"), member("b"), member("c")
NONE = Shrink(0)

TABLE = [
    # wanted, members, released, expected
    ("nothing there yet", 3, [], (), Shrink(3)),
    ("as many as wanted", 2, [A, B], (), Shrink(2)),
    ("too few", 3, [A], (), Shrink(3)),
    ("the youngest is marked and still counted", 1, [A, B], (), Shrink(2, mark=("b",))),
    ("one marked already is kept", 1, [A, member("b", marked=True)], (), Shrink(2)),
    (
        "released is no longer counted",
        1,
        [A, member("b", marked=True)],
        ("b",),
        Shrink(1),
    ),
    (
        "who does not listen goes before who does",
        1,
        [member("a", up=False), B],
        (),
        Shrink(2, mark=("a",)),
    ),
    (
        "one that is needed after all is taken back",
        2,
        [A, member("b", marked=True)],
        (),
        Shrink(2, unmark=("b",)),
    ),
    (
        "taken back although released, where another has gone in its place",
        2,
        [A, member("b", marked=True)],
        ("b",),
        Shrink(2, unmark=("b",)),
    ),
    (
        "of two marked, the released one is made to go first",
        1,
        [A, member("b", marked=True), member("c", marked=True)],
        ("b",),
        Shrink(2, first=("b",)),
    ),
    (
        "a change that rolls marks nobody",
        1,
        [A, member("b", revision="r2"), member("c", marked=True)],
        (),
        Shrink(1, unmark=("c",)),
    ),
    ("none wanted", 0, [A], (), Shrink(1, mark=("a",))),
]


@pytest.mark.parametrize(
    ("wanted", "members", "released", "expected"), [r[1:] for r in TABLE], ids=[r[0] for r in TABLE]
)
def test_who_goes(wanted, members, released, expected):
    assert shrink(wanted, members, released) == expected


members = st.lists(
    st.builds(
        Member,
        name=st.text("abcdefgh", min_size=1, max_size=3),
        revision=st.just("r"),
        listens=st.booleans(),
        is_marked=st.booleans(),
        is_first=st.booleans(),
        order=st.text("0123", max_size=2),
    ),
    max_size=8,
    unique_by=lambda m: m.name,
)


@given(st.integers(0, 8), members, st.sets(st.text("abcdefgh", min_size=1, max_size=3)))
def test_it_never_asks_for_fewer_than_wanted_and_keeps_who_is_not_released(
    wanted, members, released
):
    step = shrink(wanted, members, released)
    assert step.replicas >= wanted
    assert not set(step.unmark) & set(step.mark)
    will_go = max(0, len(members) - step.replicas)
    leaving = [m.name for m in members if m.name in released]
    assert will_go <= len(leaving)


@given(st.integers(0, 8), members, st.sets(st.text("abcdefgh", min_size=1, max_size=3)))
def test_doing_what_it_says_settles_it(wanted, members, released):
    step = shrink(wanted, members, released)
    after = [
        replace(
            m,
            is_marked=(m.is_marked or m.name in (*step.mark, *step.first))
            and m.name not in step.unmark,
            is_first=(m.is_first or m.name in step.first) and m.name not in step.unmark,
        )
        for m in members
    ]
    still = released - set(step.unmark)
    again = shrink(wanted, after, still)
    assert again == Shrink(step.replicas)
