from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.orca import NO_REPORT, in_flight_of, load_text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("TEXT named_metrics.in_flight=3", 3),
        ("TEXT cpu_utilization=0.3,named_metrics.in_flight=12,eps=1", 12),
        ("named_metrics.in_flight=7", 7),
        ("TEXT named_metrics.in_flight=3.0", 3),
        ('JSON {"named_metrics": {"in_flight": 4}, "cpu_utilization": 0.3}', 4),
        ("TEXT named_metrics.in_flight=", NO_REPORT),
        ("TEXT named_metrics.in_flight=-3", NO_REPORT),
        ("TEXT named_metrics.in_flight=3x", NO_REPORT),
        ("TEXT other_named_metrics.in_flight=3", NO_REPORT),
        ("TEXT named_metrics.in_flight=9999999999", NO_REPORT),
        ("TEXT cpu_utilization=0.3", NO_REPORT),
        ("JSON {", NO_REPORT),
        ("JSON []", NO_REPORT),
        ('JSON {"named_metrics": {"in_flight": "x"}}', NO_REPORT),
        ('JSON {"named_metrics": {"in_flight": NaN}}', NO_REPORT),
        ("BIN CAESAA==", NO_REPORT),
        ("", NO_REPORT),
        (None, NO_REPORT),
    ],
)
def test_what_is_in_flight_is_read_and_nonsense_is_no_report(value, expected):
    assert in_flight_of(value) == expected


@given(st.integers(0, 100_000), st.booleans())
def test_what_is_written_is_read_and_never_more_than_an_eighth_too_low(in_flight, as_json):
    said = in_flight_of(load_text(in_flight, as_json=as_json))
    assert in_flight * 7 / 8 <= said <= in_flight
    assert in_flight > 16 or said == in_flight


def test_few_values_are_written():
    assert len({load_text(n) for n in range(4097)}) <= 90


@given(st.text())
def test_any_text_is_read_without_an_error(text):
    assert in_flight_of(text) >= NO_REPORT
    assert in_flight_of("JSON " + text) >= NO_REPORT
