"""Properties of the choice of a dialect."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.dialect import Dialect, choose_dialect

dialects = st.sampled_from(list(Dialect))


@given(dialects, st.sets(dialects))
def test_the_callers_own_passes_through_and_else_something_spoken_is_chosen(caller, speaks):
    chosen = choose_dialect(caller, speaks)
    if caller in speaks:
        assert chosen is caller
    elif speaks:
        assert chosen in speaks
    else:
        assert chosen is None


@given(dialects, st.sets(dialects, min_size=1), dialects)
def test_a_further_dialect_changes_the_choice_only_to_itself(caller, speaks, more):
    """So that adding a protocol to a server never moves its callers to a worse one."""
    before, after = choose_dialect(caller, speaks), choose_dialect(caller, speaks | {more})
    assert after in (before, more)


@given(dialects, st.lists(dialects, min_size=1))
def test_the_order_of_what_is_spoken_does_not_matter(caller, speaks):
    assert choose_dialect(caller, speaks) is choose_dialect(caller, tuple(reversed(speaks)))


@given(dialects, st.sets(dialects, min_size=1))
def test_the_same_protocol_wins_unless_only_json_of_it_is_left(caller, speaks):
    chosen = choose_dialect(caller, speaks)
    same = {d for d in speaks if d.is_v2 == caller.is_v2}
    if same - {Dialect.TFS_REST} or (same and caller is Dialect.TFS_REST):
        assert chosen in same
