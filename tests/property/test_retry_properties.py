from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.retry import (
    Attempt,
    Failure,
    RetryBudget,
    RetrySettings,
    Step,
    after_failure,
    candidates,
)
from gateway.core.route import Target
from gateway.domain.replicas import Endpoint

failures = st.sampled_from(Failure)
tried = st.lists(
    st.builds(Attempt, st.sampled_from("abcd"), st.integers(1, 2), failures), min_size=1, max_size=6
)
replicas = st.lists(st.sampled_from("abcd"), unique=True, max_size=4)
settings = st.builds(RetrySettings, max_attempts=st.integers(1, 5))


@given(tried, st.booleans(), st.booleans(), st.floats(0, 2), settings)
def test_never_more_than_the_attempts_and_never_after_the_deadline(
    past, others, listed, now, bound
):
    step = after_failure(past, others, listed, now, 1.0, bound)
    if len(past) >= bound.max_attempts or now >= 1.0:
        assert step is Step.GIVE_UP
    if step is Step.AGAIN:
        assert others


@given(replicas, st.integers(1, 2), tried)
def test_never_the_same_replica_while_another_exists(names, version, past):
    targets = tuple(Target(n, Endpoint("", "", "")) for n in names)
    chosen = {t.replica_id for t in candidates(targets, version, past)}
    assert chosen <= set(names)
    broken = {a.replica_id for a in past if a.failure is not Failure.VERSION_SKEW}
    if len(targets) > 1:
        assert not chosen & broken


@given(st.lists(st.booleans(), max_size=300), st.floats(0, 1), st.floats(1, 50))
def test_retries_never_exceed_the_budget(requests, deposit, cap):
    budget = RetryBudget(RetrySettings(budget_deposit=deposit, budget_cap=cap))
    retries = 0
    for count, wants_retry in enumerate(requests, 1):
        budget.deposit()
        retries += wants_retry and budget.withdraw()
        assert 0 <= budget.tokens <= cap
        assert retries <= cap + deposit * count + 1e-6
