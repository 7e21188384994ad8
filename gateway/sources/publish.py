"""Upload one version so that it appears whole or not at all.

    1. claim       create `<version>/_PUBLISHING` with a token of our own; two publishers cannot
    both 2. upload      the files, several at once, hashed on the way
    3. look        list what lies there: ours, all of it, and nothing else
    4. manifest    names, sizes, sha256
    5. pointer     a conditional PUT; from here on the version is there
    6. unclaim     remove the marker

Cut off anywhere before 5 nothing serves: no pointer names the version, and the marker keeps listing
readers away. Publishing the same number again takes the claim over and writes every file anew, as
what a dead upload left cannot be told from what it should have been.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from gateway.codecs import manifest as documents
from gateway.codecs.manifest import MANIFEST_NAME, MARKER_NAME, FileEntry, Manifest, PointerEntry
from gateway.domain.errors import Conflict, InvalidRequest, Unavailable
from gateway.domain.names import INT64_MAX, Version
from gateway.ports import PublishedVersion
from gateway.sources.local_files import LocalFile, recognised, scan
from gateway.sources.pointer import add_version, already_there
from gateway.storage.folder import ChangedMeanwhile, Entry, Folder
from gateway.storage.opening import StorageSettings
from gateway.storage.repository import VersionFolder, list_version, list_versions, read_pointer

Progress = Callable[[int, int], None]
"""Called with (bytes uploaded, bytes in all) on the event loop."""

CLAIM_TRIES = 1000
"""Numbers tried above the highest seen; each one lost means another publisher since the listing."""


@dataclass(frozen=True, slots=True)
class PublishSettings:
    """How files are uploaded."""

    part_bytes: int = 8 * 2**20
    """Files up to this size go up in one request, larger ones in parts of it (S3's least is 5
    MiB)."""

    parallel_files: int = 3
    parallel_parts: int = 3
    """Per file. Three times three parts of 8 MiB bound the memory at 72 MiB and fill most lines."""

    max_parts: int = 9_000
    """S3 takes 10 000 per object; larger files get larger parts."""

    takeover_wait_s: float = 2.0
    """How long a publisher whose claim is taken over has to name its version in the pointer, if it
    looked at its claim just before: two small writes."""

    storage: StorageSettings = field(default_factory=StorageSettings)


async def publish(
    directory: Path | str,
    uri: str,
    version: Version | None = None,
    progress: Progress | None = None,
    *,
    warn: Callable[[str], None] | None = None,
    settings: PublishSettings | None = None,
) -> PublishedVersion:
    """Upload `directory` as `version` (None: the highest one there plus one).

    `warn` gets what is odd and not wrong: no model recognised, or older versions that the pointer
    does not name and that readers will no longer see.

    Raises:
        InvalidRequest: `bad_model`: the folder is missing, empty, or links out of itself;
        `bad_source`. Conflict: `version_exists`; `publish_overtaken` by another publisher of the
        same number. NotFound, Forbidden, Unavailable: as the storage says.
    """
    files = await asyncio.to_thread(scan, Path(directory))
    say = warn or _ignore
    if not recognised(files):
        say(
            f"{directory} holds no model.onnx, saved_model.pb, or *.prototxt with *.caffemodel: "
            "only "
            "a custom backend can serve it."
        )
    chosen = settings or PublishSettings()
    folder = Folder(uri, create=True, settings=chosen.storage)
    job = _Publish(folder, files, chosen, progress or _silent, say)
    return await job.run(version)


class _Publish:
    """One upload; `run` is the list of steps above."""

    def __init__(
        self,
        folder: Folder,
        files: tuple[LocalFile, ...],
        settings: PublishSettings,
        progress: Progress,
        warn: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._files = files
        self._settings = settings
        self._progress = progress
        self._warn = warn
        self._token = secrets.token_hex(16).encode()
        self._done_bytes = 0
        self._total_bytes = sum(file.size for file in files)

    async def run(self, wanted: Version | None) -> PublishedVersion:
        version = await self._claim(wanted)
        etags = await self._upload(version)
        await self._check_landed(version, etags)
        entries = tuple(entry for entry, _ in etags.values())
        manifest = Manifest(version, _now(), tuple(sorted(entries, key=lambda e: e.path)))
        data = documents.build_manifest(manifest)
        await self._check_claim(version)
        await self._folder.put(f"{version}/{MANIFEST_NAME}", data)
        sha256 = documents.digest(data)
        entry = PointerEntry(sha256, manifest.total_bytes, manifest.created_at)
        await add_version(self._folder, version, entry, Random())
        await self._folder.delete(f"{version}/{MARKER_NAME}")
        return PublishedVersion(
            version=version,
            fingerprint=sha256,
            settled=True,
            has_manifest=True,
            total_bytes=manifest.total_bytes,
            files=tuple(file.path for file in manifest.files),
        )

    async def _claim(self, wanted: Version | None) -> Version:
        """Put our marker into a version's folder that nobody else has, or has died filling."""
        published = await self._published()
        if wanted is not None:
            if not 0 <= wanted <= INT64_MAX:
                raise InvalidRequest(
                    f"{wanted} cannot be a version: use an integer from 0 to 2^63-1.",
                    reason="bad_version",
                )
            if wanted in published:
                raise already_there(self._folder.uri, wanted)
        listed = await self._listed()
        self._warn_of_hidden(set(listed) - published, listed)
        if wanted is None:
            return await self._claim_next(max([*published, *listed, 0]) + 1)
        there = listed.get(wanted)
        if there is None or not there.entries:
            if not await self._claim_free(wanted):
                raise self._overtaken(wanted, MARKER_NAME)
        elif there.is_unfinished and there.name == str(wanted):
            await self._take_over(wanted, there)
        else:
            raise already_there(self._folder.uri, wanted)
        return wanted

    async def _claim_next(self, version: Version) -> Version:
        for candidate in range(version, min(version + CLAIM_TRIES, INT64_MAX + 1)):
            if await self._claim_free(candidate):
                return candidate
        raise Unavailable(
            f"No free version number was found from {version} on in {self._folder.uri}. Name one "
            "with --version.",
            reason="publish_contended",
        )

    async def _claim_free(self, version: Version) -> bool:
        """Create our marker. False if another publisher has, or had and is done already: it removes
        its marker last, so a marker created after that stands in a version that is published."""
        try:
            await self._folder.create(f"{version}/{MARKER_NAME}", self._token)
        except ChangedMeanwhile:
            return False
        if version in await self._published():
            await self._folder.delete(f"{version}/{MARKER_NAME}")
            return False
        return True

    async def _take_over(self, version: Version, there: VersionFolder) -> None:
        """Claim what an earlier publish left. Should that one be alive after all, it finds its
        claim gone and stops, or is past its last look at it: hence the pause before anything is
        removed."""
        await self._folder.put(f"{version}/{MARKER_NAME}", self._token)
        await asyncio.sleep(self._settings.takeover_wait_s)
        if version in await self._published():
            await self._folder.delete(f"{version}/{MARKER_NAME}")
            raise already_there(self._folder.uri, version)
        await self._check_claim(version)
        for entry in there.entries:
            if entry.path != MARKER_NAME:
                await self._folder.delete(f"{version}/{entry.path}")

    async def _published(self) -> set[Version]:
        pointed = await read_pointer(self._folder)
        return set(pointed[0].versions) if pointed is not None else set()

    async def _listed(self) -> Mapping[Version, VersionFolder]:
        return await list_versions(self._folder)

    def _warn_of_hidden(
        self, hidden: set[Version], listed: Mapping[Version, VersionFolder]
    ) -> None:
        whole = sorted(version for version in hidden if not listed[version].is_unfinished)
        if whole:
            names = ", ".join(str(version) for version in whole[-5:])
            self._warn(
                f"{self._folder.uri} holds versions that were not uploaded by `gateway publish` "
                f"({names}). From now on only published versions are seen; publish those too if "
                "they should go on."
            )

    async def _upload(self, version: Version) -> dict[str, tuple[FileEntry, str]]:
        """All files; by path, the manifest's entry and the ETag that the storage gave."""
        done: dict[str, tuple[FileEntry, str]] = {}
        waiting = iter(self._files)
        self._progress(0, self._total_bytes)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._settings.parallel_files):
                    group.create_task(self._worker(version, waiting, done))
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        return done

    async def _worker(
        self,
        version: Version,
        waiting: Iterator[LocalFile],
        done: dict[str, tuple[FileEntry, str]],
    ) -> None:
        for file in waiting:
            done[file.path] = await self._upload_file(f"{version}/{file.path}", file)

    async def _upload_file(self, key: str, file: LocalFile) -> tuple[FileEntry, str]:
        part_bytes = self._settings.part_bytes
        if file.size <= part_bytes:
            data = await asyncio.to_thread(file.source.read_bytes)
            etag = await self._folder.put(key, data)
            self._add(len(data))
            sha256, size = documents.digest(data), len(data)
        else:
            part_bytes = max(part_bytes, -(-file.size // self._settings.max_parts))
            reader = _Reader(file, self._add)
            etag = await self._folder.upload(
                key,
                reader.chunks(),
                part_bytes=part_bytes,
                parallel=self._settings.parallel_parts,
            )
            sha256, size = reader.sha.hexdigest(), reader.size
        if size != file.size:
            raise InvalidRequest(
                f"{file.source} had {file.size} bytes and has {size} now: it changed while it was "
                "being published. Publish again once training has finished writing.",
                reason="bad_model",
            )
        return FileEntry(file.path, size, sha256), etag

    async def _check_landed(
        self, version: Version, etags: Mapping[str, tuple[FileEntry, str]]
    ) -> None:
        """What lies there is what we sent: sizes, ETags, no file of somebody else's."""
        there = await list_version(self._folder, version)
        found = {entry.path: entry for entry in there.entries if entry.path != MARKER_NAME}
        for path, (entry, etag) in etags.items():
            if not _is_same(found.pop(path, None), entry, etag):
                raise self._overtaken(version, path)
        if found:
            raise self._overtaken(version, min(found))
        await self._check_claim(version)

    async def _check_claim(self, version: Version) -> None:
        marker = await self._folder.read(f"{version}/{MARKER_NAME}", 1024)
        if marker is None or marker.data != self._token:
            raise self._overtaken(version, MARKER_NAME)

    def _overtaken(self, version: Version, path: str) -> Conflict:
        return Conflict(
            f"Somebody else is publishing version {version} to {self._folder.uri} too ({path} is "
            "not "
            "ours any more). Wait for it, or leave out --version to take a number of your own.",
            reason="publish_overtaken",
        )

    def _add(self, count: int) -> None:
        self._done_bytes += count
        self._progress(self._done_bytes, self._total_bytes)


class _Reader:
    """Reads a file in chunks off the loop, and hashes what it hands out."""

    CHUNK_BYTES = 2**20

    def __init__(self, file: LocalFile, add: Callable[[int], None]) -> None:
        self._file = file
        self._add = add
        self.sha = hashlib.sha256()
        self.size = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        with await asyncio.to_thread(self._file.source.open, "rb") as file:
            while chunk := await asyncio.to_thread(file.read, self.CHUNK_BYTES):
                if self.size > self._file.size:
                    return  # it is being written to, perhaps without end; the caller refuses it
                await asyncio.to_thread(self.sha.update, chunk)
                self.size += len(chunk)
                self._add(len(chunk))
                yield chunk


def _is_same(found: Entry | None, sent: FileEntry, etag: str) -> bool:
    if found is None or found.size != sent.size:
        return False
    return not etag or found.etag == etag


def _now() -> str:
    now = datetime.datetime.now(datetime.UTC)
    return now.isoformat(timespec="seconds").replace("+00:00", "Z")


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _silent(_done: int, _total: int) -> None: ...


def _ignore(_message: str) -> None: ...
