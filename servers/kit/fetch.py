"""Bring versions of models onto this machine, each once, and lend them out.

    plan   → read the pointer and the manifest (or list the folder): what must come, under which key
    lease  → complete in the cache already? then that is all
    fetch  → under the entry's lock: room, files, verification, one rename
    wait   → another process is fetching the same: report its progress, then lease

Without a manifest the folder is listed before and after: a version whose listing has changed
meanwhile is not taken. When the source does not answer and the version is in the cache from before,
that one is lent: a replica must be able to restart while storage is down.

Local sources are copied like any other: a hard link would change with a file that is overwritten in
place, under a model that has it mapped.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.codecs.manifest import MANIFEST_NAME, Manifest, check_path
from gateway.domain.errors import Forbidden, NotFound, Unavailable
from gateway.storage.folder import Folder
from gateway.storage.opening import StorageSettings, locate
from gateway.storage.repository import (
    VersionFolder,
    list_version,
    list_versions,
    read_manifest,
    read_pointer,
)
from servers.kit.cache import CacheFolder, FileLock
from servers.kit.fetch_files import Download, WantedFile, changing, read_log

Progress = Callable[[int, int], None]
"""Called with (bytes had, bytes in all), on the event loop, often."""

WAIT_S = 0.2
"""How often a waiter looks whether the other process is done: also how old its progress may be."""

MAX_FOLDERS = 64
"""Open connection pools; a server serves a handful of models."""


class Lease:
    """The right to use a version's folder. While held the folder is neither changed nor removed; it
    ends with `release`, with the `async with` block, or with the process."""

    def __init__(self, path: Path, lock: FileLock, ended: Callable[[], None]) -> None:
        self.path = path
        """The folder with the model's files; its name is the version."""
        self._lock = lock
        self._ended = ended
        self._released = False

    def __repr__(self) -> str:
        return f"Lease({str(self.path)!r}, released={self._released})"

    def release(self) -> None:
        """Give it back; a second time does nothing."""
        if not self._released:
            self._released = True
            self._ended()
            self._lock.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one version consists of, and under which name the cache keeps it."""

    folder: Folder
    version: int
    below: str
    entry: str
    files: tuple[WantedFile, ...]
    listed: VersionFolder | None
    """The listing that it was made from; None where a manifest says what must come."""

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)


class VersionCache:
    """The versions on this machine's disk; shared by all processes that name the same folder."""

    def __init__(
        self, folder: Path, max_bytes: int, storage: StorageSettings | None = None
    ) -> None:
        """`max_bytes` bounds what is kept (0: only the disk does). Raises OSError."""
        self._cache = CacheFolder(folder, max_bytes)
        self._storage = storage or StorageSettings()
        self._folders: OrderedDict[str, Folder] = OrderedDict()

    async def list_versions(self, source_uri: str) -> list[int]:
        """Versions that may be served, ascending: the published ones, or, without a pointer, every
        folder that has files and is not being published to.

        Raises NotFound, Forbidden, Unavailable, InvalidRequest as ports.VersionSource.look.
        """
        folder = self._open(source_uri)
        pointed = await read_pointer(folder)
        if pointed is not None:
            return sorted(pointed[0].versions)
        listed = await list_versions(folder)
        return [version for version, found in listed.items() if not found.is_unfinished]

    async def fetch(self, source_uri: str, version: int, progress: Progress) -> Lease:
        """Lend one version, fetching it if it is not here. Cancelling keeps what has come.

        Raises:
            NotFound: `source_not_found`, `version_not_found`, `file_missing`, `file_truncated`.
            Forbidden: `source_denied`.
            InvalidRequest: `bad_source`.
            Unavailable: `source_unreachable`, `source_changing`, `version_unfinished`,
                `manifest_mismatch`, `file_corrupt`, `cache_full`, `disk_full`.
        """
        try:
            plan = await self._plan(source_uri, version)
        except (Unavailable, Forbidden) as error:
            lease = self._offline(source_uri, version, error.reason)
            if lease is None:
                raise
            return lease
        while True:
            lease = self._lease(plan.entry, version)
            if lease is not None:
                progress(plan.total_bytes, plan.total_bytes)
                return lease
            lock = self._cache.try_fetch_lock(plan.entry)
            if lock is None:
                await self._wait(plan, progress)
                continue
            try:
                lease = await self._bring(plan, progress)
            finally:
                lock.release()
            if lease is not None:
                return lease

    async def _plan(self, source_uri: str, version: int) -> _Plan:
        folder = self._open(source_uri)
        pointed = await read_pointer(folder)
        if pointed is not None:
            entry = pointed[0].versions.get(version)
            if entry is None:
                raise NotFound(
                    f"{folder.uri} has no published version {version}.", reason="version_not_found"
                )
            manifest = await read_manifest(folder, str(version), version, entry.manifest_sha256)
            if manifest is None:
                raise NotFound(
                    f"{folder.uri}/{version}/{MANIFEST_NAME} is not there, and the pointer names "
                    "the version. Publish it again under a new number.",
                    reason="file_missing",
                )
            return self._manifest_plan(folder, str(version), manifest, entry.manifest_sha256)
        listed = await list_version(folder, version)
        if listed.is_unfinished:
            raise Unavailable(
                f"{folder.uri}/{listed.name} is not complete: "
                + ("it is being published." if listed.entries else "it holds no files yet."),
                reason="version_unfinished",
                retry_after_s=5.0,
            )
        manifest = await read_manifest(folder, listed.name, version, None)
        if manifest is not None:
            return self._manifest_plan(folder, listed.name, manifest, listed.fingerprint)
        return self._listed_plan(folder, listed)

    def _manifest_plan(
        self, folder: Folder, below: str, manifest: Manifest, fingerprint: str
    ) -> _Plan:
        files = tuple(WantedFile(f.path, f.size, sha256=f.sha256) for f in manifest.files)
        name = self._cache.entry_name(folder.uri, manifest.version, fingerprint)
        return _Plan(folder, manifest.version, below, name, files, None)

    def _listed_plan(self, folder: Folder, listed: VersionFolder) -> _Plan:
        files = tuple(WantedFile(check_path(e.path), e.size, etag=e.etag) for e in listed.files)
        name = self._cache.entry_name(folder.uri, listed.version, listed.fingerprint)
        return _Plan(folder, listed.version, listed.name, name, files, listed)

    async def _bring(self, plan: _Plan, progress: Progress) -> Lease | None:
        """Fetch under the lock. None if the entry went away again before it could be leased."""
        cache = self._cache
        lease = self._lease(plan.entry, plan.version)
        if lease is not None:
            progress(plan.total_bytes, plan.total_bytes)
            return lease
        damaged = cache.folder(plan.entry)  # it was complete once
        if damaged.is_dir() and not await asyncio.to_thread(cache.discard_entry, plan.entry):
            raise Unavailable(
                f"{damaged} is damaged and in use; restart the server that uses it.",
                reason="cache_damaged",
            )
        partial = cache.partial(plan.entry)
        download = Download(plan.folder, plan.below, plan.files, partial, plan.version)
        missing = await asyncio.to_thread(download.resume)
        await asyncio.to_thread(
            cache.make_room, plan.entry, plan.total_bytes, missing, download.plan()
        )
        try:
            await download.run(progress)
            await self._check_unchanged(plan)
        except Unavailable as error:
            if error.reason in ("disk_full", "source_changing"):
                await asyncio.to_thread(cache.discard, partial)
            raise
        sizes = [(file.path, file.size) for file in plan.files]
        await asyncio.to_thread(cache.complete, plan.entry, plan.version, sizes)
        return self._lease(plan.entry, plan.version)

    async def _check_unchanged(self, plan: _Plan) -> None:
        if plan.listed is None:
            return
        where = f"{plan.folder.uri}/{plan.below}"
        try:
            now = await list_version(plan.folder, plan.version)
        except NotFound as error:
            raise changing(where, "it is gone") from error
        if now.fingerprint != plan.listed.fingerprint:
            raise changing(where, "its listing is another now")

    async def _wait(self, plan: _Plan, progress: Progress) -> None:
        """Another process is fetching this entry: pass its progress on."""
        partial = self._cache.partial(plan.entry)
        done = sum(size for _, _, size in await asyncio.to_thread(read_log, partial))
        progress(min(done, plan.total_bytes), plan.total_bytes)
        await asyncio.sleep(WAIT_S)

    def _offline(self, source_uri: str, version: int, reason: str) -> Lease | None:
        """The version as fetched before, when its source cannot be asked."""
        if reason not in ("source_unreachable", "source_denied"):
            return None
        name = self._cache.newest(locate(source_uri).uri, version)
        return self._lease(name, version) if name is not None else None

    def _lease(self, entry: str, version: int) -> Lease | None:
        lock = self._cache.try_lease(entry)
        if lock is None:
            return None
        path = self._cache.folder(entry) / str(version)
        return Lease(path, lock, lambda: self._cache.touch(entry))

    def _open(self, source_uri: str) -> Folder:
        key = locate(source_uri).uri
        folder = self._folders.get(key)
        if folder is None:
            folder = self._folders[key] = Folder(source_uri, settings=self._storage)
            while len(self._folders) > MAX_FOLDERS:
                self._folders.popitem(last=False)
        self._folders.move_to_end(key)
        return folder
