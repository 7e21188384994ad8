"""Whatever becomes of requests, nothing stays counted."""

from __future__ import annotations

import asyncio
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.limits import LimitSettings
from gateway.core.queueing import Priority, QueueSettings
from gateway.core.retry import RetrySettings
from gateway.core.route import Target
from gateway.dataplane import Dataplane, DataplaneSettings
from gateway.domain.errors import GatewayError
from gateway.domain.replicas import Endpoint
from gateway.ports import UpstreamAnswer, UpstreamRequest
from gateway.telemetry import Metrics
from tests.parts.fake_replica import table
from tests.parts.scripted_upstream import OK, REFUSED, RESET, ScriptedUpstream

TARGETS = tuple(Target(n, Endpoint(n, n, n)) for n in "abc")
said = st.sampled_from(
    [OK, REFUSED, RESET, UpstreamAnswer(503, b""), UpstreamAnswer(404, b""), None]
)


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(dict.fromkeys("abc", said)),
    st.lists(st.sampled_from(["wait", "cancel", "deadline"]), min_size=1, max_size=8),
    st.integers(1, 8),
    st.integers(1, 3),
    st.integers(0, 4),
    st.booleans(),
)
def test_in_flight_and_turns_return_to_nothing_after_any_mix(
    script, fates, in_flight, turns, places, republish
):
    asyncio.run(_mix(script, fates, in_flight, turns, places, republish))


async def _mix(script, fates, limit, turns, places, republish):
    upstream = ScriptedUpstream(lambda address: script[address])
    options = DataplaneSettings(
        retry=RetrySettings(replica_wait_s=0.005),
        limit=LimitSettings(initial=turns, least=1),
        queue=QueueSettings(most=places),
    )
    plane = Dataplane(options, http=upstream, grpc=upstream, metrics=Metrics(), rng=Random(1))
    plane.publish(table(*TARGETS, in_flight_limit=limit))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_ask(plane, Priority(n % 3))) for n in range(len(fates))]
        for _ in range(3):
            await asyncio.sleep(0)
        if republish:
            plane.publish(table(TARGETS[0], versions=(2,), generation=2))
        for fate, task in zip(fates, tasks, strict=True):
            if fate == "cancel":
                task.cancel()
    assert not plane.in_flight.by_model
    assert not plane.in_flight.by_replica
    assert all(not state.turns.active for state in plane.states.values())
    assert all(not state.turns.queue.size for state in plane.states.values())
    assert not plane.busy()
    assert len(upstream.asked) <= 3 * len(fates)


async def _ask(plane, priority):
    try:
        async with asyncio.timeout(0.02):
            await plane.ask(
                plane.http, "m", None, None, 0.02, lambda v: UpstreamRequest("", b""),
                priority=priority,
            )  # fmt: skip
    except (GatewayError, TimeoutError):
        pass
