"""The reconcile loop: what is wanted, what is, and the difference made good. See README.md.

Level-triggered. Whatever happens (a spec changed, a source shows a version, a replica reports, a
process ends) only wakes the loop; each tick derives everything anew. So a lost or doubled wake-up
costs time and nothing else, and a restart of the gateway is only a tick with an empty memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from math import inf
from random import Random
from typing import Any, Protocol

from gateway.core import rollout
from gateway.core.route import ModelRoute, RoutingTable
from gateway.core.templates import digest, template_in
from gateway.core.versions import ReplicaSeen, told
from gateway.domain.agreement import AgreementTally
from gateway.domain.errors import NotFound, Unavailable
from gateway.domain.gateways import Use
from gateway.domain.models import ModelRecord, VersionState
from gateway.domain.names import Version
from gateway.domain.observed import ModelView
from gateway.domain.replicas import Replica, ReplicaSet, ReplicaState, Told
from gateway.domain.rollouts import Rollout
from gateway.lifecycle.keeping import keep, keep_rollout
from gateway.lifecycle.meters import Meters
from gateway.lifecycle.model_loop import ModelLoop
from gateway.lifecycle.replica_watch import ReplicaWatch
from gateway.lifecycle.replicas_of import by_model, canary_uses, releasable, spoken_to
from gateway.lifecycle.rollout_loop import RolloutLoop
from gateway.lifecycle.scale_loop import ScaleLoop
from gateway.lifecycle.settings import LifecycleSettings
from gateway.lifecycle.source_watch import SourceWatch, utc_stamp
from gateway.lifecycle.term import Term
from gateway.lifecycle.turns import Turns
from gateway.lifecycle.views import with_standings
from gateway.ports import Clock, DataPlanes, ReplicaControl, Scheduler, Store, VersionSource
from gateway.telemetry import Metrics, log

_LISTENS = (ReplicaState.LOADING, ReplicaState.DRAINING)


class Emit(Protocol):
    """Keeps one event and passes it on; control/events.py has the one that is used."""

    async def __call__(self, type: str, model: str, message: str, **fields: Any) -> object: ...


class Lifecycle:
    """All models' loops. `run` them in a TaskGroup; implements ports.Observed."""

    def __init__(
        self,
        *,
        store: Store,
        source: VersionSource,
        scheduler: Scheduler,
        control: ReplicaControl,
        planes: DataPlanes,
        emit: Emit,
        clock: Clock,
        rng: Random | None = None,
        settings: LifecycleSettings | None = None,
        metrics: Metrics | None = None,
        term: Term | None = None,
    ) -> None:
        """`term`: it goes on where another gateway has led."""
        self._store = store
        self._source = source
        self._scheduler = scheduler
        self._control = control
        self._planes = planes
        self._emit = emit
        self._clock = clock
        self._rng = rng or Random()
        self._settings = settings or LifecycleSettings()
        self._meters = Meters(metrics)
        self._term = term
        self._models: dict[str, ModelLoop] = {}
        self._watches: dict[str, tuple[ReplicaWatch, asyncio.Task[None]]] = {}
        self._removing: set[str] = set()
        self._called: set[str] = set()
        self._left_at: dict[tuple[str, Version, str], float] = {}
        self._told_busy: set[tuple[str, Version, str]] = set()
        self._table = RoutingTable()
        self._adopting = True
        self._waits_for = ""
        self._wake = asyncio.Event()
        self._wait_for_planes = asyncio.Event()
        self._changed = asyncio.Event()
        self._looked = asyncio.Event()

    def __repr__(self) -> str:
        live = {m.name: m.live for m in self._models.values()}
        return f"Lifecycle(live={live}, table={self._table.generation})"

    # ---- ports.Observed --------------------

    def view(self, name: str) -> ModelView | None:
        """See ports.Observed."""
        view = self.kept(name)
        standings = self._planes.standings()
        return view if view is None or not standings else with_standings(view, standings)

    def kept(self, name: str) -> ModelView | None:
        """The same without what the data planes of this gateway think now."""
        model = self._models.get(name)
        return None if model is None else model.view

    def poke(self, name: str) -> None:
        """See ports.Observed."""
        model = self._models.get(name)
        if model is not None:
            model.source.poke()
        self._wake.set()

    async def changed(self) -> None:
        """See ports.Observed."""
        await self._changed.wait()

    async def order(self, name: str, action: str, version: Version | None = None) -> Rollout:
        """See ports.Observed."""
        model = self._models.get(name)
        if model is None or model.deleted:
            raise NotFound(
                f"There is no model {name!r}. `gateway get models` lists those there are.",
                reason="model_unknown",
            )
        if model.decision is None:
            raise Unavailable(
                f"{name} has not been looked at yet", reason="starting", retry_after_s=1.0
            )
        now, at = self._clock.now(), utc_stamp()
        look = model.look(now, ahead=True)
        if action == "start":
            after = rollout.start(look, version, name, at)
        elif action == "undo":
            after = rollout.undo(look, name, at)
        else:
            after = rollout.order(look, action, name, at)
        model.rollouts.take(after, now)
        await keep_rollout(self._store, model)
        self._wake.set()
        return after

    async def looked(self) -> None:
        """Wait until every replica that an earlier gateway left was asked what it holds, and the
        table says so. Opening the prediction ports before that would refuse what can be answered.
        A replica that hangs takes as long as its report may; bound the wait."""
        await self._looked.wait()

    # ---- loops --------------------

    async def run(self) -> None:
        """Reconcile for ever. Cancelled, it leaves everything as it is for the next gateway."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_scheduler())
            tasks.create_task(self._follow_planes())
            tasks.create_task(self._follow_calls())
            while True:
                self._wake.clear()
                began, pause_s = self._clock.now(), self._settings.resync_s
                try:
                    await self._tick(tasks)
                    self._waits_for = ""
                    if any(m.rollouts.is_under_way for m in self._models.values()):
                        pause_s = min(pause_s, self._settings.rollout_look_s)
                    pause_s = min(pause_s, self._until_look_s())
                except Exception as error:  # noqa: BLE001 - the tick: logged, counted, tried again
                    self._on_error("models", error)
                    pause_s = self._settings.error_retry_s
                    await self._clock.sleep(min(0.05, pause_s))
                # Never more than half of the time; and what comes together is one tick's.
                await self._clock.sleep(min(self._clock.now() - began, pause_s))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._wake.wait()

    def _on_error(self, loop: str, error: BaseException) -> None:
        if not isinstance(error, Unavailable):
            log.bug("reconcile.failed", error, loop=loop)
        elif self._waits_for != error.reason:  # no bug: said once, not at every tick
            self._waits_for = error.reason
            log.warning("reconcile.waits", loop=loop, cause=error.reason, message=error.message)
        self._meters.reconcile_failed(loop)

    async def _follow_scheduler(self) -> None:
        while True:
            await self._scheduler.changed()
            self._wake.set()
            # `changed` answers at once until somebody has looked, which the tick does.
            await self._clock.sleep(0.01)

    async def _follow_planes(self) -> None:
        while True:
            await self._wait_for_planes.wait()
            self._wait_for_planes.clear()
            await self._planes.drained()
            self._wake.set()
            await self._clock.sleep(0.01)

    async def _follow_calls(self) -> None:
        while True:
            self._called |= set(await self._planes.called())
            self._wake.set()

    # ---- one tick --------------------

    async def _tick(self, tasks: asyncio.TaskGroup) -> None:
        records = {r.spec.name: r for r in await self._store.models()}
        turns = Turns()
        replicas = self._scheduler.replicas()
        self._sync_models(records, replicas, tasks)
        self._rescale(replicas)
        desired = self._desired()
        await turns.next()
        await self._scheduler.ensure(desired)
        await turns.next()
        replicas = self._scheduler.replicas()
        self._sync_watches(replicas, tasks)
        if not self._may_decide():
            return
        of_model = by_model(replicas, self._models)
        watches = {replica_id: watch for replica_id, (watch, _) in self._watches.items()}
        # Before anything is decided: what is heard in the middle of this turn is in no table yet.
        has_looked = all(watch.asked for watch in watches.values())
        routes: dict[str, ModelRoute] = {}
        views: dict[str, ModelView] = {}
        for name, model in self._models.items():
            await turns.next()
            route, views[name] = self._decide(model, of_model[name], watches)
            if not model.deleted:
                routes[name] = route
        await keep(self._store, self._models.values())
        await turns.next()
        self._publish(routes)
        busy = self._busy()
        moved = {name for name, _, _ in busy ^ self._told_busy}
        for name, model in self._models.items():
            if not model.is_as_before or name in moved:
                await turns.next()
                self._tell(model, of_model[name], busy)
        self._told_busy = busy
        self._release(replicas, busy, tasks)
        for name, model in list(self._models.items()):
            await turns.next()
            await self._tell_news(model, views[name])
            if not model.is_as_before:
                self._meters.observe(model)
            model.acted()
            if model.deleted and not of_model[name]:
                await self._bury(model)
        await self._bury_left_over(records)
        if has_looked:
            self._looked.set()
        self._adopting = False
        if self._desired() != desired:  # a rollout has begun or ended
            self._wake.set()

    def _desired(self) -> list[ReplicaSet]:
        return [group for m in self._models.values() for group in m.replica_sets()]

    def _until_look_s(self) -> float:
        """Until the demand of some model has to be measured; without end where there is none."""
        looked_at = [m.scale.memory.at for m in self._models.values() if m.scale.memory is not None]
        next_at = min(looked_at, default=inf) + self._settings.autoscale.look_s
        return max(0.0, next_at - self._clock.now())

    def _rescale(self, replicas: Sequence[Replica]) -> None:
        called, self._called = self._called, set()
        for name, model in self._models.items():
            if model.record.spec.scaling is None and model.scale.memory is None:
                continue
            # Not a canary's: after a rollback the others have to carry all that is asked.
            mine = [r for r in replicas if r.model == name and not r.group]
            model.rescale(
                mine,
                self._planes.demand(name),
                self._clock.now(),
                self._settings.autoscale,
                is_called=name in called,
            )

    def _may_decide(self) -> bool:
        """Whether the table that another gateway has left may be replaced: once every replica has
        said what it holds, or was asked often enough. Until then it is better than ours."""
        if self._term is None or self._looked.is_set():
            return True
        return all(watch.is_known for watch, _ in self._watches.values())

    def _decide(
        self, model: ModelLoop, replicas: Sequence[Replica], watches: Mapping[str, ReplicaWatch]
    ) -> tuple[ModelRoute, ModelView]:
        tallies: Mapping[Version, Sequence[int]] = {}
        agreed: AgreementTally | None = None
        busy: set[Use] = set()
        if model.rollouts.is_under_way:
            tallies = self._planes.tallies(model.name)
            agreed = self._planes.agreement(model.name)
            busy = canary_uses(model, self._planes.busy(), self._table, replicas)
        settings = self._settings.analysis
        now = self._clock.now()
        return model.decide(replicas, watches, tallies, agreed, settings, now, is_busy=bool(busy))

    def _sync_models(
        self,
        records: Mapping[str, ModelRecord],
        replicas: Sequence[Replica],
        tasks: asyncio.TaskGroup,
    ) -> None:
        """Begin and end models' loops as the store says."""
        for name, record in records.items():
            known = self._models.get(name)
            if known is None or known.deleted or known.record.created_at != record.created_at:
                if known is not None:
                    known.source_task.cancel()
                self._models[name] = self._begin(record, tasks)
                continue
            if known.record.spec.source != record.spec.source:
                known.source_task.cancel()
                known.source, known.source_task = self._watch_source(record, tasks)
            known.update(record)
        for name, model in self._models.items():
            if name not in records and not model.deleted:
                model.deleted = True
                model.source_task.cancel()

    def _begin(self, record: ModelRecord, tasks: asyncio.TaskGroup) -> ModelLoop:
        watch, task = self._watch_source(record, tasks)
        window = 0 if self._term is None else self._term.first_window
        rollouts = RolloutLoop(record.rollout, window=window, since=self._clock.now())
        # What answers has been started by these settings, as far as a new gateway can know.
        running = record.running or template_in(record.spec)
        scale = ScaleLoop(digest(record.spec, running) if record.live_version is not None else "")
        model = ModelLoop(record, watch, task, record.live_version, rollouts, scale, running)
        model.update(record)
        return model

    def _watch_source(
        self, record: ModelRecord, tasks: asyncio.TaskGroup
    ) -> tuple[SourceWatch, asyncio.Task[None]]:
        name = record.spec.name
        watch = SourceWatch(
            name,
            record.spec.source,
            self._source,
            self._settings,
            self._rng,
            self._wake.set,
            lambda error: self._on_error("source", error),
            lambda: self._meters.source_read(name),
        )
        return watch, tasks.create_task(watch.run())

    def _sync_watches(self, replicas: Sequence[Replica], tasks: asyncio.TaskGroup) -> None:
        """One watch for each replica that listens."""
        listening = {
            r.id: (r.model, spoken_to(self._models.get(r.model), r.endpoint))
            for r in replicas
            if r.state in _LISTENS and r.endpoint is not None
        }
        for replica_id, (watch, task) in list(self._watches.items()):
            # A spec that says something else of what replicas speak changes how they are asked.
            if replica_id not in listening or watch.endpoint != listening[replica_id][1]:
                del self._watches[replica_id]
                task.cancel()
        for replica_id, (model, endpoint) in listening.items():
            if replica_id not in self._watches:
                watch = ReplicaWatch(
                    replica_id,
                    model,
                    endpoint,
                    self._control,
                    self._clock,
                    self._settings,
                    self._wake.set,
                    self._watches,
                )
                self._watches[replica_id] = (watch, tasks.create_task(watch.run()))

    def _publish(self, routes: Mapping[str, ModelRoute]) -> None:
        silent = tuple(t for m in self._models.values() if not m.deleted for t in m.silent)
        known = self._table.models, self._table.silent
        if (routes, silent) != known or self._table.generation == 0:
            self._table = RoutingTable(self._table.generation + 1, dict(routes), silent)
            self._planes.publish(self._table)

    def _busy(self) -> set[tuple[str, Version, str]]:
        """What the data planes hold on to beyond the table; no longer than `drain_s`."""
        now = self._clock.now()
        busy = set(self._planes.busy())
        self._left_at = {k: self._left_at.get(k, now) for k in busy}
        if busy:
            self._wait_for_planes.set()
        return {k for k in busy if now - self._left_at[k] < self._settings.drain_s}

    def _tell(
        self, model: ModelLoop, replicas: Sequence[Replica], busy: set[tuple[str, Version, str]]
    ) -> None:
        """Tell each replica of the current template what to hold. One of another template serves
        another source or is on its way out; it keeps what it has."""
        decision = model.decision
        if decision is None or model.deleted:
            return
        spec = model.record.spec
        templates = model.templates()
        offered = model.source.offered(require_manifest=spec.require_manifest)
        if not model.source.looks:
            return
        for replica in replicas:
            is_current = replica.template == templates.get(replica.group)
            if not is_current or replica.state is ReplicaState.DRAINING:
                continue
            watch = self._watches[replica.id][0] if replica.id in self._watches else None
            if watch is None or not watch.report.answered:
                continue
            seen = ReplicaSeen(replica.id, watch.report, told=watch.told, group=replica.group)
            versions = told(
                decision, offered, seen, [(v, i) for name, v, i in busy if name == model.name]
            )
            if versions or watch.told or watch.report.versions:
                watch.tell(Told(model.name, model.told_source, versions))

    def _release(
        self,
        replicas: Sequence[Replica],
        busy: set[tuple[str, Version, str]],
        tasks: asyncio.TaskGroup,
    ) -> None:
        """End draining replicas that nobody is sent to and nobody waits for."""
        for replica_id in releasable(replicas, self._table, busy, self._models):
            if replica_id not in self._removing:
                self._removing.add(replica_id)
                tasks.create_task(self._remove(replica_id))

    async def _remove(self, replica_id: str) -> None:
        try:
            await self._scheduler.remove(replica_id)
        except Exception as error:  # noqa: BLE001 - part of the tick: logged, counted, tried again
            self._on_error("remove", error)
        finally:
            self._removing.discard(replica_id)
            self._wake.set()

    async def _tell_news(self, model: ModelLoop, view: ModelView) -> None:
        is_changed = model.view != view
        happened = model.take(view, self._clock.now(), adopting=self._adopting)
        if is_changed:
            self._changed.set()
            self._changed = asyncio.Event()
        for one in happened:
            if one.type == "version.ready":
                self._meters.version_ready(model.name, one.fields["version"], self._clock.now())
            await self._emit(one.type, model.name, one.message, **one.fields)
        if not is_changed:
            return
        for version in view.versions:
            if version.state in (VersionState.NEW, VersionState.FETCHING, VersionState.LOADING):
                self._meters.version_begun(model.name, version.version, self._clock.now())

    async def _bury_left_over(self, records: Mapping[str, ModelRecord]) -> None:
        """Models that were deleted while nobody led: their replicas go as those of all others."""
        if self._term is None or self._looked.is_set():
            return
        for name in sorted(self._term.models - records.keys() - self._models.keys()):
            await self._emit("model.deleted", name, f"model {name} is gone")

    async def _bury(self, model: ModelLoop) -> None:
        """The last replica of a deleted model is gone."""
        del self._models[model.name]
        self._meters.forget(model.name)
        self._changed.set()
        self._changed = asyncio.Event()
        await self._emit("model.deleted", model.name, f"model {model.name} is gone")
