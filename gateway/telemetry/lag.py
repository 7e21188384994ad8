"""How late the event loop wakes up: the one number that shows that something blocks it."""

from __future__ import annotations

import asyncio

from gateway.telemetry.metrics import Metrics

INTERVAL_S = 0.5
"""Seldom enough to cost nothing, often enough that a scrape sees the last seconds."""


async def watch_loop_lag(metrics: Metrics) -> None:
    """Measure until cancelled. The gauge shows the worst of the last ten looks (5 s), so that a
    scrape cannot miss a stall between two of them."""
    loop = asyncio.get_running_loop()
    recent: list[float] = []
    while True:
        due_at = loop.time() + INTERVAL_S
        await asyncio.sleep(INTERVAL_S)
        recent = [*recent[-9:], max(0.0, loop.time() - due_at)]
        metrics.event_loop_lag_seconds.set(max(recent))
