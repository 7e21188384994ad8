from __future__ import annotations

from random import Random
from typing import NamedTuple

import pytest

from gateway.core.ejection import Cause, Ejections, EjectionSettings, Flip, Standing

S = EjectionSettings()


class R(NamedTuple):
    replica_id: str


def made(ids="abcd", settings=S) -> Ejections:
    ejections = Ejections(settings)
    ejections.keep({"m": list(ids)}, 0.0)
    ejections.look(0.0)
    return ejections


def fail(ejections, replica_id, times, now):
    """What so many failures changed."""
    flips = [ejections.failed(replica_id, now) for _ in range(times)]
    return next((flip for flip in flips if flip is not None), None)


def asked(ejections, now, ids="abcd", seed=1, times=1000):
    """How often each may be asked."""
    rng, targets = Random(seed), [R(i) for i in ids]
    counts = dict.fromkeys(ids, 0)
    for _ in range(times):
        for target in ejections.admitted(targets, now, rng):
            counts[target.replica_id] += 1
    return counts


def test_five_failures_in_a_row_eject_and_four_do_not():
    ejections = made()
    assert fail(ejections, "a", 4, 1.0) is None
    assert ejections.failed("a", 1.0) == Flip("a", Standing.EJECTED, Cause.CONSECUTIVE, 3.0)
    assert ejections.marked == {"a"}
    assert asked(ejections, 1.0) == {"a": 0, "b": 1000, "c": 1000, "d": 1000}


def test_an_answer_in_between_begins_the_count_anew():
    ejections = made()
    fail(ejections, "a", 4, 1.0)
    ejections.answered("a", 0.01)
    assert fail(ejections, "a", 4, 1.0) is None


def test_it_comes_back_on_probation_and_its_share_grows():
    ejections = made()
    fail(ejections, "a", 5, 0.0)
    assert ejections.look(1.9) == []
    assert ejections.look(2.0) == [Flip("a", Standing.PROBATION)]
    assert 50 < asked(ejections, 2.0)["a"] < 150
    assert 450 < asked(ejections, 4.5)["a"] < 550
    assert ejections.look(7.0) == [Flip("a", Standing.GOOD)]
    assert not ejections.marked
    assert ejections.next_look > 7.0


def test_a_failure_on_probation_ejects_at_once_for_twice_as_long():
    ejections = made()
    fail(ejections, "a", 5, 0.0)
    ejections.look(2.0)
    assert ejections.failed("a", 2.5) == Flip("a", Standing.EJECTED, Cause.PROBATION, 6.5)


def test_times_double_up_to_a_minute_and_are_forgiven():
    ejections, now, lasted = made(), 0.0, []
    for _ in range(7):
        flip = fail(ejections, "a", 5, now) if not lasted else ejections.failed("a", now)
        lasted.append(flip.until - now)
        now = flip.until
        ejections.look(now)
    assert lasted == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    now += 7 * S.forgive_s
    ejections.look(now)
    assert fail(ejections, "a", 5, now).until - now == 2.0


@pytest.mark.parametrize(
    ("ids", "most"), [("a", 0), ("ab", 1), ("abc", 1), ("abcd", 2), ("abcdefgh", 4)]
)
def test_at_most_half_are_ejected_and_never_the_last(ids, most):
    ejections = made(ids)
    for replica_id in ids:
        fail(ejections, replica_id, 9, 0.0)
    assert sum(ejections.standing(i) is Standing.EJECTED for i in ids) == most


def test_of_a_version_whose_replicas_are_all_ejected_any_may_be_asked():
    ejections = made("abcd")
    fail(ejections, "a", 5, 0.0)
    fail(ejections, "b", 5, 0.0)
    assert asked(ejections, 0.0, "ab") == {"a": 1000, "b": 1000}


def test_who_is_alone_on_probation_is_asked_whatever_the_draw():
    ejections = made("ab")
    fail(ejections, "a", 5, 0.0)
    ejections.look(2.0)
    assert asked(ejections, 2.0, "a") == {"a": 1000}


