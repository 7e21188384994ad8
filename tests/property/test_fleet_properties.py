"""A fleet of gateways through deaths, cut connections, swaps and scaling, in virtual time.

Whatever happens: nobody but the leader acts, no term writes after the next one has, no gateway that
can hear the others sends a request to a replica that does not hold what is asked for, and the model
never loses its last answer. Once it is quiet, all tables are the same and right.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st

from tests.parts.fakes_lifecycle import published
from tests.parts.fleet import Fleet, Gateway, fleet, uses
from tests.parts.virtual_time import run_virtually

STEP_S = 0.05
SETTLING_S = 3.0
"""After its connection is mended, a gateway hears and takes what it has missed."""

actions = st.lists(
    st.tuples(
        st.sampled_from(("swap", "swap", "scale", "kill", "start", "cut", "mend", "stop")),
        st.integers(0, 9),
        st.floats(0.0, 25.0),
    ),
    min_size=1,
    max_size=10,
)


class Watched:
    """What must always hold, looked at again and again."""

    def __init__(self, f: Fleet) -> None:
        self.f = f
        self.newest = 1
        self.replicas = 2
        self.mended_at: dict[str, float] = {}
        self.answered: dict[str, set[str]] = {}
        """By gateway, the replicas of the live version in its table when last looked at."""

    def look(self) -> None:
        f, now = self.f, asyncio.get_running_loop().time()
        assert f.leader is None or f.leader.is_alive
        epochs = [epoch for epoch, _ in f.hub.writes] + [0]
        posts = [epoch for epoch, _, _ in f.hub.posts]
        assert epochs[:-1] == sorted(epochs[:-1])
        assert posts == sorted(posts)
        assert f.strangers == [], (f.strangers, now)
        deaf = {
            g.name
            for g in f.gateways
            if g.sharing.is_cut or now < self.mended_at.get(g.name, -1.0) + SETTLING_S
        }
        assert f.wrong_routes(spared=deaf) == []
        for g in f.gateways:
            if g.is_alive and g.name not in deaf:
                model = g.table.models["m"]
                answering = {t.replica_id for t in model.targets.get(model.live, ())}
                # Only the end of the processes themselves, with nobody there who could replace
                # them in time, takes the last answer.
                assert answering or self.answered.get(g.name, set()) <= f.ended, (g.name, model)
                self.answered[g.name] = answering

    async def wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            self.look()
            await asyncio.sleep(STEP_S)

    async def act(self, action: str, which: int) -> None:
        f = self.f
        living = [g for g in f.gateways if g.is_alive]
        one = living[which % len(living)]
        match action:
            case "swap":
                self.newest += 1
                f.source.show("s3://models/m", *map(published, range(1, self.newest + 1)))
            case "scale":
                self.replicas = 1 + which % 3
                await f.deploy(one, replicas=self.replicas)
            case "kill" | "stop" if self.is_safe(one):
                await self.end(one, is_clean=action == "stop")
            case "start" if len(f.gateways) < 6:
                await f.start()
            case "cut":
                one.cut()
            case "mend":
                self.mend(one)

    def mend(self, one: Gateway) -> None:
        if one.sharing.is_cut:
            one.mend()
            self.mended_at[one.name] = asyncio.get_running_loop().time()

    def is_safe(self, one: Gateway) -> bool:
        """Whether its replicas are not needed, or will have been replaced when they end: another
        gateway can lead, and no other's replicas are waiting for that already."""
        f = self.f
        able = [g for g in f.gateways if g.is_alive and g is not one and not g.sharing.is_cut]
        routed = {r for g in f.gateways if g.is_alive for _, _, r in uses(g.table)}
        dead = {r.id for g in f.gateways if not g.is_alive for r in g.scheduler.replicas()}
        return bool(able) and f.leader is not None and not routed & (dead - f.ended)

    async def end(self, one: Gateway, *, is_clean: bool) -> None:
        one.kill()
        if is_clean and not one.sharing.is_cut:
            await one.member.leave()

    def is_quiet(self) -> bool:
        f = self.f
        living = [g for g in f.gateways if g.is_alive]
        tables = [g.table.models for g in living]
        own = [r for g in living for r in g.scheduler.replicas()]
        leader = f.leader
        return (
            leader is not None
            and all("m" in t and t == tables[0] for t in tables)
            and tables[0]["m"].live == self.newest
            and len(tables[0]["m"].targets.get(self.newest, ())) == self.replicas
            and set(tables[0]["m"].targets) == {self.newest}
            and {r.id for r in own} == {t.replica_id for t in tables[0]["m"].targets[self.newest]}
            and [r.id for r in leader.scheduler.replicas()] == [r.id for r in own]
        )


@pytest.mark.timeout(600)
# Not shrunk: a case is minutes of virtual time, and a shorter one seldom fails alike.
@settings(
    deadline=None,
    max_examples=12,
    derandomize=True,  # the same cases everywhere; more: raise max_examples
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(st.integers(2, 4), st.integers(0, 2**16), actions)
def test_whatever_happens_requests_find_what_they_ask_for(size, seed, todo):
    note(f"fleet of {size}, seed {seed}: {todo}")

    async def main() -> None:
        async with fleet(size, seed) as f:
            watched = Watched(f)
            await f.has_leader()
            f.source.show("s3://models/m", published(1))
            await f.deploy(f.gateways[0], replicas=2)
            await f.until(watched.is_quiet)
            for action, which, pause_s in todo:
                await watched.act(action, which)
                await watched.wait(pause_s)
            for g in f.gateways:
                watched.mend(g)
            await watched.wait(40.0)
            await f.until(watched.is_quiet, seconds=120)

    run_virtually(main())
