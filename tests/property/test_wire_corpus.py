"""Every case that fuzzing kept still holds (tests/fuzz): the same functions, without the fuzzer."""

from __future__ import annotations

import pytest

from tests.fuzz import corpus, seeds
from tests.fuzz.targets import TARGETS

LEAST_CASES = 50
"""Of each target. An archive that is missing or empty would else replay nothing, and pass."""


@pytest.mark.parametrize("name", TARGETS)
def test_kept_cases_hold(name: str) -> None:
    run, kept = TARGETS[name].load(), corpus.cases(name)
    assert len(kept) >= LEAST_CASES
    for case_name, case in kept:
        try:
            run(case)
        except Exception as error:
            error.add_note(f"case {case_name} of {name}: {case!r}")
            raise


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_hold_and_can_be_mutated(name: str) -> None:
    run = TARGETS[name].load()
    for seed in seeds.seeds(name):
        assert len(seed) <= TARGETS[name].max_bytes
        run(seed)
