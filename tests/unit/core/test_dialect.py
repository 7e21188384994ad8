"""Which protocol a replica is spoken to in."""

from __future__ import annotations

import pytest

from gateway.core.dialect import NEAREST, Dialect, choose_dialect
from gateway.domain.models import PROTOCOLS


def test_the_dialects_are_the_protocols_of_the_domain():
    assert tuple(Dialect) == PROTOCOLS
    assert {d for d in Dialect if d.is_v2} == {"v2-rest", "v2-grpc"}
    assert {d for d in Dialect if d.is_grpc} == {"tfs-grpc", "v2-grpc"}


@pytest.mark.parametrize(
    ("caller", "speaks", "chosen"),
    [
        ("tfs-rest", PROTOCOLS, "tfs-rest"),
        ("v2-grpc", PROTOCOLS, "v2-grpc"),
        ("tfs-rest", ("tfs-grpc", "v2-rest"), "tfs-grpc"),
        ("v2-rest", ("tfs-rest", "tfs-grpc"), "tfs-grpc"),
        ("v2-grpc", ("tfs-rest", "tfs-grpc"), "tfs-grpc"),
        ("v2-grpc", ("tfs-rest",), "tfs-rest"),
        ("tfs-grpc", ("v2-rest", "v2-grpc"), "v2-grpc"),
        ("tfs-rest", ("v2-rest", "v2-grpc"), "v2-rest"),
        ("tfs-grpc", ("tfs-rest", "v2-rest"), "v2-rest"),
        ("tfs-grpc", (), None),
        ("tfs-grpc", ("smoke-signals",), None),
    ],
)
def test_the_nearest_is_chosen(caller, speaks, chosen):
    assert choose_dialect(Dialect(caller), speaks) == chosen


def test_the_json_of_tensorflow_serving_is_nobodys_first_choice_but_its_own():
    for caller, order in NEAREST.items():
        assert order.index(Dialect.TFS_REST) == (0 if caller is Dialect.TFS_REST else 3)