@pytest.mark.parametrize(
    ("mine", "theirs", "is_ejected"),
    [
        (4, 0, True),  # 20% against none
        (3, 0, False),  # 15%
        (20, 1, True),  # all against 5%
        (10, 5, False),  # 50% against 25%: the model's or the callers' fault
        (20, 7, False),  # all against 35%
    ],
)
def test_errors_of_its_own_eject_by_comparison_with_the_others(mine, theirs, is_ejected):
    ejections = made("ab")
    for n in range(20):
        ejections.answered("b", 0.01) if n >= theirs else ejections.erred("b", 1.0)
    flips = []
    for n in range(20):
        if n < 20 - mine:
            ejections.answered("a", 0.01)
        else:
            flips.append(ejections.erred("a", 1.0))
    causes = [flip.cause for flip in flips if flip is not None]
    assert causes == ([Cause.ERRORS] if is_ejected else [])


def test_errors_with_nobody_to_compare_with_eject_nobody():
    ejections = made("ab")
    assert [ejections.erred("a", 1.0) for _ in range(50)] == [None] * 50


@pytest.mark.parametrize(("slow_s", "is_ejected"), [(1.01, True), (0.99, False)])
def test_ten_times_slower_than_the_median_ejects_at_the_end_of_a_window(slow_s, is_ejected):
    ejections = made("abcd")
    for _ in range(10):
        for replica_id in "bcd":
            ejections.answered(replica_id, 0.1)
        ejections.answered("a", slow_s)
    assert ejections.look(5.0) == []
    until = 10.0 + S.base_s
    expected = [Flip("a", Standing.EJECTED, Cause.LATENCY, until)] if is_ejected else []
    assert ejections.look(10.0) == expected


def test_few_slow_answers_are_no_trend():
    ejections = made("ab")
    for _ in range(9):
        ejections.answered("a", 9.0)
    for _ in range(10):
        ejections.answered("b", 0.1)
    assert ejections.look(10.0) == []


def test_errors_are_forgotten_after_two_windows():
    ejections = made("ab")
    for _ in range(30):
        ejections.answered("b", 0.01)
    for _ in range(16):
        ejections.answered("a", 0.01)
    for _ in range(3):
        ejections.erred("a", 1.0)
    ejections.look(10.0)
    ejections.look(20.0)
    for _ in range(17):
        ejections.answered("a", 0.01)
        ejections.answered("b", 0.01)
    assert ejections.erred("a", 20.5) is None
    assert ejections.erred("a", 20.5) is None


def test_nothing_is_known_of_strangers_and_of_those_who_left():
    ejections = made("ab")
    assert fail(ejections, "z", 9, 0.0) is None
    fail(ejections, "a", 5, 0.0)
    ejections.keep({"m": ["b"]}, 1.0)
    assert not ejections.marked
    assert ejections.standing("a") is Standing.GOOD
    assert ejections.look(60.0) == []


def test_models_do_not_count_for_one_another():
    ejections = Ejections(S)
    ejections.keep({"m": ["a", "b"], "n": ["c", "d"]}, 0.0)
    assert fail(ejections, "a", 5, 0.0) is not None
    assert fail(ejections, "c", 5, 0.0) is not None
    assert fail(ejections, "d", 9, 0.0) is None


def test_who_is_doubted_follows_the_time_also_where_nobody_looks():
    ejections = made()
    assert ejections.doubted(1.0) == {}
    fail(ejections, "a", 5, 1.0)
    out = (Standing.EJECTED, Cause.CONSECUTIVE)
    back = (Standing.PROBATION, Cause.CONSECUTIVE)
    ends = 1.0 + S.base_s
    for now, expected in (
        (1.0, {"a": out}),
        (ends - 0.1, {"a": out}),
        (ends + 0.1, {"a": back}),
        (ends + S.slow_start_s - 0.1, {"a": back}),
        (ends + S.slow_start_s + 0.1, {}),
    ):
        assert ejections.doubted(now) == expected
    ejections.look(ends + 1.0)
    assert ejections.doubted(ends + S.slow_start_s + 0.9) == {"a": back}
    fail(ejections, "a", 1, ends + 2.0)
    assert ejections.doubted(ends + 2.0) == {"a": (Standing.EJECTED, Cause.PROBATION)}
