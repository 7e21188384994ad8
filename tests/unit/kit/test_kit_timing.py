from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dataplane.seen import spent_in
from servers.kit.timing import timing_fields


@pytest.mark.parametrize(
    ("queue_ns", "compute_ns", "said"),
    [
        (0, 57_999, "queue;dur=0, compute;dur=0.057"),
        (123_456, 1_239_999, "queue;dur=0.12, compute;dur=1.23"),
        (45_678_901, 12_345_678_901, "queue;dur=45.6, compute;dur=12300"),
    ],
)
def test_times_are_cut_to_few_digits(queue_ns, compute_ns, said):
    assert timing_fields((queue_ns, compute_ns)).pairs == (("server-timing", said),)


def test_where_nothing_was_run_nothing_is_said():
    assert timing_fields(None).pairs == ()


def test_the_same_times_are_the_same_object():
    assert timing_fields((1_000, 57_100)) is timing_fields((1_900, 57_900))


@given(st.integers(0, 10**13), st.integers(0, 10**13))
def test_the_gateway_reads_what_the_kit_says_and_never_more_than_there_was(queue_ns, compute_ns):
    spent = spent_in(timing_fields((queue_ns, compute_ns)).pairs)
    assert spent is not None
    for said_s, ns in zip(spent, (queue_ns, compute_ns), strict=True):
        assert said_s <= ns / 1e9 + 1e-12
        assert said_s >= 0.9 * ns / 1e9 - 1e-6
