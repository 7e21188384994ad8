"""Read a model repository: its pointer, its versions' folders, their files.

Used from two sides that must agree about what a version is: the gateway's sources, which decide
what is aspired, and the model servers' cache, which fetches it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.codecs import manifest as documents
from gateway.codecs.manifest import MANIFEST_NAME, MARKER_NAME, OWN_NAMES, POINTER_NAME
from gateway.domain.errors import InvalidRequest, NotFound, Unavailable
from gateway.domain.names import Version, parse_version
from gateway.storage.folder import Blob, Entry, Folder, TooMany
from gateway.storage.opening import Kind

FLAT_LIMIT = 2_000
"""Objects that one flat listing may show before folders are listed one by one. Two pages: an
ordinary repository costs one request per look, and a source with a huge neighbour never more than
two too many."""

PARALLEL_LISTS = 8
"""Version folders listed at once; S3 allows thousands per second, a small server not."""


@dataclass(frozen=True, slots=True)
class VersionFolder:
    """One version's folder as a listing shows it."""

    version: Version
    name: str
    """The folder's name as it stands in the source: `00000123` for version 123."""
    entries: tuple[Entry, ...]
    """Model files and our own documents; paths relative to the version's folder, ascending."""

    @property
    def files(self) -> tuple[Entry, ...]:
        """Without our own documents."""
        return tuple(entry for entry in self.entries if entry.path not in OWN_NAMES)

    @property
    def is_unfinished(self) -> bool:
        """Nothing in it yet, or `gateway publish` is at work, or was cut off."""
        return not self.files or any(entry.path == MARKER_NAME for entry in self.entries)

    @property
    def has_manifest(self) -> bool:
        return any(entry.path == MANIFEST_NAME for entry in self.entries)

    @property
    def total_bytes(self) -> int:
        return sum(entry.size for entry in self.files)

    @property
    def fingerprint(self) -> str:
        """sha256 over names, sizes and ETags: another one means other content."""
        sha = hashlib.sha256()
        for entry in self.entries:
            sha.update(f"{entry.path}\0{entry.size}\0{entry.etag}\n".encode())
        return sha.hexdigest()


async def read_pointer(
    folder: Folder, known_etag: str = ""
) -> tuple[documents.Pointer, Blob] | None:
    """The pointer, or None where there is none. Raises Unchanged; InvalidRequest (`bad_source`)."""
    blob = await folder.read(POINTER_NAME, documents.MAX_POINTER_BYTES, known_etag=known_etag)
    if blob is None:
        return None
    try:
        return documents.parse_pointer(blob.data), blob
    except InvalidRequest as error:
        raise _at(folder.uri, error) from error


async def read_manifest(
    folder: Folder, name: str, version: Version, sha256: str | None
) -> documents.Manifest | None:
    """The manifest in the folder called `name`, checked against its digest in the pointer.

    Raises:
        Unavailable: `manifest_mismatch`; it is not the one that the pointer means.
        InvalidRequest: `bad_source`; it is none, or another version's.
    """
    path = f"{name}/{MANIFEST_NAME}"
    blob = await folder.read(path, documents.MAX_MANIFEST_BYTES)
    if blob is None:
        return None
    found = documents.digest(blob.data)
    if sha256 is not None and found != sha256:
        raise Unavailable(
            f"{folder.uri}/{path} is not the manifest that {POINTER_NAME} means: its sha256 is "
            f"{found}, expected {sha256}. Publish the version again under a new number.",
            reason="manifest_mismatch",
        )
    try:
        manifest = documents.parse_manifest(blob.data)
    except InvalidRequest as error:
        raise _at(f"{folder.uri}/{name}", error) from error
    if manifest.version != version:
        raise InvalidRequest(
            f"{folder.uri}/{path} is the manifest of version {manifest.version}. It was copied "
            "from "
            "another folder; publish the version again.",
            reason="bad_source",
        )
    return manifest


async def list_versions(folder: Folder) -> dict[Version, VersionFolder]:
    """Every version's folder with its files; no pointer needed. Empty where there are none.

    Raises:
        NotFound: no such bucket or local folder.
        InvalidRequest: a version has more files than we take.
        Forbidden, Unavailable.
    """
    if folder.location.kind is not Kind.LOCAL:
        # One flat request shows an ordinary repository whole. Local folders are walked by folder,
        # as only that shows a version's folder that is still empty.
        try:
            entries = await folder.walk(limit=FLAT_LIMIT)
        except TooMany:
            pass
        else:
            return _grouped(entries)
    names = _version_names((await folder.children())[0])
    return await _list_each(folder, names)


async def list_version(folder: Folder, version: Version) -> VersionFolder:
    """One version's folder. Raises NotFound (`version_not_found`) and as `list_versions`."""
    found = await _list_one(folder, version, str(version))
    if found.entries:
        return found
    names = _version_names((await folder.children())[0])
    if version in names and names[version] != str(version):
        return await _list_one(folder, version, names[version])
    if version in names:
        return found
    known = ", ".join(str(number) for number in sorted(names)[-5:]) or "none"
    raise NotFound(
        f"{folder.uri} has no version {version} (there: {known}).", reason="version_not_found"
    )


async def _list_each(folder: Folder, names: Mapping[Version, str]) -> dict[Version, VersionFolder]:
    slots = asyncio.Semaphore(PARALLEL_LISTS)

    async def one(version: Version, name: str) -> VersionFolder:
        async with slots:
            return await _list_one(folder, version, name)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(version, name)) for version, name in names.items()]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return {task.result().version: task.result() for task in tasks}


async def _list_one(folder: Folder, version: Version, name: str) -> VersionFolder:
    try:
        entries = await folder.walk(name, limit=documents.MAX_FILES)
    except TooMany:
        raise InvalidRequest(
            f"{folder.uri}/{name} holds more than {documents.MAX_FILES} files; a version of a "
            "model "
            "must hold fewer.",
            reason="bad_source",
        ) from None
    return VersionFolder(version, name, _inside(name, entries))


def _grouped(entries: Sequence[Entry]) -> dict[Version, VersionFolder]:
    by_name: dict[str, list[Entry]] = {}
    for entry in entries:
        name, slash, _ = entry.path.partition("/")
        if slash:
            by_name.setdefault(name, []).append(entry)
    names = _version_names(list(by_name))
    return {
        version: VersionFolder(version, name, _inside(name, by_name[name]))
        for version, name in names.items()
    }


def _version_names(folders: Sequence[str]) -> dict[Version, str]:
    """Which folder is which version. Of `3` and `003` the shorter name is taken, always."""
    found: dict[Version, str] = {}
    for name in sorted(folders, key=lambda name: (len(name), name)):
        version = parse_version(name)
        if version is not None:
            found.setdefault(version, name)
    return dict(sorted(found.items()))


def _inside(name: str, entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Paths relative to the version's folder, without the empty objects by which consoles show
    folders (`3/variables/`, whose slash obstore drops)."""
    inside = [Entry(e.path[len(name) + 1 :], e.size, e.etag) for e in entries]
    parents: set[str] = set()
    for entry in inside:
        parent = entry.path
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            parents.add(parent)
    return tuple(e for e in inside if e.path and not (e.size == 0 and e.path in parents))


def _at(where: str, error: InvalidRequest) -> InvalidRequest:
    return InvalidRequest(f"{where}: {error.message}", reason=error.reason)
