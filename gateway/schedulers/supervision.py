"""The life of one process: hooks, start, listening, end, and its record on disk."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

from gateway.core.placement import STEADY_S, restart_delay_s
from gateway.domain.errors import GatewayError
from gateway.domain.models import Backend
from gateway.domain.replicas import Endpoint, Replica, ReplicaState
from gateway.schedulers.command import Launch, argv, environment
from gateway.schedulers.machine import free_ports, is_listening
from gateway.schedulers.process import Process
from gateway.schedulers.records import (
    ReplicaRecord,
    read_ready_file,
    write_record,
)
from gateway.schedulers.settings import LocalSettings
from gateway.schedulers.units import Unit
from gateway.telemetry import log


class Supervision:
    """Brings one unit after another through its life. `show` tells others of a change."""

    def __init__(
        self,
        state: Path,
        settings: LocalSettings,
        environ: Mapping[str, str],
        rng: Random,
        show: Callable[[Unit, Replica], None],
    ) -> None:
        self._state = state
        self._settings = settings
        self._environ = dict(environ)
        self._rng = rng
        self._show = show

    async def live(self, unit: Unit) -> str:
        """Start it unless it runs already, and wait for its end; return why it ended."""
        if unit.process is None:
            reason = await self._start(unit)
            if reason or unit.process is None:
                return reason
        process = unit.process
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._until_listening(unit, process))
            code = await process.ended()
            watching.cancel()
        return unit.why_it_ended(code)

    async def _start(self, unit: Unit) -> str:
        """Run the `before` hook and start the process. Returns why not, or nothing."""
        spec = unit.spec
        if spec is None:
            return "was adopted without a process"
        try:
            unit.log.parent.mkdir(parents=True, exist_ok=True)
            if spec.backend is Backend.CUSTOM:
                http, grpc = free_ports(2)
                unit.ports = (http, grpc)
            launch = Launch(
                unit.id, spec, self._state, unit.replica.gpus, unit.ports, self._settings
            )
            command = argv(launch, lambda name: shutil.which(name, path=self._environ.get("PATH")))
            env = environment(launch, self._environ)
            if spec.before and (failed := await self._hook(unit, "before", spec.before, env)):
                return failed
            if unit.leaving:
                return "was removed before it started"
            launch.ready_file.unlink(missing_ok=True)
            unit.process = Process.start(command, env, unit.log)
        except GatewayError as error:
            return error.message
        except OSError as error:
            return f"cannot be started: {error}"
        self._show(unit, replace(unit.replica, pid=unit.process.pid))
        return ""

    async def _hook(self, unit: Unit, name: str, command: str, env: Mapping[str, str]) -> str:
        """Run a hook in a shell, its output in the replica's log. Returns why it failed."""
        with unit.log.open("a") as log:
            log.write(f"[{name}] {command}\n")
        hook = unit.hook = Process.start(["/bin/sh", "-c", command], env, unit.log)
        try:
            async with asyncio.timeout(self._settings.hook_s):
                code = await hook.ended()
        except TimeoutError:
            hook.kill_session()
            await hook.ended()
            return f"its {name} command took longer than {self._settings.hook_s:g} s: {command}"
        finally:
            unit.hook = None
        if code == 0:
            return ""
        unit.verdict = f"its {name} command failed with code {code}"
        return unit.why_it_ended(code)

    async def after(self, unit: Unit) -> None:
        """Run the `after` hook. Its failure changes nothing but the log."""
        if not unit.after or unit.process is None:
            return
        try:
            failed = await self._hook(unit, "after", unit.after, self._environ)
        except OSError as error:
            failed = str(error)
        if failed:
            log.warning("replica.after_failed", replica=unit.id, reason=failed)

    async def _until_listening(self, unit: Unit, process: Process) -> None:
        """Show the endpoint once there is one; end a process that never listens."""
        loop = asyncio.get_running_loop()
        if unit.replica.endpoint is not None:
            unit.up_at = loop.time()
            return
        until = loop.time() + self._settings.startup_s
        endpoint = None
        while endpoint is None and loop.time() < until:
            try:
                endpoint = await self._listening(unit)
            except ValueError as error:
                unit.verdict = f"said its addresses in a way that cannot be read: {error}"
                break
            if endpoint is None:
                await asyncio.sleep(self._settings.ready_poll_s)
        if endpoint is None:
            unit.verdict = (
                unit.verdict or f"did not listen within {self._settings.startup_s:g} s of its start"
            )
            process.kill_session()
            return
        unit.up_at = loop.time()
        draining = unit.replica.state is ReplicaState.DRAINING
        state = ReplicaState.DRAINING if draining else ReplicaState.LOADING
        self._show(unit, replace(unit.replica, state=state, endpoint=endpoint))

    async def _listening(self, unit: Unit) -> Endpoint | None:
        http, grpc = unit.ports
        if not http:
            return read_ready_file(self._state / "ready" / f"{unit.id}.json")
        # A program of one's own writes no ready file: it is ready when it accepts connections, on
        # the ports that its command names.
        for port in self._promised(unit):
            if not await is_listening(port):
                return None
        at = f"127.0.0.1:{grpc}"
        return Endpoint(http=f"127.0.0.1:{http}", grpc=at, control=at)

    def _promised(self, unit: Unit) -> list[int]:
        if unit.spec is None:
            return list(unit.ports)
        words = " ".join(unit.spec.command)
        named = {"{http_port}": unit.ports[0], "{grpc_port}": unit.ports[1]}
        return [port for name, port in named.items() if name in words]

    # ---- records --------------------

    def restart_delay_s(self, unit: Unit, now: float) -> float:
        """Count this failure and say how long to wait."""
        steady = unit.up_at is not None and now - unit.up_at >= STEADY_S
        unit.failures = 1 if steady else unit.failures + 1
        return restart_delay_s(unit.failures, self._rng)

    def keep_record(self, unit: Unit) -> None:
        """Write what the next gateway needs to adopt it."""
        if unit.process is None or unit.process.has_ended:
            return
        shown = unit.replica
        record = ReplicaRecord(
            id=unit.id,
            model=shown.model,
            template=shown.template,
            process=unit.process.identity,
            endpoint=shown.endpoint,
            ports=unit.ports,
            gpus=shown.gpus,
            restarts=shown.restarts,
            started_at=shown.started_at,
            order=unit.order,
            after=unit.after,
            draining=shown.state is ReplicaState.DRAINING,
            group=shown.group,
        )
        try:
            write_record(self._state / "replicas", record)
        except OSError as error:
            # It runs and answers; only a restart of the gateway would replace instead of adopt it.
            log.warning("replica.record_failed", replica=unit.id, cause=error)

    def adopted(self, record: ReplicaRecord, process: Process, log: Path) -> Unit:
        """A unit for a process that an earlier gateway started."""
        state = ReplicaState.STARTING if record.endpoint is None else ReplicaState.LOADING
        return Unit(
            Replica(
                id=record.id,
                model=record.model,
                state=ReplicaState.DRAINING if record.draining else state,
                endpoint=record.endpoint,
                template=record.template,
                group=record.group,
                pid=process.pid,
                gpus=record.gpus,
                restarts=record.restarts,
                started_at=record.started_at,
            ),
            record.order,
            log,
            after=record.after,
            process=process,
            ports=record.ports,
        )

    def tidy(self, unit: Unit) -> None:
        """Delete what is on disk of a replica that has ended; its log stays."""
        (self._state / "replicas" / f"{unit.id}.json").unlink(missing_ok=True)
        (self._state / "ready" / f"{unit.id}.json").unlink(missing_ok=True)
