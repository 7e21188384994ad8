from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.balance import BalanceSettings, PeakEwma, choose, load

loads = st.lists(st.floats(0, 1e6), min_size=2, max_size=20, unique=True)
latencies = st.floats(0, 1e4)


@given(loads, st.integers())
def test_choose_never_picks_the_worst_of_several(values, seed):
    assert choose(values, lambda v: v, Random(seed)) != max(values)


@given(st.lists(st.integers(), min_size=1), st.integers())
def test_choose_picks_one_of_the_candidates_and_replays(values, seed):
    picked = choose(values, lambda v: float(v), Random(seed))
    assert picked in values
    assert choose(values, lambda v: float(v), Random(seed)) == picked


@given(latencies, latencies, st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0.01, 1e3))
def test_the_estimate_stays_between_what_was_and_what_came(old, new, at_s, elapsed_s, decay_s):
    after = PeakEwma(old, at_s).observe(new, at_s + elapsed_s, decay_s).latency_s
    assert min(old, new) <= after * (1 + 1e-9) + 1e-12
    assert after <= max(old, new) * (1 + 1e-9)


@given(latencies, st.integers(0, 1000), st.floats(0, 1e5))
def test_load_grows_with_requests_in_flight_and_is_never_negative(latency_s, in_flight, now):
    ewma, settings = PeakEwma(latency_s, 0.0), BalanceSettings()
    less = load(ewma, in_flight, now, settings)
    assert 0.0 <= less < load(ewma, in_flight + 1, now, settings)
