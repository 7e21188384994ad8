"""See what a model's repository has.

A repository that `gateway publish` fills costs one conditional GET of its pointer per look, and a
version is settled the moment the pointer names it. Any other is listed, and a version counts once
its listing has stood still for the settle time: object storage shows each object whole or not at
all, but nothing says when the last of them has come. What is remembered between looks is only
since when.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.codecs.manifest import Pointer
from gateway.domain.errors import Forbidden, NotFound
from gateway.domain.names import Version
from gateway.ports import Clock, Listing, PublishedVersion
from gateway.storage.folder import Folder, Unchanged
from gateway.storage.opening import StorageSettings, locate
from gateway.storage.repository import (
    VersionFolder,
    list_version,
    list_versions,
    read_manifest,
    read_pointer,
)


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """How repositories are looked at."""

    settle_s: float = 10.0
    """How long a listed version must stand still before it counts. Uploads by hand pause between
    files for a second or two; ten leave a margin without making people wait."""

    max_sources: int = 4096
    """Repositories remembered at once; the one unused for longest is forgotten (and settles
    anew)."""

    storage: StorageSettings = field(default_factory=StorageSettings)


@dataclass(slots=True)
class _Memory:
    """What is kept of one repository between looks."""

    folder: Folder
    first_seen: dict[Version, tuple[str, float]] = field(default_factory=dict)
    """By version: fingerprint, and since when it has been so."""


class ObjectSource:
    """ports.VersionSource over object storage."""

    def __init__(self, clock: Clock, settings: SourceSettings | None = None) -> None:
        self._clock = clock
        self._settings = settings or SourceSettings()
        self._memories: OrderedDict[str, _Memory] = OrderedDict()

    async def look(self, uri: str, previous: Listing | None) -> Listing:
        """Look once; `previous` itself when nothing is new. An existing but empty repository gives
        an empty Listing. Raises as ports.VersionSource says."""
        memory = self._remember(uri)
        known = previous.validator if previous is not None else ""
        try:
            found = await self._pointer(memory.folder, known)
        except Unchanged:
            if previous is not None:
                return previous
            raise  # cannot happen: nothing was named that could be unchanged
        if found is not None:
            memory.first_seen.clear()
            return found
        folders = await list_versions(memory.folder)
        listing = Listing(self._settle(memory, folders))
        return previous if previous is not None and listing == previous else listing

    async def files(self, uri: str, version: Version) -> Sequence[str]:
        """Relative paths of one version's files: from its manifest where one counts, else listed.

        Raises NotFound (`version_not_found`) and as `look`.
        """
        folder = self._remember(uri).folder
        pointed = await read_pointer(folder)
        if pointed is not None:
            entry = pointed[0].versions.get(version)
            if entry is None:
                raise NotFound(
                    f"{folder.uri} has no published version {version}.", reason="version_not_found"
                )
            manifest = await read_manifest(folder, str(version), version, entry.manifest_sha256)
            if manifest is not None:
                return [file.path for file in manifest.files]
        listed = await list_version(folder, version)
        return [entry.path for entry in listed.files]

    async def _pointer(self, folder: Folder, known_etag: str) -> Listing | None:
        try:
            found = await read_pointer(folder, known_etag)
        except Forbidden:
            # S3 answers 403 for a missing object to a key that may not list; then listing says so
            # too, and with the words for it.
            if known_etag:
                raise
            return None
        if found is None:
            return None
        pointer, blob = found
        return Listing(_published(pointer), blob.etag)

    def _settle(
        self, memory: _Memory, folders: dict[Version, VersionFolder]
    ) -> dict[Version, PublishedVersion]:
        now = self._clock.now()
        seen: dict[Version, tuple[str, float]] = {}
        found: dict[Version, PublishedVersion] = {}
        for version, folder in folders.items():
            fingerprint = folder.fingerprint
            before = memory.first_seen.get(version)
            since = before[1] if before is not None and before[0] == fingerprint else now
            seen[version] = (fingerprint, since)
            found[version] = PublishedVersion(
                version=version,
                fingerprint=fingerprint,
                settled=not folder.is_unfinished and now - since >= self._settings.settle_s,
                has_manifest=folder.has_manifest,
                total_bytes=folder.total_bytes,
                files=tuple(entry.path for entry in folder.files),
            )
        memory.first_seen = seen
        return found

    def _remember(self, uri: str) -> _Memory:
        key = locate(uri).uri
        memory = self._memories.get(key)
        if memory is None:
            memory = _Memory(Folder(uri, settings=self._settings.storage))
            self._memories[key] = memory
            while len(self._memories) > self._settings.max_sources:
                self._memories.popitem(last=False)
        self._memories.move_to_end(key)
        return memory


def _published(pointer: Pointer) -> dict[Version, PublishedVersion]:
    return {
        version: PublishedVersion(
            version=version,
            fingerprint=entry.manifest_sha256,
            settled=True,
            has_manifest=True,
            total_bytes=entry.total_bytes,
        )
        for version, entry in sorted(pointer.versions.items())
    }
