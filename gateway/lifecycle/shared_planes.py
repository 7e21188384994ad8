"""The data planes of all gateways that share a store, as if they were this one's.

Another gateway is to this one what a worker process is to its parent (dataplane/parent.py): it is
given tables by number, tells which it answers by and what it still uses beyond that, and counts for
rollouts. Only the way is longer: through the store, and in words that are up to a second old. So
what has left the table counts as used until every gateway was heard to have taken a later one, in a
pulse that was asked for after that table was stored: whoever is new by then has read it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from gateway.core import agreement
from gateway.core.analysis import Tally, add, empty
from gateway.core.autoscale import Demand
from gateway.core.route import RoutingTable, uses_of
from gateway.domain.agreement import AgreementTally
from gateway.domain.gateways import Heard, Use
from gateway.domain.names import Version
from gateway.domain.replicas import ReplicaStanding
from gateway.lifecycle.term import applied
from gateway.ports import DataPlanes, Posting


class SharedPlanes:
    """ports.DataPlanes over this gateway's own planes and, through what is heard, the others'."""

    def __init__(self, own: DataPlanes, gone_s: float) -> None:
        """A gateway that was silent for `gone_s` is waited for no longer."""
        self.number = 0
        """Of the newest table here; posted to the others under this number."""
        self._is_whole = True
        """Whether the table is all that is posted up to `number`."""
        self._own = own
        self._gone_s = gone_s
        self._table = RoutingTable()
        self._uses: frozenset[Use] = frozenset()
        self._left: dict[Use, int] = {}
        """What is in no table from this number on."""
        self._confirmed = 0
        """Up to where the others have been heard."""
        self._others: Sequence[Heard] = ()
        self._asked: dict[str, Mapping[str, Demand]] = {}
        """By gateway and model, what others said that they were asked for."""
        self._asked_before: dict[str, Demand] = {}
        """By model, the same of gateways that count anew by now."""
        self._calls: set[str] = set()
        self._calling = asyncio.Event()
        self._heard = asyncio.Event()
        self.published = asyncio.Event()
        """Set by `publish`; whoever posts clears it."""

    def __repr__(self) -> str:
        return f"SharedPlanes(number={self.number}, others={len(self._others)})"

    @property
    def table(self) -> RoutingTable:
        """The newest."""
        return self._table

    # ---- ports.DataPlanes --------------------

    def publish(self, table: RoutingTable) -> None:
        """Replace the table here, and have it posted to the others."""
        self.number += 1
        self._replace(replace(table, generation=self._table.generation + 1))
        self.published.set()

    def busy(self) -> Collection[Use]:
        """See ports.DataPlanes."""
        found = set(self._own.busy())
        for other in self.living():
            found.update(other.beat.busy)
            found.update(u for u, left in self._left.items() if left > other.beat.number)
        found.update(u for u, left in self._left.items() if left > self._confirmed)
        return found - self._uses

    async def drained(self) -> None:
        """See ports.DataPlanes."""
        before = set(self.busy())
        while before and before <= set(self.busy()):
            await self._something_drained()

    async def _something_drained(self) -> None:
        """Our own planes, or a word from the others."""
        heard = self._heard
        if not self._own.busy():
            await heard.wait()
            return
        async with asyncio.TaskGroup() as tasks:
            own = tasks.create_task(self._own.drained())
            others = tasks.create_task(heard.wait())
            await asyncio.wait((own, others), return_when=asyncio.FIRST_COMPLETED)
            own.cancel()
            others.cancel()

    def tallies(self, model: str) -> Mapping[Version, Sequence[int]]:
        """See ports.DataPlanes. Of gateways that are gone, too: what they have seen they have."""
        total: dict[Version, Tally] = {}
        said = [self._own.tallies(model), *self._counted_elsewhere(model)]
        for each in said:
            for version, tally in each.items():
                add(total.setdefault(version, empty()), tally)
        return total

    def agreement(self, model: str) -> AgreementTally | None:
        """See ports.DataPlanes."""
        window = self._window(model)
        told = (other.beat.agreed.get(model) for other in self._others)
        said = [
            self._own.agreement(model),
            *(each[1] for each in told if each and each[0] == window),
        ]
        total: AgreementTally | None = None
        for tally in said:
            if tally is not None:
                total = total or AgreementTally()
                agreement.add(total, tally)
        return total

    def demand(self, model: str) -> Demand:
        """See ports.DataPlanes. What gateways that are gone were asked stays in the sum, whose
        differences are averages."""
        total = self._own.demand(model)
        for each in (self._asked_before, *self._asked.values()):
            more = each.get(model, Demand())
            total = Demand(total.request_s + more.request_s, total.came + more.came)
        return total

    async def called(self) -> Collection[str]:
        """See ports.DataPlanes. Those of other gateways come as orders, to `call`."""
        await self._calling.wait()
        return self.calls()

    def call(self, models: Collection[str]) -> None:
        """Requests for these wait, at this gateway or at another."""
        self._calls.update(models)
        self._calling.set()

    def calls(self) -> set[str]:
        """What has called until now; who takes it sees to it."""
        self._calling.clear()
        calls, self._calls = self._calls, set()
        return calls

    async def hear_calls(self) -> None:
        """Of our own planes, once."""
        self.call(await self._own.called())

    def standings(self) -> Mapping[str, ReplicaStanding]:
        """See ports.DataPlanes. With this gateway's own planes: each gateway judges for itself."""
        return self._own.standings()

    def _counted_elsewhere(self, model: str) -> list[Mapping[Version, Sequence[int]]]:
        window = self._window(model)
        told = (other.beat.counted.get(model) for other in self._others)
        return [each[1] for each in told if each is not None and each[0] == window]

    def _window(self, model: str) -> int | None:
        """The one in which a rollout's step is counted now."""
        route = self._table.models.get(model)
        return None if route is None or route.canary is None else route.canary.window

    # ---- what is heard, and told --------------------

    def numbered(self) -> int:
        """A number for a post of the table as it is now, and of all before."""
        self.number += 1
        return self.number

    def rewind(self) -> None:
        """What has been published here may be known to nobody else, and there will be other posts
        of the same numbers: the next `take` is of all that is posted, and replaces everything."""
        self.number = self._confirmed = 0
        self._left = {}
        self._is_whole = False

    def used_replicas(self) -> set[str]:
        """All that somebody may be sending requests to."""
        return {replica for _, _, replica in {*self._uses, *self.busy()}}

    def take(self, postings: Mapping[str, Posting], number: int) -> bool:
        """Answer by what the leader has posted since our number. Whether anything was new."""
        if number <= self.number:
            return False
        before = self._table if self._is_whole else replace(self._table, models={}, silent=())
        self._is_whole = True
        self.number = number
        self._replace(applied(before, postings))
        return True

    def heard(self, others: Sequence[Heard], confirmed: int) -> None:
        """What the other gateways said, in a pulse that was asked for when everything up to the
        number `confirmed` had been stored."""
        self._others = others
        self._count_demand()
        self._confirmed = max(self._confirmed, confirmed)
        least = min((o.beat.number for o in self.living()), default=self._confirmed)
        least = min(least, self._confirmed)
        self._left = {use: left for use, left in self._left.items() if left > least}
        heard, self._heard = self._heard, asyncio.Event()
        heard.set()

    def _count_demand(self) -> None:
        for other in self._others:
            before = self._asked.get(other.beat.gateway, {})
            now = {name: Demand(*said) for name, said in other.beat.demand.items()}
            for name, was in before.items():
                if name not in now or now[name].came < was.came or now[name][0] < was[0]:
                    # It counts anew: it was started again, or the model was.
                    past = self._asked_before.get(name, Demand())
                    both = Demand(past.request_s + was.request_s, past.came + was.came)
                    self._asked_before[name] = both
            self._asked[other.beat.gateway] = now
        models = self._table.models
        self._asked_before = {n: d for n, d in self._asked_before.items() if n in models}

    def living(self) -> list[Heard]:
        """The others that have to be waited for."""
        return [o for o in self._others if not o.beat.has_left and o.silent_s < self._gone_s]

    def counted(self) -> dict[str, tuple[int, Mapping[Version, Sequence[int]]]]:
        """What our own planes have counted, for the others."""
        return {
            name: (route.canary.window, {v: list(t) for v, t in self._own.tallies(name).items()})
            for name, route in self._table.models.items()
            if route.canary is not None
        }

    def agreed(self) -> dict[str, tuple[int, AgreementTally]]:
        """What copies have shown here, for the others."""
        return {
            name: (route.canary.window, tally)
            for name, route in self._table.models.items()
            if route.canary is not None and (tally := self._own.agreement(name)) is not None
        }

    def asked(self) -> dict[str, tuple[float, int]]:
        """What our own planes were asked for, for the others."""
        scaled = [name for name, route in self._table.models.items() if route.is_scaled]
        asked = {name: self._own.demand(name) for name in scaled}
        return {name: (each.request_s, each.came) for name, each in asked.items()}

    def own_busy(self) -> tuple[Use, ...]:
        """What our own planes still use, for the others."""
        return tuple(sorted(self._own.busy()))

    def _replace(self, table: RoutingTable) -> None:
        old = self._table
        if old.generation and (table.models, table.silent) == (old.models, old.silent):
            return
        self._table = table
        uses = uses_of(table)
        self._left = {u: n for u, n in self._left.items() if u not in uses}
        self._left.update(dict.fromkeys(self._uses - uses, self.number))
        self._uses = uses
        self._own.publish(self._table)
