"""What a model's versions do next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.models import All, Latest, Specific, VersionState
from servers.kit.plan import NEXT, Abandon, Load, Unload, View, aspired, plan, retry_delay_s

S = VersionState


@pytest.mark.parametrize(
    ("policy", "listed", "wanted"),
    [
        (Latest(), (), ()),
        (Latest(), (1, 3, 2), (3,)),
        (Latest(2), (1, 3, 2), (2, 3)),
        (Latest(9), (1,), (1,)),
        (All(), (1, 2), (1, 2)),
        (Specific((4, 5)), (), (4, 5)),
    ],
)
def test_a_policy_asks_for_versions(policy, listed, wanted):
    assert aspired(policy, listed) == frozenset(wanted)


@pytest.mark.parametrize(
    ("views", "actions"),
    [
        ([], []),
        ([View(1, S.NEW, True)], [Load(1)]),
        ([View(1, S.NEW, True), View(2, S.NEW, True)], [Load(2), Load(1)]),
        ([View(1, S.FAILED, True, retry_at=9.0)], []),
        ([View(1, S.FAILED, True, retry_at=5.0)], [Load(1)]),
        ([View(1, S.FAILED, False)], [Abandon(1)]),
        ([View(1, S.LOADING, False)], [Abandon(1)]),
        ([View(1, S.READY, False)], [Unload(1)]),
        ([View(1, S.READY, False), View(2, S.LOADING, True)], []),
        ([View(1, S.READY, False), View(2, S.FAILED, True, 9.0)], []),
        ([View(1, S.READY, False), View(2, S.READY, True)], [Unload(1)]),
        ([View(1, S.READY, False), View(2, S.READY, False), View(3, S.NEW, True)],
         [Unload(1), Load(3)]),
        ([View(1, S.DRAINING, True)], []),
    ],
)  # fmt: skip
def test_the_plan(views, actions):
    assert plan(views, 5.0) == actions


views = st.lists(
    st.builds(
        View, st.integers(1, 9), st.sampled_from(S), st.booleans(), st.sampled_from([0.0, 9.0])
    ),
    max_size=6,
    unique_by=lambda v: v.version,
)


@given(views)
def test_the_last_answer_is_never_dropped_while_a_wanted_version_does_not_answer(views):
    ready = {v.version for v in views if v.state is S.READY}
    gone = {a.version for a in plan(views, 5.0) if isinstance(a, Unload)}
    wanted = [v for v in views if v.aspired and v.state is not S.GONE]
    if ready and wanted:
        assert ready - gone


@given(views)
def test_nothing_that_is_wanted_and_answers_is_touched(views):
    touched = {a.version for a in plan(views, 5.0)}
    assert not touched & {v.version for v in views if v.aspired and v.state is S.READY}


def test_waits_double_up_to_the_bound():
    assert [retry_delay_s(n, 1.0, 60.0) for n in (1, 2, 3, 7, 5000)] == [1, 2, 4, 60, 60]


def test_no_state_leads_back_from_gone():
    assert NEXT[S.GONE] == frozenset()
    assert set(NEXT) == set(S)
