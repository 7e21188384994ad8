"""The parent's side of `--workers N`: it starts them, tells them the table, and knows what is busy.

Every worker has a slot with listening sockets of its own, between which the kernel spreads
connections (SO_REUSEPORT). The parent holds all of these sockets for as long as it runs and hands
all of them to every worker, which accepts on those that it is told to: its slot's, and those of
slots whose worker has died or has not started yet. So no connection is lost that nobody has
accepted, and none waits for longer than it takes to notice.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import chain, count

from gateway.core.autoscale import Demand
from gateway.core.route import RoutingTable, uses_of
from gateway.dataplane.addresses import close_all, listening, shown
from gateway.dataplane.certificates import certificate_files
from gateway.dataplane.demand import summed as total
from gateway.dataplane.fronts import background
from gateway.dataplane.inflight import Use
from gateway.dataplane.messages import (
    Busy,
    Called,
    Counted,
    Demanded,
    Failed,
    Leaving,
    Refresh,
    Reload,
    Serving,
    Start,
    ToParent,
)
from gateway.dataplane.relay import Relay
from gateway.dataplane.settings import DataplaneSettings
from gateway.dataplane.slots import Slot, shares
from gateway.dataplane.split_counts import (
    Shadowed,
    Window,
    current,
    summed,
    summed_agreement,
)
from gateway.dataplane.standings import merged
from gateway.dataplane.worker_process import WorkerProcess
from gateway.domain.agreement import AgreementTally
from gateway.domain.errors import Unavailable
from gateway.domain.names import Version
from gateway.domain.replicas import ReplicaStanding
from gateway.ports import Reloader
from gateway.telemetry import Metrics, log

WORKER_COMMAND = (sys.executable, "-m", "gateway", "worker")

_BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Before the first, second, … start of a worker that died young."""

_SETTLED_S = 30.0
"""A worker that lived this long has started well; the backoff begins anew."""

_START_S = 60.0
"""A worker imports and begins in about a second, several at once on a small machine in a few."""


