"""The parent's side of `--workers N`: it starts them, tells them the table, and knows what is busy.

A worker that dies is started again with backoff; the others answer meanwhile, because the kernel
spreads connections over those that listen (SO_REUSEPORT). The parent holds both ports bound, never
listening, so that they stay ours while no worker is up.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from gateway.core.route import RoutingTable
from gateway.dataplane.addresses import reserve, shown
from gateway.dataplane.fronts import background
from gateway.dataplane.inflight import Use
from gateway.dataplane.messages import (
    Busy,
    Channel,
    Failed,
    Publish,
    Refresh,
    Reload,
    ReloadDone,
    Serving,
    Start,
    ToParent,
    reload_failed,
)
from gateway.dataplane.settings import DataplaneSettings
from gateway.domain.errors import GatewayError, Overloaded, Unavailable, Unimplemented
from gateway.ports import Reloader
from gateway.telemetry import Metrics, log

WORKER_COMMAND = (sys.executable, "-m", "gateway", "worker")

_BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Before the first, second, … start of a worker that died young."""

_SETTLED_S = 30.0
"""A worker that lived this long has started well; the backoff begins anew."""

_START_S = 60.0
"""A worker imports and binds in about a second, several at once on a small machine in a few."""

_STOP_MARGIN_S = 5.0
_MAX_RELOADS = 4
"""Reloads of one worker under way at once. People send them one at a time."""


def _uses(table: RoutingTable) -> frozenset[Use]:
    return frozenset(
        (name, version, target.replica_id)
        for name, model in table.models.items()
        for version, targets in model.targets.items()
        for target in targets
    )


class _Worker:
    """One running worker, as the parent knows it."""

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel[ToParent]) -> None:
        self.process = process
        self.channel = channel
        self.is_serving = False
        self.sent: dict[int, frozenset[Use]] = {}
        """What the tables that it may be using name: the last it acknowledged, and later ones."""
        self.acknowledged = 0
        self.said_busy: frozenset[Use] = frozenset()
        self.reloads = 0

    def may_use(self, newest: frozenset[Use]) -> set[Use]:
        """Uses that the newest table does not name."""
        busy = set(self.said_busy)
        for uses in self.sent.values():
            busy |= uses
        return busy - newest

    def took(self, message: Busy) -> None:
        self.acknowledged = message.number
        self.said_busy = frozenset(message.uses)
        self.sent = {n: uses for n, uses in self.sent.items() if n >= message.number}


