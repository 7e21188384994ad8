"""Keep the versions loaded that the configuration asks for.

The decisions are in `plan`; this acts on them: it looks at sources, fetches, loads on threads of
its own, publishes READY only once the servable can be found, and takes it out of reach before it
drains and unloads. A version's failure is data in its status and is tried again with growing waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from random import Random

from gateway.codecs.tfs_errors import grpc_code
from gateway.domain.errors import GatewayError
from gateway.domain.models import Specific, VersionState
from servers.kit import loading, logs, plan
from servers.kit.batching import Batcher, Workers
from servers.kit.catalogue import Catalogue
from servers.kit.record import ModelRecord, VersionRecord
from servers.kit.runtime import Runtime
from servers.kit.servable import Servable
from servers.kit.settings import BatchSettings, LoadSettings
from servers.kit.versions import Lease, Versions

_INTERNAL = 13


class Manager(Catalogue):
    """Makes true what the catalogue asks for; `run` is its life."""

    def __init__(
        self,
        runtime: Runtime,
        versions: Versions,
        workers: Workers,
        batch: BatchSettings,
        settings: LoadSettings,
        rng: Random | None = None,
    ) -> None:
        super().__init__(settings.keep_ended)
        self.runtime = runtime
        self._sources = versions
        self._workers = workers
        self._batch = batch
        self._settings = settings
        self._rng = rng or Random()
        # One more than loads at once: an unload never waits behind loads that take minutes.
        self._loaders = ThreadPoolExecutor(settings.threads + 1, thread_name_prefix="load")
        self._load_slots = asyncio.Semaphore(settings.threads)

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
            record.end(held, self._keep_ended)

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
            record.end(held, self._keep_ended)

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
        record.end(held, self._keep_ended)
        held.is_busy = False
        await self._notify()

    async def _release(self, servable: Servable) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._loaders, loading.unload, servable.loaded.model)
        finally:
            if servable.lease is not None:
                servable.lease.release()

    def close(self) -> None:
        """Begin no more loads; does not wait for those under way."""
        self._loaders.shutdown(wait=False, cancel_futures=True)
