from __future__ import annotations

import pytest

from gateway.core.retry import (
    Attempt,
    Failure,
    RetryBudget,
    RetrySettings,
    Step,
    after_failure,
    candidates,
    prefer_reachable,
)
from gateway.core.route import Target
from gateway.domain.replicas import Endpoint

SETTINGS = RetrySettings()
A, B = (Target(name, Endpoint("h", "g", "c")) for name in "ab")


def attempts(*failures: Failure, replica_id: str = "a") -> list[Attempt]:
    return [Attempt(replica_id, 1, f) for f in failures]


def ids(targets) -> str:
    return "".join(t.replica_id for t in targets)


@pytest.mark.parametrize(
    ("targets", "version", "failures", "expected"),
    [
        ((A, B), 1, [], "ab"),
        ((A, B), 1, [Failure.CONNECT], "b"),
        ((A, B), 2, [Failure.CONNECT], "b"),  # a dead replica is dead for every version
        ((A, B), 1, [Failure.VERSION_SKEW], "b"),
        ((A, B), 2, [Failure.VERSION_SKEW], "ab"),  # it lacked the other version
        ((A,), 1, [Failure.CONNECT], ""),
        ((A,), 1, [Failure.RESET], "a"),  # perhaps only a stale connection
        ((A,), 1, [Failure.RESET, Failure.RESET], ""),
        ((A,), 1, [Failure.UNAVAILABLE], ""),
    ],
)
def test_who_may_be_asked_next(targets, version, failures, expected):
    assert ids(candidates(targets, version, attempts(*failures))) == expected


@pytest.mark.parametrize(
    ("failures", "others", "is_listed", "step"),
    [
        ([Failure.CONNECT], True, True, Step.AGAIN),
        ([Failure.CONNECT], False, True, Step.WAIT),
        ([Failure.RESET], False, False, Step.WAIT),
        ([Failure.UNAVAILABLE], True, True, Step.AGAIN),
        ([Failure.UNAVAILABLE], False, True, Step.GIVE_UP),  # it is alive and means it
        ([Failure.UNAVAILABLE], False, False, Step.WAIT),  # it is being replaced
        ([Failure.VERSION_SKEW], True, True, Step.AGAIN),
        ([Failure.VERSION_SKEW], False, True, Step.GIVE_UP),
        ([Failure.VERSION_SKEW, Failure.VERSION_SKEW], True, True, Step.GIVE_UP),
        ([Failure.CONNECT, Failure.RESET, Failure.RESET], True, True, Step.GIVE_UP),
    ],
)
def test_what_follows_a_failure(failures, others, is_listed, step):
    assert after_failure(attempts(*failures), others, is_listed, 0.0, 1.0, SETTINGS) is step


def test_nothing_is_tried_after_the_deadline():
    step = after_failure(attempts(Failure.CONNECT), True, True, 1.0, 1.0, SETTINGS)
    assert step is Step.GIVE_UP


def test_unreachable_replicas_are_avoided_unless_nobody_else_is_there():
    assert ids(prefer_reachable((A, B), {"a"})) == "b"
    assert ids(prefer_reachable((A,), {"a"})) == "a"


def test_a_spent_budget_refuses_until_requests_have_paid_in():
    budget = RetryBudget(RetrySettings(budget_cap=1.0, budget_deposit=0.5))
    assert budget.withdraw()
    assert not budget.withdraw()
    budget.deposit()
    assert not budget.withdraw()
    budget.deposit()
    assert budget.withdraw()
