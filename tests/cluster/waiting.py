"""Wait until the cluster says something; nobody announces most of it to a test."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from time import perf_counter, sleep
from typing import TypeVar

from tests.cluster.api import Api, ApiError

T = TypeVar("T")

LONGEST_S = 120.0
"""For what takes a second: a machine that is ten times slower for a moment fails nothing."""


def until(
    found: Callable[[], T],
    longest_s: float = LONGEST_S,
    may_go_on: Callable[[], object] = lambda: True,
) -> T:
    """Ask until the answer is true and return it; a refusal or no connection means: not yet.

    Raises:
        TimeoutError: not within `longest_s`, or `may_go_on` has turned false; with the last answer.
    """
    give_up = perf_counter() + longest_s
    while True:
        last: object
        try:
            last = answer = found()
            if answer:
                return answer
        except (ApiError, OSError, http.client.HTTPException) as error:
            last = error
        if perf_counter() > give_up or not may_go_on():
            raise TimeoutError(f"not within {longest_s:g} s; the last answer was {last!r}")
        sleep(0.05)


def until_told(api: Api, namespace: str, name: str, words: str) -> str:
    """Wait for an event about an object that contains `words`: events come after the status."""
    return until(lambda: next((e for e in api.events(namespace, name) if words in e), ""))
