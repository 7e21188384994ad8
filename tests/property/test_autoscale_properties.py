"""Whatever is asked of a model, its number of replicas keeps its promises."""

from __future__ import annotations

from math import ceil

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.core.autoscale import AutoscaleSettings, Demand, Memory, Seen, begun, decide
from gateway.domain.models import Scaling

SETTINGS = AutoscaleSettings()


@st.composite
def scalings(draw: st.DrawFn) -> Scaling:
    most = draw(st.integers(1, 30))
    least = draw(st.integers(0, most))
    target = draw(st.floats(0.1, 64.0))
    return Scaling(least, most, target, draw(st.floats(1.0, 600.0)))


LOOKS = st.lists(
    st.tuples(
        st.floats(0.001, 30.0),  # seconds since the last look
        st.floats(0.0, 500.0),  # in flight meanwhile
        st.integers(0, 40),  # ready
        st.booleans(),  # called
        st.sampled_from(["", "", "", "version 2 has to be loaded"]),
    ),
    min_size=1,
    max_size=60,
)


def bounded(memory: Memory, scaling: Scaling) -> bool:
    return scaling.least <= memory.wanted <= scaling.most


@settings(deadline=None)
@given(
    scaling=scalings(),
    existing=st.integers(0, 40),
    looks=LOOKS,
    is_proven=st.booleans(),
)
@example(Scaling(0, 1, 1.0, 2.0), 0, [(2.0, 1.0, 0, False, "")], False)  # the first look came late
def test_every_decision_keeps_its_promises(scaling, existing, looks, is_proven):
    now, request_s, came = 100.0, 0.0, 0
    memory = begun(existing, scaling, now, is_proven=is_proven)
    assert bounded(memory, scaling)
    used_at = now
    for seconds, in_flight, ready, is_called, needed in looks:
        now += seconds
        request_s += in_flight * seconds
        came += in_flight > 0
        before = memory
        seen = Seen(now, scaling, Demand(request_s, came), ready, is_called, needed)
        memory = decide(before, seen, SETTINGS)
        if in_flight or is_called or needed:
            used_at = now
        assert bounded(memory, scaling)
        if memory.wanted == 0 and before.wanted > 0:
            assert scaling.least == 0
            assert now - used_at >= min(scaling.idle_s, now - 100.0) - SETTINGS.look_s
        if needed or is_called:
            assert memory.wanted >= 1
        if 0 < memory.wanted < before.wanted:
            assert now >= before.panic_until
            assert memory.wanted >= ceil(before.wanted / SETTINGS.most_down_ratio)
        if memory.wanted > before.wanted:
            assert memory.wanted <= max(1, ceil(max(1, ready) * SETTINGS.most_up_ratio))
        assert (memory.why != before.why) or memory.wanted == before.wanted or memory.why
        assert len(memory.spans) <= SETTINGS.stable_s / SETTINGS.look_s * 1.1 + 1


@settings(max_examples=40, deadline=None)
@given(
    scaling=scalings(),
    existing=st.integers(0, 30),
    in_flight=st.floats(0.0, 400.0),
)
def test_a_constant_load_is_settled_for_good(scaling, existing, in_flight):
    now, request_s = 100.0, 0.0
    memory = begun(existing, scaling, now, is_proven=True)
    sizes = []
    for second in range(1500):
        now += 1.0
        request_s += in_flight
        came = second if in_flight else 0
        seen = Seen(now, scaling, Demand(request_s, came), memory.wanted)
        memory = decide(memory, seen, SETTINGS)
        sizes.append(memory.wanted)
    assert len(set(sizes[900:])) == 1
    last = sizes[-1]
    enough = ceil(in_flight / scaling.target)
    if not in_flight:
        assert last == scaling.least or last == 1
    assert last >= min(scaling.most, enough * 0.9 - 1)
    roomy = ceil(in_flight / (scaling.target * (1 - SETTINGS.tolerance_ratio)))
    assert last <= max(1, scaling.least, roomy)
