"""What holds of any two answers that are compared, and of any tallies of such."""

from __future__ import annotations

import copy

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.codecs.differences import differences
from gateway.core.agreement import add, agreement, count, count_failure
from gateway.domain.agreement import AgreementTally
from gateway.domain.models import ShadowPlan

CALM = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no counterexample."""

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
KINDS = st.sampled_from(
    [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint64, np.bool_]
)
ARRAYS = KINDS.flatmap(lambda kind: SHAPES.flatmap(lambda shape: hnp.arrays(kind, shape)))
OUTPUTS = st.dictionaries(st.sampled_from("abc"), ARRAYS, max_size=3)
TOLERANCES = st.floats(0.0, 10.0)


@st.composite
def pairs(draw):
    """Two arrays of one shape and dtype."""
    kind, shape = draw(KINDS), draw(SHAPES)
    return draw(hnp.arrays(kind, shape)), draw(hnp.arrays(kind, shape))


def one(a, b, tolerance):
    (found,) = differences({"y": a}, {"y": b}, tolerance)
    return found


@CALM
@given(OUTPUTS, TOLERANCES)
def test_whatever_is_compared_with_itself_agrees(outputs, tolerance):
    for found in differences(outputs, copy.deepcopy(outputs), tolerance):
        assert (found.mismatch, found.differing, found.abs_error, found.rel_error) == ("", 0, 0, 0)
        assert found.flips in (None, 0.0)
        assert found.cosine in (None, 1.0)


@CALM
@given(OUTPUTS, OUTPUTS, TOLERANCES)
def test_all_numbers_are_finite_and_shares_are_shares(a, b, tolerance):
    found = differences(a, b, tolerance)
    assert [d.output for d in found] == sorted({*a, *b})
    for d in found:
        assert 0.0 <= d.differing <= 1.0
        assert d.flips is None or 0.0 <= d.flips <= 1.0
        assert d.cosine is None or -1.0 <= d.cosine <= 1.0
        assert np.isfinite([d.abs_error, d.rel_error]).all()
        assert min(d.abs_error, d.rel_error) >= 0.0
        assert not d.mismatch or d.differing == 1.0


@CALM
@given(pairs(), TOLERANCES, TOLERANCES)
def test_a_larger_tolerance_lets_no_more_differ(pair, one_tolerance, other):
    low, high = sorted((one_tolerance, other))
    assert one(*pair, high).differing <= one(*pair, low).differing


@CALM
@given(pairs())
def test_flips_and_cosine_do_not_depend_on_which_is_which(pair):
    a, b = pair
    forth, back = one(a, b, 0.01), one(b, a, 0.01)
    assert forth.flips == back.flips
    assert forth.abs_error == back.abs_error
    if forth.cosine is not None:
        assert abs(forth.cosine - back.cosine) < 1e-9


@CALM
@given(hnp.arrays(np.float64, (3, 4), elements=st.integers(-100, 100)), st.floats(0.1, 10))
def test_scaling_both_changes_the_absolute_error_only(a, factor):
    b = a + 0.5
    plain, scaled = one(a, b, 0.01), one(a * factor, b * factor, 0.01)
    assert np.isclose(scaled.abs_error, plain.abs_error * factor)
    assert np.isclose(scaled.rel_error, plain.rel_error, rtol=1e-6)


SEEN = st.lists(
    st.one_of(st.none(), st.tuples(OUTPUTS, OUTPUTS)), max_size=6
)  # None: the canary has failed


def tallied(seen) -> AgreementTally:
    tally = AgreementTally()
    for pair in seen:
        if pair is None:
            count_failure(tally, "no")
        else:
            count(tally, differences(*pair, 0.01))
    return tally


@CALM
@given(SEEN, SEEN)
def test_what_two_processes_count_adds_up_to_what_one_would_have(first, second):
    summed = tallied(first)
    add(summed, tallied(second))
    whole = tallied(first + second)
    plan = ShadowPlan(0.1, max_differing=0.01, max_flips=0.01)
    a, b = agreement(summed, plan, 100), agreement(whole, plan, 100)
    assert (a.compared, a.failed, a.tests, a.needed) == (b.compared, b.failed, 2, 10)
    assert np.allclose([a.differing, a.flips], [b.differing, b.flips])
    assert np.isclose(a.evidence, b.evidence)
    assert [(o.name, o.compared, o.mismatched) for o in a.outputs] == [
        (o.name, o.compared, o.mismatched) for o in b.outputs
    ]


@CALM
@given(SEEN)
def test_no_bound_means_no_evidence(seen):
    found = agreement(tallied(seen), ShadowPlan(0.1), 100)
    assert (found.evidence, found.needed, found.tests) == (1.0, 0, 0)
    assert 0.0 <= found.differing <= 1.0
    assert 0.0 <= found.flips <= 1.0
