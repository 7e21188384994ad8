"""Replicas that an earlier leader has left, beside those of this gateway's own scheduler.

A leader whose replicas are its own processes cannot hand them over. What the table still names
answers on as DRAINING: asked and routed to until as many replicas of the new leader hold the live
version (core/versions.py), and told nothing. Then nobody names it any more, and the gateway that
has it ends it (`retire`), or its leash does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence

from gateway.core.route import RoutingTable, is_of_side
from gateway.domain.replicas import CANARY_GROUP, Replica, ReplicaSet, ReplicaState
from gateway.ports import Scheduler


class InheritingScheduler:
    """ports.Scheduler: `own`, and what `table` names beyond it."""

    def __init__(self, own: Scheduler, table: RoutingTable) -> None:
        self._own = own
        self._inherited = {
            t.replica_id: Replica(
                t.replica_id,
                name,
                ReplicaState.DRAINING,
                endpoint=t.endpoint,
                # What a rollout has yet to prove must not answer as one of the model's own.
                group=CANARY_GROUP if is_of_side(route, t.replica_id) else "",
            )
            for name, route in table.models.items()
            for _, t in route.held()
        }
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"InheritingScheduler({self._own!r}, inherited={sorted(self._inherited)})"

    async def ensure(self, desired: Sequence[ReplicaSet]) -> None:
        """See ports.Scheduler."""
        await self._own.ensure(desired)

    def replicas(self) -> Sequence[Replica]:
        """See ports.Scheduler."""
        self._news.clear()
        own = list(self._own.replicas())
        known = {r.id for r in own}
        return [*own, *(r for r in self._inherited.values() if r.id not in known)]

    async def remove(self, replica_id: str) -> None:
        """See ports.Scheduler. One that was inherited is only forgotten."""
        if self._inherited.pop(replica_id, None) is not None:
            self._news.set()
        await self._own.remove(replica_id)

    async def changed(self) -> None:
        """See ports.Scheduler."""
        async with asyncio.TaskGroup() as tasks:
            waiting = (
                tasks.create_task(self._own.changed()),
                tasks.create_task(self._wait()),
            )
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()

    async def _wait(self) -> None:
        await self._news.wait()

    def logs(self, replica_id: str, *, follow: bool) -> AsyncIterator[bytes]:
        """See ports.Scheduler."""
        return self._own.logs(replica_id, follow=follow)


async def retire(own: Scheduler, used: Collection[str]) -> None:
    """Let a scheduler of one's own start nothing and end what nobody uses: what a gateway does that
    has led before another."""
    await own.ensure(())
    async with asyncio.TaskGroup() as tasks:
        for replica in own.replicas():
            if replica.state is ReplicaState.DRAINING and replica.id not in used:
                tasks.create_task(own.remove(replica.id))
