"""What a replica says of versions that it was just told to drop is not believed."""

from __future__ import annotations

from collections.abc import Sized

import pytest

from gateway.domain.models import VersionState, VersionStatus
from gateway.domain.replicas import Endpoint, ReplicaReport, Told
from gateway.lifecycle.replica_watch import ReplicaWatch
from gateway.lifecycle.settings import LifecycleSettings

READY, FAILED, GONE = VersionState.READY, VersionState.FAILED, VersionState.GONE


class Control:
    """ports.ReplicaControl of one scripted replica."""

    def __init__(self) -> None:
        self.now: dict[int, VersionState] = {}
        self.told: list[tuple[int, ...]] = []

    async def report(self, endpoint: Endpoint, model: str) -> ReplicaReport:
        return ReplicaReport(True, {v: VersionStatus(v, s) for v, s in self.now.items()})

    async def tell(self, endpoint: Endpoint, told: Told) -> None:
        self.told.append(told.versions)

    async def aclose(self) -> None:
        return None


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


def _watch(control: Control, clock: Clock, fleet: Sized = ()) -> ReplicaWatch:
    endpoint, settings = Endpoint("h:1", "h:2", "h:2"), LifecycleSettings()
    return ReplicaWatch("r", "m", endpoint, control, clock, settings, lambda: None, fleet)


async def _turn(watch: ReplicaWatch, control: Control, **states: VersionState) -> dict[int, str]:
    """One turn of the watch's loop against a replica in these states."""
    control.now = {int(name[1:]): state for name, state in states.items()}
    await watch._ask()
    await watch._tell()
    return {v: s.state.value for v, s in watch.report.versions.items()}


async def test_a_failed_version_that_comes_up_while_it_is_told_to_go_is_not_ready():
    control, clock = Control(), Clock()
    watch = _watch(control, clock)
    watch.tell(Told("m", "s", (1, 2)))
    await _turn(watch, control, v1=READY, v2=FAILED)
    watch.tell(Told("m", "s", (1,)))
    await _turn(watch, control, v1=READY, v2=FAILED)
    assert control.told == [(1, 2), (1,)]
    assert await _turn(watch, control, v1=READY, v2=READY) == {1: "ready", 2: "draining"}
    watch.tell(Told("m", "s", (1, 2)))
    assert await _turn(watch, control, v1=READY, v2=READY) == {1: "ready", 2: "draining"}
    assert await _turn(watch, control, v1=READY, v2=GONE) == {1: "ready", 2: "gone"}
    assert await _turn(watch, control, v1=READY, v2=READY) == {1: "ready", 2: "ready"}


async def test_a_version_that_was_kept_after_all_is_ready_again_in_time():
    control, clock = Control(), Clock()
    watch = _watch(control, clock)
    for versions in ((1, 2), (1,), (1, 2)):
        watch.tell(Told("m", "s", versions))
        await _turn(watch, control, v1=READY, v2=READY)
    clock.at += LifecycleSettings().retell_s
    assert await _turn(watch, control, v1=READY, v2=READY) == {1: "ready", 2: "ready"}


@pytest.mark.parametrize(
    ("replicas", "steady_s", "busy_s"), [(1, 1, 0.2), (500, 1, 0.2), (2000, 4, 0.8)]
)
async def test_replicas_of_a_large_fleet_report_more_seldom(replicas, steady_s, busy_s):
    control, clock = Control(), Clock()
    watch = _watch(control, clock, range(replicas))
    watch.tell(Told("m", "s", (1,)))
    await _turn(watch, control, v1=VersionState.LOADING)
    assert watch._pause_s() == pytest.approx(busy_s)
    await _turn(watch, control, v1=READY)
    assert watch._pause_s() == pytest.approx(steady_s)
