"""What people type comes back as they meant it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.quantities import parse_policy, parse_size, policy_text, size_text
from gateway.domain.errors import InvalidRequest
from gateway.domain.models import All, Latest, Specific

versions = st.integers(0, 2**63 - 1)
policies = st.one_of(
    st.builds(Latest, st.integers(1, 1000)),
    st.just(All()),
    st.lists(versions, min_size=1, max_size=50, unique=True).map(
        lambda v: Specific(tuple(sorted(v)))
    ),
)


@given(policies)
def test_every_policy_survives_its_text(policy):
    assert parse_policy(policy_text(policy)) == policy


@given(st.text(max_size=40))
def test_any_text_is_a_policy_or_refused_in_words(text):
    try:
        policy = parse_policy(text)
    except InvalidRequest as error:
        refused = error
    else:
        assert parse_policy(policy_text(policy)) == policy
        return
    assert refused.reason == "bad_versions"
    assert "--versions" in refused.message


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("latest", Latest(1)),
        (" latest:3 ", Latest(3)),
        ("all", All()),
        ("4, 3,3", Specific((3, 4))),
        ("00000123", Specific((123,))),
        ("0", Specific((0,))),
    ],
)
def test_policies_as_typed(text, policy):
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    "text",
    [
        *["", ",", "3,", "latest:", "latest:0", "latest:-1", "latest:1001", "ALL", "-1", "3.5"],
        *["1e3", "9223372036854775808", "٣", "latest:٣", "all:2", "3;4", "9" * 5000],
    ],
)
def test_what_is_no_policy(text):
    with pytest.raises(InvalidRequest, match=r"versions .--versions. must be"):
        parse_policy(text)


@given(st.integers(1, 2**60))
def test_every_size_survives_its_text(size):
    assert parse_size(size_text(size), "memory", "--memory") == size


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_refused_in_words(text):
    try:
        size = parse_size(text, "memory", "--memory")
    except InvalidRequest as error:
        refused = error
    else:
        assert 1 <= size <= 2**60
        return
    assert refused.reason == "bad_size"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MB", 512_000_000),
        ("8Gi", 8 << 30),
        ("8GiB", 8 << 30),
        ("8 gib", 8 << 30),
        ("1.5G", 1_500_000_000),
        ("1024", 1024),
        ("1024B", 1024),
        ("2k", 2000),
        ("2KiB", 2048),
        (77, 77),
    ],
)
def test_sizes_as_typed(text, size):
    assert parse_size(text, "memory", "--memory") == size


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "8 Gigs", "lots", "8i", "1e9", "NaN", "0.1", "2000000Ti", 0, -5]
)
def test_what_is_no_size(text):
    with pytest.raises(InvalidRequest, match=r"memory .--memory. must be a size"):
        parse_size(text, "memory", "--memory")
