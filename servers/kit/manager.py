"""Keep the versions loaded that the configuration asks for.

The decisions are in `plan`; this acts on them: it looks at sources, fetches, loads on threads of
its own, publishes READY only once the servable can be found, and takes it out of reach before it
drains and unloads. A version's failure is data in its status and is tried again with growing waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random

from gateway.codecs.tfs_errors import grpc_code
from gateway.codecs.tfs_status import ConfiguredModel
from gateway.domain.errors import GatewayError, InvalidRequest, NotFound
from gateway.domain.models import Specific, VersionState, VersionStatus
from servers.kit import loading, logs, plan
from servers.kit.batching import Batcher, Workers
from servers.kit.record import ModelRecord, VersionRecord
from servers.kit.runtime import Runtime
from servers.kit.servable import Servable
from servers.kit.settings import BatchSettings, LoadSettings
from servers.kit.versions import Lease, Versions

_INTERNAL = 13
_MAX_REMOVED = 64
"""Removed models whose ended versions are still shown."""


class Manager:
    """All models of one server. Lives on one event loop; `run` is its life."""

    def __init__(
        self,
        runtime: Runtime,
        versions: Versions,
        workers: Workers,
        batch: BatchSettings,
        settings: LoadSettings,
        rng: Random | None = None,
    ) -> None:
        self.runtime = runtime
        self._sources = versions
        self._workers = workers
        self._batch = batch
        self._settings = settings
        self._rng = rng or Random()
        self._models: dict[str, ModelRecord] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()
        # One more than loads at once: an unload never waits behind loads that take minutes.
        self._loaders = ThreadPoolExecutor(settings.threads + 1, thread_name_prefix="load")
        self._is_stopping = False
        self._load_slots = asyncio.Semaphore(settings.threads)

    # ---- what is asked for --------------------

    def configure(
        self,
        models: Sequence[ConfiguredModel],
        labels: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """Replace the whole configuration. A model left out is unloaded."""
        wanted = {config.name: config for config in models}
        for name, record in self._models.items():
            if name not in wanted:
                record.is_removed = True
        for name, config in wanted.items():
            if name not in self._models:
                self._models[name] = ModelRecord(config)
                continue
            record = self._models[name]
            if record.is_removed or record.config.base_path != config.base_path:
                record.listed, record.has_looked = (), False
            record.is_removed = record.is_unloaded = False
            record.config = config
            record.next_look_at = 0.0
        if labels is None:
            labels = {config.name: config.labels for config in models}
        self._labels = {name: dict(given) for name, given in labels.items() if given}
        # At once, not only at the next tick: whoever asks for the status right after a reload must
        # see the versions that it asked for.
        for record in self._models.values():
            self._aspire(record)
            self._forget_failed(record)
        self._forget_removed()
        self._wake.set()

    def _forget_failed(self, record: ModelRecord) -> None:
        """End unwanted failures now, so that removing and adding a version again retries it."""
        wanted = record.aspired()
        for held in list(record.versions.values()):
            is_idle_failure = held.state is VersionState.FAILED and not held.is_busy
            if is_idle_failure and held.version not in wanted:
                held.move(VersionState.GONE)
                record.end(held, self._settings.keep_ended)

    def _forget_removed(self) -> None:
        removed = [n for n, r in self._models.items() if r.is_removed and not r.versions]
        for name in removed[: max(0, len(removed) - _MAX_REMOVED)]:
            del self._models[name]

    @property
    def labels(self) -> Mapping[str, Mapping[str, int]]:
        """Labels in force, by model."""
        return self._labels

    @property
    def configured(self) -> frozenset[str]:
        """Names of the models that are asked for."""
        return frozenset(n for n, record in self._models.items() if not record.is_removed)

    # ---- what is --------------------

    def find(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """The servable that a request means.

        Raises:
            NotFound: no such model or version answers here (`model_unknown`, `version_unknown`).
            InvalidRequest: no such label (`label_unknown`).
        """
        record = self._models.get(name)
        if record is not None and label:
            version = self._labels.get(name, {}).get(label)
            if version is None:
                raise InvalidRequest(
                    f"Unrecognized servable version label: {label}", reason="label_unknown"
                )
        servable = None
        if record is not None:
            if version is None:
                servable = record.newest_ready()
            else:
                held = record.versions.get(version)
                if held is not None and held.state is VersionState.READY:
                    servable = held.servable
        if servable is None:
            asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise NotFound(
                f"Servable not found for request: {asked}",
                reason="model_unknown" if record is None else "version_unknown",
            )
        return servable

    def statuses(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Every known version of a model, newest first, or the one named.

        Raises:
            NotFound: nothing is known of it.
        """
        record = self._models.get(name)
        known = record.statuses() if record is not None else []
        if not known:
            raise NotFound(f"Could not find any versions of model {name}", reason="model_unknown")
        if version is None:
            return known
        one = [status for status in known if status.version == version]
        if not one:
            raise NotFound(
                f"Could not find version {version} of model {name}", reason="version_unknown"
            )
        return one

    def overview(self) -> dict[str, list[VersionStatus]]:
        """Every model that is asked for or still has versions."""
        return {
            name: record.statuses()
            for name, record in self._models.items()
            if not record.is_removed or record.versions
        }

    def source_reason(self, name: str) -> str:
        """Why a model's source cannot be read; empty when it can."""
        record = self._models.get(name)
        return record.source_reason if record is not None else ""

    async def tried(self, names: frozenset[str]) -> None:
        """Wait until each of these models answers, or all that it has has failed once."""
        async with self._changed:
            await self._changed.wait_for(lambda: all(self._is_tried(name) for name in names))

    # ---- V2's repository control --------------------

    async def load(self, name: str) -> None:
        """Bring a configured model back, look at its source now, try what failed again; returns
        once each wanted version answers or has failed.

        Raises:
            NotFound: no model of that name is configured.
        """
        record = self._configured(name)
        record.is_unloaded = False
        record.next_look_at, record.source_failures, record.has_looked = 0.0, 0, False
        for held in record.versions.values():
            held.retry_at, held.failures = 0.0, 0
        self._aspire(record)
        self._wake.set()
        async with self._changed:
            await self._changed.wait_for(
                lambda: (
                    self._is_stopping
                    or record.is_removed
                    or record.is_unloaded
                    or record.is_settled()
                )
            )

    async def unload(self, name: str) -> None:
        """Take a configured model out of reach until it is loaded or configured again. Returns
        once nothing new reaches it; what is in flight is drained after that.

        Raises:
            NotFound: no model of that name is configured.
        """
        record = self._configured(name)
        record.is_unloaded = True
        self._wake.set()
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._is_stopping or not record.is_unloaded or record.newest_ready() is None
            )

    def is_unloaded(self, name: str) -> bool:
        """Whether a model was taken out by `unload`."""
        record = self._models.get(name)
        return record is not None and record.is_unloaded

    def _configured(self, name: str) -> ModelRecord:
        record = self._models.get(name)
        if record is None or record.is_removed:
            raise NotFound(f"no model {name!r} is configured here", reason="model_unknown")
        return record

    def _is_tried(self, name: str) -> bool:
        record = self._models.get(name)
        if record is None or record.is_removed or record.newest_ready() is not None:
            return True
        if self._is_stopping:
            return True
        if record.source_failures:
            return True
        if not isinstance(record.config.policy, Specific) and not record.has_looked:
            return False
        return all(
            (v := record.versions.get(version)) is not None and v.failures > 0
            for version in record.aspired()
        )

    # ---- the loop --------------------

    async def run(self) -> None:
        """Act until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._wake.clear()
                next_at = self._tick(tasks, loop.time())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(next_at):
                        await self._wake.wait()

    def _tick(self, tasks: asyncio.TaskGroup, now: float) -> float:
        next_at = now + self._settings.poll_s
        for name, record in list(self._models.items()):
            policy = record.config.policy
            if not record.is_removed and not record.is_looking and not isinstance(policy, Specific):
                if now >= record.next_look_at:
                    record.is_looking = True
                    tasks.create_task(self._look(record), name=f"look {name}")
                else:
                    next_at = min(next_at, record.next_look_at)
            self._aspire(record)
            for action in plan.plan(self._views(record), now):
                self._act(tasks, record, action)
            for version in record.versions.values():
                if version.state is VersionState.FAILED and version.retry_at > now:
                    next_at = min(next_at, version.retry_at)
        return next_at

    def _aspire(self, record: ModelRecord) -> None:
        for version in record.aspired():
            held = record.versions.get(version)
            if held is None:
                record.ended.pop(version, None)
                record.versions[version] = VersionRecord(record.config.name, version)

    def _views(self, record: ModelRecord) -> list[plan.View]:
        wanted = record.aspired()
        return [
            plan.View(v.version, v.state, v.version in wanted, v.retry_at)
            for v in record.versions.values()
        ]

    def _act(self, tasks: asyncio.TaskGroup, record: ModelRecord, action: plan.Action) -> None:
        held = record.versions[action.version]
        if isinstance(action, plan.Abandon):
            held.cancel.set()
        if held.is_busy:
            return
        name = f"{type(action).__name__} {held.model} {held.version}"
        if isinstance(action, plan.Load):
            held.is_busy = True
            tasks.create_task(self._load(record, held), name=name)
        elif isinstance(action, plan.Unload):
            held.is_busy = True
            held.move(VersionState.DRAINING)
            tasks.create_task(self._unload(record, held), name=name)
        else:
            held.move(VersionState.GONE)
            record.end(held, self._settings.keep_ended)

    async def _notify(self) -> None:
        self._wake.set()
        async with self._changed:
            self._changed.notify_all()

    # ---- the deeds --------------------

    async def _look(self, record: ModelRecord) -> None:
        loop = asyncio.get_running_loop()
        config = record.config
        wait_s = self._settings.poll_s
        try:
            found = await self._sources.list_versions(config.base_path)
        except Exception as error:  # noqa: BLE001  reconcile tick: a source's failure is data
            record.source_failures += 1
            wait_s = self._retry_s(record.source_failures)
            if str(error) != record.source_reason:
                logs.warn("source.failed", model=config.name, source=config.base_path, why=error)
            record.source_reason = str(error) or type(error).__name__
        else:
            if record.config is config:
                # Nothing there any more is more often a mistake than a wish, and never unloads.
                record.listed = tuple(found) or record.listed
                record.has_looked = True
            record.source_failures = 0
            record.source_reason = "" if found else f"no version in {config.base_path} yet"
        finally:
            record.is_looking = False
        record.next_look_at = loop.time() + wait_s if record.config is config else 0.0
        await self._notify()

    def _retry_s(self, failures: int) -> float:
        delay = plan.retry_delay_s(
            failures, self._settings.first_retry_s, self._settings.max_retry_s
        )
        # Spread by a fifth, so that replicas that failed together do not all come back together.
        return delay * self._rng.uniform(0.8, 1.0)

    async def _load(self, record: ModelRecord, held: VersionRecord) -> None:
        held.cancel.clear()
        held.move(VersionState.FETCHING)
        held.fetched_bytes = held.total_bytes = None
        lease: Lease | None = None
        try:
            lease = await self._fetch(record, held)
            if lease is not None:
                held.move(VersionState.LOADING)
                await self._bring_up(held, lease)
            self._settle(record, held)
        except Exception as error:  # noqa: BLE001  reconcile tick: a version's failure is data
            if lease is not None:
                lease.release()
            self._fail(held, error)
            self._settle(record, held)
        finally:
            held.is_busy = False
        await self._notify()

    async def _fetch(self, record: ModelRecord, held: VersionRecord) -> Lease | None:
        """The version's files, or None when it is no longer wanted."""
        async with asyncio.TaskGroup() as both:
            source = record.config.base_path
            fetch = both.create_task(self._sources.fetch(source, held.version, held.progress))
            stop = both.create_task(held.cancel.wait())
            done, _ = await asyncio.wait({fetch, stop}, return_when=asyncio.FIRST_COMPLETED)
            for task in {fetch, stop} - done:
                task.cancel()
        return None if fetch.cancelled() else fetch.result()

    async def _bring_up(self, held: VersionRecord, lease: Lease) -> None:
        loop = asyncio.get_running_loop()
        async with self._load_slots:
            joins = self._batch.max_rows > 1
            loaded = await loop.run_in_executor(
                self._loaders, loading.load, self.runtime, lease.path, joins, held.tell
            )
        batcher = Batcher(loaded, self._batch, self._workers)
        if loaded.not_joining_because:
            logs.warn(
                "version.not_joined",
                model=held.model,
                version=held.version,
                why=loaded.not_joining_because,
            )
        held.servable = Servable(held.model, held.version, loaded, batcher)
        held.servable.lease = lease
        held.reason, held.error_code, held.failures = "", 0, 0
        held.move(VersionState.READY)

    def _fail(self, held: VersionRecord, error: BaseException) -> None:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        held.failures += 1
        held.retry_at = asyncio.get_running_loop().time() + self._retry_s(held.failures)
        held.reason = str(error) or type(error).__name__
        held.error_code = grpc_code(error) if isinstance(error, GatewayError) else _INTERNAL
        if not isinstance(error, GatewayError):
            logs.bug("version.load_crashed", error, model=held.model, version=held.version)
        held.move(VersionState.FAILED, why=held.reason, tries=held.failures)

    def _settle(self, record: ModelRecord, held: VersionRecord) -> None:
        """End at once what stopped being wanted while it was on its way."""
        if held.cancel.is_set() and held.state in (VersionState.FETCHING, VersionState.FAILED):
            held.move(VersionState.GONE)
            record.end(held, self._settings.keep_ended)

    async def _unload(self, record: ModelRecord, held: VersionRecord) -> None:
        servable, held.servable = held.servable, None
        await self._notify()
        if servable is not None:
            try:
                await servable.drain(self._settings.drain_s)
                await self._release(servable)
            except Exception as error:  # noqa: BLE001  reconcile tick: one bad close stops no other
                logs.bug("version.unload_failed", error, model=held.model, version=held.version)
        held.move(VersionState.GONE)
        record.end(held, self._settings.keep_ended)
        held.is_busy = False
        await self._notify()

    async def _release(self, servable: Servable) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._loaders, loading.unload, servable.loaded.model)
        finally:
            if servable.lease is not None:
                servable.lease.release()

    async def stop_waiting(self) -> None:
        """Let everybody go who waits in `tried`: the server is going down."""
        self._is_stopping = True
        await self._notify()

    def close(self) -> None:
        """Begin no more loads; does not wait for those under way."""
        self._loaders.shutdown(wait=False, cancel_futures=True)
