"""The rules of the election, one by one."""

from __future__ import annotations

from random import Random

import pytest

from gateway.core.leadership import (
    LeaseSettings,
    Standing,
    answered,
    ends_at,
    granted,
    leads,
    pause_s,
    settings_of,
    unanswered,
)
from gateway.domain.gateways import Lease

S = LeaseSettings()
"""15, 10, 2 s."""
NOBODY = Lease("", 4)
MINE = Lease("me", 5, "me:1", "then", 9.0)
OTHERS = Lease("you", 5, "you:1", "then", 9.0)
OVER = Lease("you", 5, "you:1", "then", -0.1)


# ---- what the store grants --------------------


@pytest.mark.parametrize(
    ("lease", "asked", "epoch"),
    [
        (NOBODY, None, 5),
        (NOBODY, 4, None),
        (MINE, 5, 5),
        (MINE, None, 6),
        (MINE, 4, None),
        (Lease("me", 5, remaining_s=-3.0), 5, 5),
        (Lease("me", 5, remaining_s=-3.0), None, 6),
        (OTHERS, None, None),
        (OTHERS, 5, None),
        (OVER, None, 6),
        (OVER, 4, None),
        (OVER, 5, None),
    ],
    ids=str,
)
def test_the_lease_is_granted_to_its_holder_and_once_it_is_over_to_who_asks(lease, asked, epoch):
    made = granted(lease, "me", "me:2", asked, "now")
    assert (None if made is None else made.epoch) == epoch
    if made is not None:
        assert (made.holder, made.address) == ("me", "me:2")
        assert made.since == ("then" if made.epoch == lease.epoch and lease.since else made.since)


def test_a_new_term_begins_now_and_a_renewed_one_began_when_it_did():
    assert granted(OVER, "me", "", None, "now").since == "now"
    assert granted(MINE, "me", "", 5, "now").since == "then"


# ---- what an answer means --------------------


def test_a_term_counts_from_when_it_was_asked_for_not_from_the_answer():
    standing = answered("me", None, 100.0, MINE, 108.0, S)
    assert standing.epoch == 5
    assert ends_at(standing, S) == 110.0
    assert leads(standing, 109.99, S)
    assert not leads(standing, 110.0, S)


def test_an_answer_that_took_longer_than_a_term_begins_none():
    assert answered("me", None, 100.0, MINE, 110.0, S).epoch is None


def test_another_holder_is_followed_until_its_lease_may_end():
    standing = answered("me", 5, 100.0, OTHERS, 101.0, S)
    assert standing == Standing(free_at=110.0)
    assert not leads(standing, 101.0, S)


def test_a_renewal_answered_with_another_term_is_no_renewal():
    assert answered("me", 4, 100.0, MINE, 100.1, S).epoch is None


def test_without_an_answer_a_term_lasts_until_its_end_and_does_not_come_back():
    standing = Standing(5, 100.0)
    assert unanswered(standing, 109.0, S) is standing
    over = unanswered(standing, 110.0, S)
    assert over.epoch is None
    assert unanswered(over, 101.0, S).epoch is None


# ---- when to ask again --------------------


def test_a_leader_renews_in_time_and_never_later_than_its_end():
    assert pause_s(Standing(5, 100.0), 100.5, S, Random(1)) == S.retry_s
    assert pause_s(Standing(5, 100.0), 109.5, S, Random(1)) == pytest.approx(0.5)
    assert pause_s(Standing(5, 100.0), 111.0, S, Random(1)) == 0.0


def test_a_follower_waits_at_least_the_retry_time_and_at_most_the_jitter_more():
    pauses = [pause_s(Standing(free_at=200.0), 100.0, S, Random(i)) for i in range(200)]
    assert min(pauses) >= 2.0
    assert max(pauses) <= 2.0 * 2.2
    assert max(pauses) - min(pauses) > 1.5


def test_a_follower_is_there_when_the_lease_ends():
    for i in range(50):
        pause = pause_s(Standing(free_at=100.7), 100.0, S, Random(i))
        assert 0.7 <= pause <= 0.7 + 0.2


def test_the_ratios_stay_for_every_length():
    for lease_s in (1.0, 3.0, 15.0, 600.0):
        made = settings_of(lease_s)
        assert made.lease_s / made.renew_s == pytest.approx(1.5)
        # As client-go checks: the deadline leaves room for a retry with its jitter.
        assert made.renew_s > made.retry_s * made.jitter_ratio
    assert settings_of(15.0) == S
