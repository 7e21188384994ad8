"""The composition root: the one place that names adapter classes and ties the rooms together.

What starts first stops last: state directory, store, control API's service, data planes, lifecycle.
A stop (SIGTERM, Ctrl-C) finishes the requests under way, then ends the replicas; a second signal
ends the process at once, and the replicas' leashes let them go.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from gateway import __version__, config
from gateway.control.api import ControlApi
from gateway.control.events import EventLog
from gateway.control.service import ModelsService
from gateway.core.route import ModelRoute, RoutingTable
from gateway.dataplane import DataplaneSettings
from gateway.dataplane.planes import OpenPlanes, open_planes
from gateway.domain.errors import GatewayError, Unavailable
from gateway.domain.models import ModelRecord
from gateway.lifecycle import Lifecycle, LifecycleSettings
from gateway.ports import Reloader, Store
from gateway.schedulers import LocalScheduler, LocalSettings
from gateway.sources import ObjectSource, SourceSettings
from gateway.store import open_store
from gateway.telemetry import LogFormat, Metrics, configure_logging, log
from gateway.upstream import GrpcUpstream, HttpUpstream
from gateway.upstream.replica_control import GrpcReplicaControl
from gateway.upstream.signatures import ReplicaSignatures


def main(flags: Mapping[str, Any], config_file: Path | None = None) -> int:
    """Run one gateway until it is told to stop; returns the exit code (see `gateway serve`)."""
    try:
        settings = config.load(flags, config_file)
        configure_logging(cast(LogFormat, settings.log_format))
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(settings))
    except GatewayError as error:
        return _refused(error)
    except BaseExceptionGroup as group:
        ours = _first_of_ours(group)
        if ours is None:
            raise
        return _refused(ours)
    return 0


def worker(argv: list[str]) -> int:
    """`gateway worker`: one of the processes of `--workers N`."""
    from gateway.dataplane.worker import main as run

    return run(argv, _upstreams)


class LoopClock:
    """ports.Clock of the running loop."""

    def now(self) -> float:
        """Monotonic seconds."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """As asyncio.sleep."""
        await asyncio.sleep(seconds)


class _Later:
    """ports.Reloader for fronts that open before there is a service behind it."""

    def __init__(self) -> None:
        self.reloader: Reloader | None = None

    async def reload(self, request: bytes, deadline_at: float) -> bytes:
        if self.reloader is None:
            raise Unavailable("The gateway is starting", reason="starting", retry_after_s=1.0)
        return await self.reloader.reload(request, deadline_at)

    async def refresh(self, name: str) -> None:
        if self.reloader is not None:
            await self.reloader.refresh(name)


async def _serve(settings: config.Settings) -> None:
    stop = _stop_signals()
    state = settings.state_dir
    scheduler = LocalScheduler(
        state,
        LocalSettings(
            orphan_grace_s=settings.orphan_grace_s,
            cache_bytes=settings.cache_bytes,
            max_body_bytes=settings.max_body_bytes,
            log_format=settings.log_format,
            v2_flavour=settings.v2_flavour,
        ),
        environ=os.environ,
    )
    async with scheduler, _store(state) as store, _metrics(state, settings.workers) as metrics:
        known = _known(await store.models())
        later = _Later()
        async with _planes(settings, metrics, later) as planes:
            planes.publish(known)
            await _run(settings, stop, scheduler, store, metrics, planes, later)
        if stop.is_set():
            log.event("gateway.stopping", replicas=len(scheduler.replicas()))
            await scheduler.stop_all()
    log.event("gateway.stopped")


async def _run(
    settings: config.Settings,
    stop: asyncio.Event,
    scheduler: LocalScheduler,
    store: Store,
    metrics: Metrics,
    planes: OpenPlanes,
    later: _Later,
) -> None:
    """Reconcile and answer the control API until `stop`."""
    clock, events = LoopClock(), EventLog(store)
    source = ObjectSource(clock, SourceSettings(settle_s=settings.settle_s))
    control = GrpcReplicaControl()
    lifecycle = Lifecycle(
        store=store,
        source=source,
        scheduler=scheduler,
        control=control,
        planes=planes,
        emit=events.emit,
        clock=clock,
        settings=LifecycleSettings(poll_s=settings.poll_s),
        metrics=metrics,
    )
    asked_http, asked_grpc = _upstreams()
    service = later.reloader = ModelsService(
        store,
        source,
        lifecycle,
        scheduler,
        events,
        signatures=ReplicaSignatures(lifecycle, asked_http, asked_grpc),
    )
    addresses = {"http": planes.http_address, "grpc": planes.grpc_address, "control": ""}
    api = ControlApi(service, addresses=lambda: addresses, metrics=metrics.render)
    host, port = config.split_address(settings.control, "--control")
    try:
        async with api.listening(host, port) as bound, asyncio.TaskGroup() as tasks:
            addresses["control"] = bound
            reconciling = tasks.create_task(lifecycle.run())
            with _announced(settings.state_dir, addresses):
                log.event(
                    "gateway.serving",
                    version=__version__,
                    pid=os.getpid(),
                    http=addresses["http"],
                    grpc=addresses["grpc"],
                    control=bound,
                )
                await stop.wait()
            reconciling.cancel()
    finally:
        for connections in (control, asked_http, asked_grpc):
            await connections.aclose()


@asynccontextmanager
async def _planes(
    settings: config.Settings, metrics: Metrics, reloader: Reloader
) -> AsyncIterator[OpenPlanes]:
    dataplane = DataplaneSettings(
        http=settings.http,
        grpc=settings.grpc,
        max_body_bytes=settings.max_body_bytes,
        v2_flavour=settings.v2_flavour,
    )
    async with open_planes(
        dataplane,
        upstreams=_upstreams,
        metrics=metrics,
        reloader=reloader,
        workers=settings.workers,
        log_format=settings.log_format,
    ) as planes:
        yield planes


def _known(records: Sequence[ModelRecord]) -> RoutingTable:
    """The table of a gateway that has just started: every model is known, none can answer yet. So
    callers are told to come again (503), and not that there is no such model (404)."""
    return RoutingTable(
        models={
            r.spec.name: ModelRoute(
                name=r.spec.name,
                live=r.live_version,
                timeout_s=r.spec.timeout_s,
                in_flight_limit=r.spec.in_flight_limit,
                backend=str(r.spec.backend),
                speaks=r.spec.speaks,
            )
            for r in records
        }
    )


def _upstreams() -> tuple[HttpUpstream, GrpcUpstream]:
    return HttpUpstream(), GrpcUpstream()


@asynccontextmanager
async def _store(state: Path) -> AsyncIterator[Store]:
    store = await open_store(state)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def _metrics(state: Path, workers: int) -> AsyncIterator[Metrics]:
    """Workers sum their metrics through files of theirs; one process needs none."""
    if workers <= 1:
        yield Metrics()
        return
    directory = state / "metrics"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    yield Metrics(directory)


class _announced:
    """`STATE/gateway.json` says where this gateway listens, for as long as it does."""

    def __init__(self, state: Path, addresses: Mapping[str, str]) -> None:
        self._path = state / "gateway.json"
        self._addresses = addresses

    def __enter__(self) -> None:
        what = {"pid": os.getpid(), "version": __version__, "addresses": dict(self._addresses)}
        partial = self._path.with_suffix(".json.partial")
        partial.write_text(json.dumps(what) + "\n")
        partial.replace(self._path)

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)


def _stop_signals() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second does what the system does by itself."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def stopping(number: signal.Signals) -> None:
        stop.set()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
        signal.signal(number, signal.SIG_DFL)

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, partial(stopping, each))
    return stop


def _loop_factory() -> Any:
    with suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return None


def _first_of_ours(group: BaseExceptionGroup[BaseException]) -> GatewayError | None:
    """The error to show, where everything in the group is one of ours or a consequence of it."""
    ours, others = group.split(GatewayError)
    if ours is None or (others is not None and others.subgroup(Exception) is not None):
        return None
    leaf: BaseException = ours
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return cast(GatewayError, leaf)


def _refused(error: GatewayError) -> int:
    sys.stderr.write(f"gateway serve: {error.message}\n")
    return 1
