"""The composition root: the one place that names adapter classes and ties the rooms together.

What starts first stops last: state directory, store, control API's service, data planes, lifecycle.
A stop (SIGTERM, Ctrl-C) finishes the requests under way, then ends the replicas; a second signal
ends the process at once, and the replicas' leashes let them go. SIGHUP reloads, unless it says that
the terminal is gone. Worker processes are composed in `__main__`, as they need none of all this.
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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

from gateway import __version__, config
from gateway.control.api import ControlApi, no_role
from gateway.control.deploy import DeployLimits
from gateway.control.events import EventLog
from gateway.control.service import ModelsService
from gateway.core.autoscale import windows
from gateway.core.balance import BalanceSettings
from gateway.core.hedge import share_of
from gateway.core.limits import LimitSettings
from gateway.core.queueing import QueueSettings
from gateway.core.route import ModelRoute, RoutingTable
from gateway.dataplane import DataplaneSettings
from gateway.dataplane.planes import OpenPlanes, open_planes
from gateway.domain.errors import GatewayError, Unavailable
from gateway.domain.models import ModelRecord, VersionState, VersionStatus
from gateway.lifecycle import Lifecycle, LifecycleSettings, Member
from gateway.ports import Reloader, Scheduler
from gateway.schedulers import LocalScheduler, LocalSettings, StateLock
from gateway.schedulers.identity import told_to_others
from gateway.sharing import inherited_environment, joined
from gateway.sources import ObjectSource, SourceSettings
from gateway.store import SqlStore, open_store
from gateway.telemetry import LogFormat, Metrics, configure_logging, log
from gateway.upstream import GrpcUpstream, HttpUpstream
from gateway.upstream.replica_control import ReplicaControlClient
from gateway.upstream.signatures import ReplicaSignatures
from gateway.wire.memory import keep_freed_memory, spare_what_is_there


def main(flags: Mapping[str, Any], config_file: Path | None = None) -> int:
    """Run one gateway until it is told to stop; returns the exit code (see `gateway serve`)."""
    try:
        settings = config.load(flags, config_file)
        configure_logging(cast(LogFormat, settings.log_format))
        keep_freed_memory()
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
    hangup = _hangups(stop)
    async with (
        _replicas(settings) as (scheduler, limits, store),
        _metrics(settings.state_dir, settings.workers) as metrics,
    ):
        known = _known(await store.models())
        later = _Later()
        async with _planes(settings, metrics, later) as planes:
            planes.publish(known)
            async with asyncio.TaskGroup() as tasks:
                reloading = tasks.create_task(_reload_when_told(planes, hangup))
                is_last = await _run(
                    settings, stop, scheduler, limits, store, metrics, planes, later
                )
                reloading.cancel()
        if stop.is_set() and is_last:
            log.event("gateway.stopping", replicas=len(scheduler.replicas()))
            await scheduler.stop_all()
    log.event("gateway.stopped")


async def _run(
    settings: config.Settings,
    stop: asyncio.Event,
    scheduler: Scheduler,
    limits: DeployLimits,
    store: SqlStore,
    metrics: Metrics,
    planes: OpenPlanes,
    later: _Later,
) -> bool:
    """Reconcile and answer the control API until `stop`. Whether the replicas may end then: no
    other gateway uses them."""
    clock, events = LoopClock(), EventLog(store)
    source = ObjectSource(clock, SourceSettings(settle_s=settings.settle_s))
    control = ReplicaControlClient()
    lifecycle = partial(
        Lifecycle,
        source=source,
        clock=clock,
        settings=LifecycleSettings(settings.poll_s, autoscale=windows(settings.scale_window_s)),
        metrics=metrics,
    )
    observed: Lifecycle | Member = (
        await joined(settings, store, scheduler, planes, events, clock, lifecycle, control, metrics)
        if settings.database_url
        else lifecycle(
            store=store, scheduler=scheduler, control=control, planes=planes, emit=events.emit
        )
    )
    member = observed if isinstance(observed, Member) else None
    asked_http, asked_grpc = _upstreams()
    service = later.reloader = ModelsService(
        store,
        source,
        observed,
        scheduler,
        events,
        limits=limits,
        signatures=ReplicaSignatures(observed, asked_http, asked_grpc),
    )
    addresses = {"http": planes.http_address, "grpc": planes.grpc_address, "control": ""}
    api = ControlApi(
        service,
        addresses=lambda: addresses,
        metrics=metrics.render,
        traffic=metrics.traffic,
        role=no_role if member is None else member.role,
    )
    try:
        await _listen(settings, stop, api, observed, addresses)
        return member is None or not await member.leave()
    finally:
        for connections in (control, asked_http, asked_grpc):
            await connections.aclose()


async def _listen(
    settings: config.Settings,
    stop: asyncio.Event,
    api: ControlApi,
    observed: Lifecycle | Member,
    addresses: dict[str, str],
) -> None:
    """Answer the control API, and reconcile, until `stop`."""
    host, port = config.split_address(settings.control, "--control")
    async with api.listening(host, port) as bound, asyncio.TaskGroup() as tasks:
        addresses["control"] = bound
        spare_what_is_there()
        if isinstance(observed, Member):
            observed.reached_at(told_to_others(bound))
        reconciling = tasks.create_task(observed.run())
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


class _Replicas(Scheduler, Protocol):
    """A scheduler to its end."""

    async def stop_all(self) -> None:
        """The gateway was told to stop: end what cannot go on without it."""
        ...


@asynccontextmanager
async def _replicas(
    settings: config.Settings,
) -> AsyncIterator[tuple[_Replicas, DeployLimits, SqlStore]]:
    """Where replicas run, what of a deploy can be run there, and the store. The state directory is
    claimed before the store is opened, which may migrate it."""
    if settings.scheduler == "kubernetes":
        lock = StateLock.take(settings.state_dir)
        try:
            async with _store(settings) as store, _pods(settings, store) as (scheduler, limits):
                yield scheduler, limits, store
        finally:
            lock.release()
        return
    local = LocalSettings(
        orphan_grace_s=settings.orphan_grace_s,
        cache_bytes=settings.cache_bytes,
        max_body_bytes=settings.max_body_bytes,
        log_format=settings.log_format,
        v2_flavour=settings.v2_flavour,
    )
    environ = inherited_environment()
    processes = LocalScheduler(settings.state_dir, local, environ=environ)
    async with processes, _store(settings) as store:
        yield processes, DeployLimits(offers_groups=True), store


@asynccontextmanager
async def _pods(
    settings: config.Settings, store: SqlStore
) -> AsyncIterator[tuple[_Replicas, DeployLimits]]:
    # Not at the top: the client library takes half a second and 80 MB, which a laptop need not.
    from gateway.schedulers.kubernetes.names import check
    from gateway.schedulers.kubernetes.scheduler import KubernetesScheduler

    pods = settings.pods
    pods = replace(pods, owner=pods.owner or await store.installation())
    checked = partial(check, settings=pods)
    async with KubernetesScheduler(pods) as scheduler:
        limits = DeployLimits(offers_images=True, offers_groups=True, check=checked)
        yield scheduler, limits


async def _reload_when_told(planes: OpenPlanes, hangup: asyncio.Event) -> None:
    """One reload after the other; signals during one of them are one more afterwards."""
    while True:
        await hangup.wait()
        hangup.clear()
        log.event("gateway.reloading")
        try:
            await planes.reload()
        except GatewayError as error:
            log.warning("gateway.reload_failed", cause=error.reason, message=error.message)


@asynccontextmanager
async def _planes(
    settings: config.Settings, metrics: Metrics, reloader: Reloader
) -> AsyncIterator[OpenPlanes]:
    dataplane = DataplaneSettings(
        http=settings.http,
        grpc=settings.grpc,
        max_body_bytes=settings.max_body_bytes,
        limit=LimitSettings(is_adaptive=settings.adaptive_limit),
        queue=QueueSettings(most=settings.queue_limit),
        v2_flavour=settings.v2_flavour,
        balance=BalanceSettings(rule=settings.balance_rule),
        tls_cert=settings.tls_cert,
        tls_key=settings.tls_key,
        tls_client_ca=settings.tls_client_ca,
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
                hedge=share_of(r.spec.hedge),
                backend=str(r.spec.backend),
                speaks=r.spec.speaks,
                **_on_demand(r),
            )
            for r in records
        }
    )


def _on_demand(record: ModelRecord) -> dict[str, Any]:
    """A model that has no replica while nobody asks is AVAILABLE: whoever asks gets his answer."""
    scaling, live = record.spec.scaling, record.live_version
    if scaling is None or scaling.least > 0 or live is None:
        return {"is_scaled": scaling is not None}
    ready = (VersionStatus(live, VersionState.READY),)
    return {"is_scaled": True, "is_started_on_demand": True, "statuses": ready}


def _upstreams() -> tuple[HttpUpstream, GrpcUpstream]:
    return HttpUpstream(), GrpcUpstream()


@asynccontextmanager
async def _store(settings: config.Settings) -> AsyncIterator[SqlStore]:
    store = await open_store(settings.database_url or settings.state_dir)
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


def _hangups(stop: asyncio.Event) -> asyncio.Event:
    """Set by SIGHUP. One that comes because the terminal was closed sets `stop` instead, as that is
    what it means there, but for a gateway that was started to outlive it (nohup)."""
    told = asyncio.Event()
    was_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    had_terminal = _has_terminal() and not was_ignored

    def hung_up() -> None:
        (stop if had_terminal and not _has_terminal() else told).set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hung_up)
    return told


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


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
    return 2 if error.reason == "bad_setting" else 1
