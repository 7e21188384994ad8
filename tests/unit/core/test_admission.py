from __future__ import annotations

import pytest

from gateway.core import admission
from gateway.domain.errors import DeadlineExceeded, InvalidRequest, Overloaded, TooLarge


def test_a_body_of_the_limit_is_let_in_and_one_above_is_not():
    admission.check_size(10, 10)
    with pytest.raises(TooLarge, match="10 bytes"):
        admission.check_size(11, 10)


def test_the_request_that_fills_the_limit_is_the_last():
    admission.check_in_flight("m", 1, 2)
    with pytest.raises(Overloaded) as caught:
        admission.check_in_flight("m", 2, 2)
    assert caught.value.reason == "in_flight_limit"
    assert caught.value.retry_after_s


@pytest.mark.parametrize(
    ("asked_s", "expected"), [(None, 130.0), (0.5, 100.5), (1e12, 100.0 + 86400.0)]
)
def test_the_callers_deadline_comes_before_the_models(asked_s, expected):
    assert admission.deadline(asked_s, 30.0, 100.0) == expected


@pytest.mark.parametrize("asked_s", [0.0, -1.0])
def test_a_deadline_that_has_passed_is_refused(asked_s):
    with pytest.raises(DeadlineExceeded):
        admission.deadline(asked_s, 30.0, 100.0)


@pytest.mark.parametrize(("value", "expected"), [(None, None), ("500", 0.5), (" 1.5 ", 0.0015)])
def test_the_timeout_header_is_in_milliseconds(value, expected):
    assert admission.timeout_from_header(value) == expected


@pytest.mark.parametrize("value", ["", "soon", "nan", "inf", "-1", "1e999", "9" * 400])
def test_a_timeout_that_is_no_number_of_milliseconds_is_refused(value):
    with pytest.raises(InvalidRequest, match="x-request-timeout-ms"):
        admission.timeout_from_header(value)
