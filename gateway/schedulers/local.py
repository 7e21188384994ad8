"""Replicas as supervised processes on this machine.

Every replica is a session of its own that outlives the gateway: the next gateway adopts it by its
record, and without a next one its leash lets it go (servers/kit/leash.py). One task watches each
process from its start to its end; what to start and to drain is decided in core/placement.py.
"""

from __future__ import annotations

import asyncio
import os
import re
import string
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from gateway.core.placement import Assigned, Gpu, assign_gpus, plan
from gateway.domain.errors import NotFound
from gateway.domain.replicas import Replica, ReplicaSet, ReplicaState
from gateway.schedulers import logs
from gateway.schedulers.command import STATE_MARK
from gateway.schedulers.machine import find_gpus
from gateway.schedulers.process import Process, kill_strays
from gateway.schedulers.records import StateLock, read_record
from gateway.schedulers.settings import LocalSettings
from gateway.schedulers.supervision import Supervision
from gateway.schedulers.units import Unit
from gateway.telemetry import log

_LOOKING_FOR_GPUS = "the GPUs of this machine are still being counted"
_REPLICA_ID = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.\-]*)-[a-z]{5}")


class LocalScheduler:
    """ports.Scheduler on this machine. An async context manager; leaving it lets replicas run on
    for the next gateway, `stop_all` ends them.

    `environ` is what replicas inherit (storage credentials among it).

    Raises on entry:
        Conflict: the state directory belongs to another gateway (`state_in_use`).
        Unavailable: it cannot be written (`state_unwritable`).
    """

    def __init__(
        self,
        state: Path,
        settings: LocalSettings | None = None,
        *,
        environ: Mapping[str, str],
        rng: Random | None = None,
    ) -> None:
        self._state = state.absolute()
        self._settings = settings or LocalSettings()
        self._rng = rng or Random()
        self._units: dict[str, Unit] = {}
        self._desired: Mapping[tuple[str, str], ReplicaSet] | None = None
        """By model and group."""
        self._order = 0
        self._gpus: tuple[Gpu, ...] | None = None
        self._news = asyncio.Event()
        self._lock: StateLock | None = None
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._care = Supervision(self._state, self._settings, environ, self._rng, self._show)

    def __repr__(self) -> str:
        states = {u.id: str(u.replica.state) for u in self._units.values()}
        return f"LocalScheduler({self._state}, {states})"

    async def __aenter__(self) -> Self:
        self._lock = StateLock.take(self._state)
        for name in ("replicas", "ready", "logs", "cache"):
            (self._state / name).mkdir(exist_ok=True)
        await self._tasks.__aenter__()
        self._recover()
        self._spawn(self._find_gpus())
        self._spawn(self._keep_house())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for timer in self._timers:
            timer.cancel()
        for task in self._running:
            task.cancel()
        try:
            await self._tasks.__aexit__(kind, error, trace)
        finally:
            for unit in self._units.values():
                if unit.process is not None:
                    unit.process.forget()
            if self._lock is not None:
                self._lock.release()

    # ---- the port --------------------

    async def ensure(self, desired: Sequence[ReplicaSet]) -> None:
        """See ports.Scheduler."""
        self._desired = {(d.spec.name, d.group): d for d in desired}
        self._settle()

    def replicas(self) -> Sequence[Replica]:
        """See ports.Scheduler."""
        self._news.clear()
        return [u.replica for u in sorted(self._units.values(), key=lambda u: u.order)]

    async def changed(self) -> None:
        """See ports.Scheduler."""
        await self._news.wait()

    async def remove(self, replica_id: str) -> None:
        """See ports.Scheduler."""
        unit = self._units.get(replica_id)
        if unit is not None and unit.replica.state is ReplicaState.DRAINING:
            await self._end(unit)

    async def _end(self, unit: Unit) -> None:
        if not unit.leaving:
            self._leave(unit)
        if unit.process is not None:
            await unit.process.stop(self._settings.grace_s)
        await unit.gone.wait()

    def logs(self, replica_id: str, *, follow: bool) -> AsyncIterator[bytes]:
        """See ports.Scheduler."""
        match = _REPLICA_ID.fullmatch(replica_id)
        log = None if match is None else self._log_of(match[1], replica_id)
        if log is None or not log.exists():
            raise NotFound(
                f"There are no logs of a replica {replica_id!r}. `gateway get replicas` lists "
                "those that run; the logs of old ones are kept for a while only.",
                reason="replica_unknown",
            )
        return logs.read(log, follow=follow, is_running=lambda: replica_id in self._units)

    async def stop_all(self) -> None:
        """End every replica: SIGTERM, which lets them drain, then SIGKILL after the grace."""
        self._desired = {}
        async with asyncio.TaskGroup() as tasks:
            for unit in list(self._units.values()):
                tasks.create_task(self._end(unit))

    # ---- deciding --------------------

    def _settle(self) -> None:
        """Do what placement says now. Level-triggered."""
        if self._desired is None:
            return
        now = asyncio.get_running_loop().time()
        due = self._take_due(now)
        for unit in list(self._units.values()):
            if unit.group not in self._desired:
                self._drain(unit)
        for group, desired in self._desired.items():
            existing = [u.existing() for u in self._of(group)]
            step = plan(desired.wanted, desired.template, existing, self._settings.surge)
            for replica_id in step.keep:
                self._keep(self._units[replica_id])
            for replica_id in step.drain:
                self._drain(self._units[replica_id])
            heirs = [u for u in due if u.group == group]
            for _ in range(step.start):
                self._begin(desired, heirs.pop(0) if heirs else None)

    def _of(self, group: tuple[str, str]) -> list[Unit]:
        return [u for u in self._units.values() if u.group == group]

    def _take_due(self, now: float) -> list[Unit]:
        """Failed units whose time to try again has come; new replicas take their places."""
        due = [u for u in self._units.values() if u.retry_at is not None and u.retry_at <= now]
        for unit in due:
            self._forget(unit)
        return due

    def _begin(self, desired: ReplicaSet, before: Unit | None) -> None:
        """Start one replica, in place of `before` where that is given."""
        spec = desired.spec
        used: dict[str, int] = {}
        for gpu in (g for u in self._units.values() if u.retry_at is None for g in u.replica.gpus):
            used[gpu] = used.get(gpu, 0) + 1
        need, product = spec.resources.gpus, spec.resources.gpu_type
        got = Assigned(lacking=_LOOKING_FOR_GPUS)
        if self._gpus is not None or need == 0:
            per_gpu = self._settings.replicas_per_gpu
            got = assign_gpus(need, product, self._gpus or (), used, per_gpu)
        self._order += 1
        replica_id = self._new_id(spec.name)
        unit = Unit(
            Replica(
                id=replica_id,
                model=spec.name,
                state=ReplicaState.STARTING,
                template=desired.template,
                group=desired.group,
                gpus=got.gpus,
                restarts=before.replica.restarts + 1 if before and before.failures else 0,
                started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            ),
            self._order,
            self._log_of(spec.name, replica_id),
            spec=spec,
            after=spec.after,
            failures=before.failures if before else 0,
        )
        self._units[unit.id] = unit
        if got.lacking:
            self._fail(unit, got.lacking, self._settings.housekeeping_s)
            self._make_room(desired)
        else:
            self._spawn(self._supervise(unit))
        self._news.set()

    def _make_room(self, desired: ReplicaSet) -> None:
        """No GPU is free for a surge: one of the group's old template goes first."""
        group = self._of((desired.spec.name, desired.group))
        active = [u for u in group if not u.leaving]
        if self._gpus is None or any(u.replica.state is ReplicaState.DRAINING for u in active):
            return
        old = [u for u in active if u.replica.template != desired.template and u.replica.gpus]
        if old:
            self._drain(old[0], "its GPUs are needed by its replacement")

    def _drain(self, unit: Unit, reason: str = "") -> None:
        if unit.retry_at is not None:
            self._forget(unit)
            unit.gone.set()
        elif unit.replica.state is not ReplicaState.DRAINING:
            self._show(unit, replace(unit.replica, state=ReplicaState.DRAINING, reason=reason))

    def _keep(self, unit: Unit) -> None:
        """It is needed after all; it listens still."""
        self._show(unit, replace(unit.replica, state=ReplicaState.LOADING, reason=""))

    def _leave(self, unit: Unit) -> None:
        """Make its end expected, and end what is not its process yet."""
        unit.leaving = True
        if unit.retry_at is not None:
            self._forget(unit)
            unit.gone.set()
        elif unit.hook is not None:
            unit.hook.kill_session()

    # ---- doing --------------------

    async def _supervise(self, unit: Unit) -> None:
        """From start to end of one replica."""
        reason = await self._care.live(unit)
        now = asyncio.get_running_loop().time()
        delay_s = self._care.restart_delay_s(unit, now)
        await self._care.after(unit)
        self._care.tidy(unit)
        if unit.leaving or unit.replica.state is ReplicaState.DRAINING:
            self._forget(unit)
            unit.gone.set()
        else:
            log.warning("replica.failed", replica=unit.id, reason=reason)
            self._fail(unit, reason, delay_s)
        self._settle()

    def _fail(self, unit: Unit, reason: str, delay_s: float) -> None:
        """Show it as FAILED and come back after `delay_s`."""
        loop = asyncio.get_running_loop()
        unit.retry_at = loop.time() + delay_s
        unit.process = None
        self._show(
            unit,
            replace(
                unit.replica, state=ReplicaState.FAILED, reason=reason, endpoint=None, pid=None
            ),
        )
        # A little late, so that the comparison with the clock cannot miss its own moment.
        timer = loop.call_later(delay_s + 0.005, self._settle)
        self._timers = {t for t in self._timers if not t.cancelled() and t.when() > loop.time()}
        self._timers.add(timer)

    def _show(self, unit: Unit, shown: Replica) -> None:
        """Change what others see of a unit, and what the next gateway will."""
        unit.replica = shown
        self._care.keep_record(unit)
        self._news.set()
        if shown.state is ReplicaState.LOADING:
            # Something listens that did not: an old one may go.
            asyncio.get_running_loop().call_soon(self._settle)

    def _forget(self, unit: Unit) -> None:
        if self._units.pop(unit.id, None) is not None:
            self._news.set()

    async def _find_gpus(self) -> None:
        """nvidia-smi may take seconds; nobody waits for it but replicas that need a GPU."""
        self._gpus = await find_gpus(self._settings.gpus)
        for unit in self._units.values():
            if unit.replica.reason == _LOOKING_FOR_GPUS:
                unit.retry_at = 0.0
        self._settle()

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(self._settings.housekeeping_s)
            for unit in self._units.values():
                logs.bound(unit.log, self._settings.log_bytes)
            for directory in (self._state / "logs").iterdir():
                logs.forget_old(directory, self._settings.kept_logs, self._units.__contains__)

    def _recover(self) -> None:
        """Adopt the replicas that an earlier gateway left, and end what has lost its record."""
        for path in sorted((self._state / "replicas").glob("*.json")):
            record = read_record(path)
            process = None if record is None else Process.adopt(record.process)
            if record is None or process is None:
                path.unlink(missing_ok=True)
                (self._state / "ready" / path.name).unlink(missing_ok=True)
                continue
            self._order = max(self._order, record.order)
            unit = self._care.adopted(record, process, self._log_of(record.model, record.id))
            self._units[unit.id] = unit
            self._spawn(self._supervise(unit))
        sessions = {u.process.pid for u in self._units.values() if u.process is not None}
        for pid in kill_strays(STATE_MARK, str(self._state), sessions | {os.getsid(0)}):
            log.warning("replica.stray_killed", pid=pid)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._tasks.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _log_of(self, model: str, replica_id: str) -> Path:
        return self._state / "logs" / model / f"{replica_id}.log"

    def _new_id(self, model: str) -> str:
        while True:
            replica_id = f"{model}-{''.join(self._rng.choices(string.ascii_lowercase, k=5))}"
            if replica_id not in self._units and not self._log_of(model, replica_id).exists():
                return replica_id
