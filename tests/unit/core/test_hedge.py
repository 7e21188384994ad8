from __future__ import annotations

from random import Random

import pytest

from gateway.core.hedge import Tail, share_of
from gateway.domain.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "share"),
    [("p95", 0.95), ("p50", 0.5), ("p99.9", 0.999), ("p99", 0.99), ("", 0.0), ("off", 0.0)],
)
def test_a_percentile_is_a_share(text, share):
    assert share_of(text) == share


@pytest.mark.parametrize("text", ["95", "p5", "p49", "p100", "p99.99", "P95", "p95 ", "p95%", "x"])
def test_anything_else_is_refused(text):
    with pytest.raises(InvalidRequest, match=r"p50 to p99\.9"):
        share_of(text)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
def test_the_estimate_comes_near_the_quantile(share):
    tail, rng = Tail(share), Random(1)
    over = 0
    for n in range(20_000):
        latency_s = rng.lognormvariate(-3.0, 0.5)
        if n >= 2_000:
            over += latency_s > tail.wait_s()
        tail.observe(latency_s)
    assert over / 18_000 == pytest.approx(1.0 - share, rel=0.15)


def test_a_model_that_turns_slow_or_fast_is_followed():
    tail = Tail(0.95)
    for _ in range(100):
        tail.observe(0.01)
    for _ in range(60):
        tail.observe(0.1)
    assert tail.wait_s() > 0.09
    for _ in range(1500):
        tail.observe(0.01)
    assert tail.wait_s() < 0.02


def test_nothing_is_hedged_before_enough_is_known():
    tail = Tail(0.95)
    for n in range(20):
        assert tail.wait_s() is None, n
        tail.observe(0.01)
    assert tail.wait_s() > 0.0
