from __future__ import annotations

import pytest

from gateway.dataplane.slots import shares


@pytest.mark.parametrize(
    ("count", "serving", "expected"),
    [
        (2, {0, 1}, {0: [0], 1: [1]}),
        (2, {1}, {1: [1, 0]}),
        (2, set(), {}),
        (4, {1, 3}, {1: [1, 0], 3: [3, 2]}),
        (4, {2}, {2: [2, 0, 1, 3]}),
        (5, {0, 4}, {0: [0, 1, 3], 4: [4, 2]}),
    ],
)
def test_workers_that_serve_share_the_slots_of_those_that_do_not(count, serving, expected):
    assert shares(count, serving) == expected