class WorkerPlanes:
    """ports.DataPlanes over worker processes."""

    def __init__(
        self,
        settings: DataplaneSettings,
        slots: Sequence[Slot],
        metrics: Metrics,
        reloader: Reloader | None,
        log_format: str,
        command: Sequence[str],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.http_address = settings.http
        self.grpc_address = settings.grpc
        self._settings = settings
        self._slots = slots
        self._metrics = metrics
        self._relay = Relay(reloader)
        self._log_format = log_format
        self._command = command
        self._tasks = tasks
        self._workers: set[WorkerProcess] = set()
        """All that live, those included that have been told to leave."""
        self._names = count(1)
        self._free_names: list[str] = []
        """Of workers that have ended. Taken again, so that there are no more files of metrics than
        there were workers at a time."""
        self._table = RoutingTable()
        self._uses: frozenset[Use] = frozenset()
        self._departed: list[Mapping[str, Window]] = []
        """What workers that are gone have counted, for rollouts of the newest table."""
        self._past: dict[str, Demand] = {}
        """What was asked of workers that are gone."""
        self._calls: set[str] = set()
        self._calling = asyncio.Event()
        self._departed_shadows: list[Mapping[str, Shadowed]] = []
        self._number = 1
        self._changed = asyncio.Event()
        self._is_stopping = False
        self._trouble = ""
        self._reloading = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: DataplaneSettings,
        workers: int,
        metrics: Metrics,
        reloader: Reloader | None,
        log_format: str,
        command: Sequence[str],
    ) -> AsyncIterator[WorkerPlanes]:
        """Start `workers` processes, wait until all of them serve, and stop them at the end."""
        http = listening(settings.http, "--http", workers)
        grpc: list[socket.socket] = []
        try:
            grpc = listening(settings.grpc, "--grpc", workers)
            bound = replace(settings, http=shown(http[0]), grpc=shown(grpc[0]))
            slots = [Slot(i, pair) for i, pair in enumerate(zip(http, grpc, strict=True))]
            async with background() as tasks:
                planes = cls(bound, slots, metrics, reloader, log_format, command, tasks)
                for slot in slots:
                    tasks.create_task(planes._keep(slot))
                try:
                    await planes._all_serving()
                    yield planes
                finally:
                    planes._stop()
                    # Here, not at the end of the block above: that would cancel what drains them.
                    await planes._until(lambda: not planes._workers)
        finally:
            close_all(http)
            close_all(grpc)

    # ---- ports.DataPlanes --------------------

    def publish(self, table: RoutingTable) -> None:
        """Send the table to every worker that has taken the one before; the others get it when they
        have."""
        self._table = table
        self._departed = [left for each in self._departed if (left := current(each, table))]
        self._past = {n: d for n, d in self._past.items() if n in table.models}
        self._departed_shadows = [
            kept for each in self._departed_shadows if (kept := current(each, table))
        ]
        self._uses = uses_of(table)
        self._number += 1
        for worker in self._workers:
            worker.tell(self._number, table, self._uses)

    def busy(self) -> Collection[Use]:
        """What some worker may still use although the newest table does not name it."""
        found: set[Use] = set()
        for worker in self._workers:
            found |= worker.may_use(self._uses)
        return found

    def tallies(self, model: str) -> Mapping[Version, Sequence[int]]:
        """See ports.DataPlanes."""
        said = [*self._departed, *(worker.counted for worker in self._workers)]
        return summed(model, [current(each, self._table) for each in said])

    def standings(self) -> Mapping[str, ReplicaStanding]:
        """See ports.DataPlanes."""
        serving = [worker.standings for worker in self._workers if worker.is_serving]
        return merged(serving)

    def demand(self, model: str) -> Demand:
        """See ports.DataPlanes."""
        asked = [worker.demand.get(model, Demand()) for worker in self._workers]
        return total([self._past.get(model, Demand()), *asked])

    async def called(self) -> Collection[str]:
        """See ports.DataPlanes."""
        await self._calling.wait()
        self._calling.clear()
        calls, self._calls = self._calls, set()
        return calls

    def agreement(self, model: str) -> AgreementTally | None:
        """See ports.DataPlanes."""
        said = [*self._departed_shadows, *(worker.shadowed for worker in self._workers)]
        return summed_agreement(model, [current(each, self._table) for each in said])

    def is_taken(self) -> bool:
        """Whether every worker answers by the newest table."""
        return all(w.acknowledged == self._number for w in self._workers)

    async def drained(self) -> None:
        """Wait until something that was busy is not any more, or nothing is."""
        before = set(self.busy())
        while before and before <= set(self.busy()):
            await self._changed.wait()

    # ---- for an operator --------------------

    async def reload(self) -> None:
        """Replace every worker, one after the other: the next one serves before the one before it
        is told to leave, and has ended before the one after it is started.

        Raises:
            InvalidRequest: the certificate files cannot be used; no worker is replaced.
            Unavailable: a new worker did not start (`worker_failed`). The one that it was to
                replace stays, as do those after it.
        """
        certificate_files(self._settings)
        async with self._reloading:
            for slot in self._slots:
                if self._is_stopping:
                    return
                await self._replace(slot)
        log.event("workers.replaced", count=len(self._slots))

    async def _replace(self, slot: Slot) -> None:
        async with slot.filling:
            try:
                successor = await self._spawn(slot)
            except OSError as error:
                raise _did_not_start(str(error)) from error
            try:
                async with asyncio.timeout(_START_S):
                    await self._until(lambda: successor.is_serving or successor.is_gone)
            except TimeoutError:
                successor.kill("did not start in time")
                raise _did_not_start(f"it took longer than {_START_S:g} s") from None
            if not successor.is_serving:
                if self._is_stopping:
                    return
                raise _did_not_start(successor.trouble or f"it ended with code {successor.code}")
            old, slot.worker = slot.worker, successor
        self._assign()
        if old is not None:
            old.leave(self._settings.drain_s)
            await self._until(lambda: old.is_gone)

    # ---- inside --------------------

    def _assign(self) -> None:
        """Have every connection accepted by somebody."""
        serving = {
            slot.index: slot.worker
            for slot in self._slots
            if slot.worker is not None and slot.worker.is_serving
        }
        for index, slots in shares(len(self._slots), serving).items():
            serving[index].accept(slots)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _stop(self) -> None:
        self._is_stopping = True
        self._wake()
        for worker in self._workers:
            worker.channel.close()

    async def _all_serving(self) -> None:
        def are_serving() -> bool:
            return all(s.worker is not None and s.worker.is_serving for s in self._slots)

        try:
            async with asyncio.timeout(_START_S):
                await self._until(lambda: bool(self._trouble) or are_serving())
        except TimeoutError:
            self._trouble = (
                f"The worker processes did not start within {_START_S:g} s; the machine may be "
                "overloaded. Try --workers 1."
            )
        if self._trouble:
            raise Unavailable(self._trouble, reason="worker_failed")

    async def _keep(self, slot: Slot) -> None:
        """Keep a slot filled until the planes stop."""
        loop = asyncio.get_running_loop()
        deaths = 0
        while not self._is_stopping:
            began_at = loop.time()
            cause = await self._vacated(slot)
            if cause is None or self._is_stopping:
                continue
            deaths = 0 if loop.time() - began_at > _SETTLED_S else deaths
            pause_s = _BACKOFF_S[min(deaths, len(_BACKOFF_S) - 1)]
            deaths += 1
            self._metrics.worker_restarts_total.inc()
            log.warning("worker.died", worker=slot.index, cause=cause, restart_in_s=pause_s)
            self._trouble = self._trouble or f"A worker process ended at once: {cause}"
            self._wake()
            await self._sleep(pause_s)

    async def _vacated(self, slot: Slot) -> str | None:
        """See to it that the slot is filled, and wait until it needs to be again; returns why,
        where that is a failure."""
        async with slot.filling:
            if slot.worker is None:
                try:
                    slot.worker = await self._spawn(slot)
                except OSError as error:
                    return f"it could not be started: {error}"
            worker = slot.worker
        await self._until(lambda: worker.is_gone or worker.is_leaving or slot.worker is not worker)
        if slot.worker is not worker:
            return None
        slot.worker = None
        return None if worker.is_leaving else f"it ended with code {worker.code}"

    async def _sleep(self, seconds: float) -> None:
        """Until the time is over or the planes stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._until(lambda: self._is_stopping)

    async def _spawn(self, slot: Slot) -> WorkerProcess:
        sockets = [[sock.fileno() for sock in each.sockets] for each in self._slots]
        name = self._free_names.pop() if self._free_names else str(next(self._names))
        try:
            worker = await WorkerProcess.spawn(
                self._command, chain.from_iterable(sockets), name, slot.index
            )
        except BaseException:
            self._free_names.append(name)
            raise
        directory = self._metrics.directory
        worker.channel.send(
            Start(
                settings=self._settings,
                sockets=sockets,
                slot=slot.index,
                process=name,
                metrics_dir="" if directory is None else str(directory),
                log_format=self._log_format,
                takes_reloads=self._relay.is_offered,
            )
        )
        worker.tell(self._number, self._table, self._uses)
        self._workers.add(worker)
        self._tasks.create_task(self._live(worker))
        if self._is_stopping:
            worker.channel.close()
        return worker

    async def _live(self, worker: WorkerProcess) -> None:
        """Take a worker's messages until it is gone, and clear up after it."""
        try:
            while (message := await worker.channel.receive()) is not None:
                self._took(worker, message)
        finally:
            worker.is_serving = False
            self._assign()
            await worker.ended(self._settings.drain_s)
            self._workers.discard(worker)
            if left := current(worker.counted, self._table):
                self._departed.append(left)
            for name, asked in worker.demand.items():
                if name in self._table.models:
                    self._past[name] = total([self._past.get(name, Demand()), asked])
            if gone := current(worker.shadowed, self._table):
                self._departed_shadows.append(gone)
            self._metrics.forget_process(worker.name)
            self._free_names.append(worker.name)
            self._wake()

    def _took(self, worker: WorkerProcess, message: ToParent) -> None:
        match message:
            case Serving():
                worker.is_serving = True
                log.event("worker.serving", pid=worker.pid)
                self._assign()
                self._wake()
            case Leaving():
                worker.is_serving, worker.is_leaving = False, True
                worker.expect_end(self._settings.drain_s)
                log.event("worker.leaving", pid=worker.pid)
                self._assign()
                self._wake()
            case Busy():
                worker.took(message)
                worker.tell(self._number, self._table, self._uses)
                self._wake()
            case Counted():
                worker.counted, worker.shadowed = message.windows, message.shadows
                worker.standings = message.standings
            case Demanded():
                worker.demand |= {n: Demand(*said) for n, said in message.models.items()}
            case Called():
                self._calls.update(message.models)
                self._calling.set()
            case Failed():
                worker.trouble = self._trouble = message.message
            case Reload():
                self._tasks.create_task(self._relay.reload(worker, message))
            case Refresh():
                self._tasks.create_task(self._relay.refresh(worker, message))


def _did_not_start(why: str) -> Unavailable:
    return Unavailable(f"A new worker did not start: {why}", reason="worker_failed")