class WorkerPlanes:
    """ports.DataPlanes over worker processes."""

    def __init__(
        self,
        settings: DataplaneSettings,
        metrics: Metrics,
        reloader: Reloader | None,
        log_format: str,
        command: Sequence[str],
    ) -> None:
        self.http_address = settings.http
        self.grpc_address = settings.grpc
        self._settings = settings
        self._metrics = metrics
        self._reloader = reloader
        self._log_format = log_format
        self._command = command
        self._workers: set[_Worker] = set()
        self._table = RoutingTable()
        self._uses: frozenset[Use] = frozenset()
        self._number = 1
        self._changed = asyncio.Event()
        self._is_stopping = False
        self._trouble = ""

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
        """Start `workers` processes, wait until all of them listen, and stop them at the end."""
        http = reserve(settings.http, "--http", reuse_port=True)
        grpc: socket.socket | None = None
        try:
            grpc = reserve(settings.grpc, "--grpc", reuse_port=True)
            bound = replace(settings, http=shown(http), grpc=shown(grpc))
            planes = cls(bound, metrics, reloader, log_format, command)
            async with background() as tasks:
                for index in range(workers):
                    tasks.create_task(planes._supervise(index, tasks))
                try:
                    await planes._all_serving(workers)
                    yield planes
                finally:
                    planes._stop()
        finally:
            http.close()
            if grpc is not None:
                grpc.close()

    # ---- ports.DataPlanes --------------------

    def publish(self, table: RoutingTable) -> None:
        """Send the table to every worker that has taken the one before; the others get it when they
        have, so that at most two are under way to each."""
        self._table = table
        self._uses = _uses(table)
        self._number += 1
        for worker in self._workers:
            self._tell(worker)

    def busy(self) -> Collection[Use]:
        """What some worker may still use although the newest table does not name it."""
        found: set[Use] = set()
        for worker in self._workers:
            found |= worker.may_use(self._uses)
        return found

    def is_taken(self) -> bool:
        """Whether every worker answers by the newest table."""
        return all(w.acknowledged == self._number for w in self._workers)

    async def drained(self) -> None:
        """Wait until something that was busy is not any more, or nothing is."""
        before = set(self.busy())
        while before and before <= set(self.busy()):
            await self._changed.wait()

    # ---- inside --------------------

    def _tell(self, worker: _Worker) -> None:
        newest = max(worker.sent, default=0)
        if newest > worker.acknowledged or newest == self._number:
            return
        worker.sent[self._number] = self._uses
        worker.channel.send(Publish(self._number, self._table))

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _stop(self) -> None:
        self._is_stopping = True
        self._wake()
        for worker in self._workers:
            worker.channel.close()

    async def _all_serving(self, count: int) -> None:
        try:
            async with asyncio.timeout(_START_S):
                while sum(w.is_serving for w in self._workers) < count:
                    if self._trouble:
                        raise Unavailable(self._trouble, reason="worker_failed")
                    await self._changed.wait()
        except TimeoutError:
            raise Unavailable(
                f"The worker processes did not start within {_START_S:g} s; the machine may be "
                "overloaded. Try --workers 1.",
                reason="worker_failed",
            ) from None

    async def _supervise(self, index: int, tasks: asyncio.TaskGroup) -> None:
        """Keep one worker running until the planes stop."""
        loop = asyncio.get_running_loop()
        deaths = 0
        while not self._is_stopping:
            began_at = loop.time()
            worker = await self._spawn()
            self._workers.add(worker)
            try:
                await self._listen(worker, tasks)
            finally:
                self._workers.discard(worker)
                code = await self._end(worker)
                self._metrics.forget_process(worker.process.pid)
                self._wake()
            if self._is_stopping:
                return
            deaths = 0 if loop.time() - began_at > _SETTLED_S else deaths
            pause_s = _BACKOFF_S[min(deaths, len(_BACKOFF_S) - 1)]
            deaths += 1
            self._metrics.worker_restarts_total.inc()
            log.warning("worker.died", worker=index, code=code, restart_in_s=pause_s)
            self._trouble = self._trouble or f"A worker process ended at once with code {code}"
            self._wake()
            await self._sleep(pause_s)

    async def _sleep(self, seconds: float) -> None:
        """Until the time is over or the planes stop."""
        until = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(until):
                while not self._is_stopping:
                    await self._changed.wait()
        except TimeoutError:
            return

    async def _spawn(self) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    "--fd",
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    # A Ctrl-C is for the parent, who then stops its workers in order.
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        channel: Channel[ToParent] = await Channel.over(ours, ToParent)
        worker = _Worker(process, channel)
        directory = self._metrics.directory
        channel.send(
            Start(
                self._settings,
                "" if directory is None else str(directory),
                self._log_format,
                self._reloader is not None,
            )
        )
        self._tell(worker)
        return worker

    async def _listen(self, worker: _Worker, tasks: asyncio.TaskGroup) -> None:
        """Take a worker's messages until it is gone."""
        while (message := await worker.channel.receive()) is not None:
            match message:
                case Serving():
                    worker.is_serving = True
                    log.event("worker.serving", pid=worker.process.pid)
                    self._wake()
                case Busy():
                    worker.took(message)
                    self._tell(worker)
                    self._wake()
                case Reload():
                    tasks.create_task(self._reload(worker, message))
                case Refresh():
                    tasks.create_task(self._refresh(worker, message.model))
                case Failed():
                    self._trouble = message.message

    async def _reload(self, worker: _Worker, request: Reload) -> None:
        deadline_at = asyncio.get_running_loop().time() + request.timeout_s
        worker.reloads += 1
        try:
            if self._reloader is None:
                raise Unimplemented("Reloading is not offered", reason="reload_not_offered")
            if worker.reloads > _MAX_RELOADS:
                raise Overloaded(
                    "Other configurations are being applied; send one at a time",
                    reason="reloads_limit",
                )
            async with asyncio.timeout_at(deadline_at):
                body = await self._reloader.reload(request.body, deadline_at)
            answer = ReloadDone(request.number, body)
        except GatewayError as error:
            answer = reload_failed(request.number, error)
        except TimeoutError:
            return  # The worker has told its caller by the same deadline.
        finally:
            worker.reloads -= 1
        worker.channel.send(answer)

    async def _refresh(self, worker: _Worker, model: str) -> None:
        if self._reloader is None or worker.reloads >= _MAX_RELOADS:
            return  # What is lost is only that the source is looked at a little later.
        worker.reloads += 1
        try:
            await self._reloader.refresh(model)
        except GatewayError as error:
            log.warning("model.refresh_failed", model=model, cause=error.reason)
        finally:
            worker.reloads -= 1

    async def _end(self, worker: _Worker) -> int:
        """Let a worker drain, then make sure that it is gone."""
        worker.channel.close()
        try:
            async with asyncio.timeout(self._settings.drain_s + _STOP_MARGIN_S):
                return await worker.process.wait()
        except TimeoutError:
            log.warning("worker.killed", pid=worker.process.pid, cause="did not stop in time")
        except asyncio.CancelledError:
            worker.process.kill()
            raise
        worker.process.kill()
        return await worker.process.wait()
