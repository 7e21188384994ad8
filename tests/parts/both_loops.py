"""Tests that run on asyncio's own event loop and on uvloop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import uvloop

Opened = Callable[[], AbstractAsyncContextManager[dict[str, Any]]]


def on_both_loops(opened: Opened, *names: str) -> Callable[[Callable], Callable]:
    """A decorator: each test gets, by these names, what `opened` gives within the loop."""

    def decorate(test: Callable) -> Callable:
        signature = inspect.signature(test)

        async def within(given: dict[str, Any]) -> None:
            async with opened() as things:
                mine = {n: v for n, v in things.items() if n in signature.parameters}
                await test(**mine, **given)

        def run_it(run: Callable, **given: Any) -> None:
            run(within(given))

        run_it.__name__ = test.__name__
        run_it.__doc__ = test.__doc__
        run_it.__module__ = test.__module__
        left = [p for n, p in signature.parameters.items() if n not in names]
        run_parameter = inspect.Parameter("run", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        run_it.__signature__ = inspect.Signature([run_parameter, *left])  # type: ignore[attr-defined]
        runs = [asyncio.run, uvloop.run]
        return pytest.mark.parametrize("run", runs, ids=["asyncio", "uvloop"])(run_it)

    return decorate
