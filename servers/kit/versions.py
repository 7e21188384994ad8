"""Where versions come from, as the manager sees it; and the simplest kind, a folder right here.

`servers.kit.fetch.VersionCache` is the other kind: it fetches from object storage. Without a cache
folder a plain path is served in place, without a copy: it is what `docker run -v models:/models`
and every tutorial do. With one everything is copied, so that a file overwritten in place cannot
change under a model that has it mapped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from gateway.domain.errors import InvalidRequest, NotFound
from gateway.domain.names import parse_version

Progress = Callable[[int, int], None]
"""Bytes there and bytes in all."""


class Lease(Protocol):
    """One version's folder, whole, and kept until released."""

    @property
    def path(self) -> Path: ...

    def release(self) -> None:
        """Let go of it; more than once is no error."""
        ...


class Versions(Protocol):
    """Lists and brings the versions of a source."""

    async def list_versions(self, source_uri: str) -> list[int]:
        """Versions there now. Raises NotFound, Forbidden, Unavailable, InvalidRequest."""
        ...

    async def fetch(self, source_uri: str, version: int, progress: Progress) -> Lease:
        """Bring one version here. Raises the same."""
        ...


class Folder:
    """A folder that is simply there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def release(self) -> None: ...


def local_path(source_uri: str) -> Path | None:
    """The folder a plain path or `file://` URI names; None for any other URI."""
    if "://" not in source_uri:
        return Path(source_uri)
    parts = urlsplit(source_uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        return None
    return Path(unquote(parts.path))


class LocalFolders:
    """Versions that are sub-folders of a folder on this machine, used where they lie."""

    async def list_versions(self, source_uri: str) -> list[int]:
        """Sub-folders whose names are versions."""
        return sorted(await asyncio.to_thread(_scan, source_uri))

    async def fetch(self, source_uri: str, version: int, progress: Progress) -> Lease:
        """Find the folder of one version; nothing is copied."""
        found = await asyncio.to_thread(_scan, source_uri)
        if version not in found:
            raise NotFound(
                f"Version {version} is not in {source_uri}; it has "
                f"{', '.join(map(str, sorted(found))) or 'no versions'}",
                reason="version_unknown",
            )
        return Folder(found[version])


def _scan(source_uri: str) -> dict[int, Path]:
    folder = local_path(source_uri)
    if folder is None:
        raise InvalidRequest(f"{source_uri} is not a folder of this machine", reason="bad_source")
    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}", reason="source_not_found")
    found: dict[int, Path] = {}
    for child in sorted(folder.iterdir()):
        version = parse_version(child.name)
        if version is not None and child.is_dir():
            found[version] = child
    return found


class BySource:
    """Folders in place, everything else through a cache that is made when first needed."""

    def __init__(self, make_cache: Callable[[], Versions]) -> None:
        self._local = LocalFolders()
        self._make_cache = make_cache
        self._cache: Versions | None = None

    def _for(self, source_uri: str) -> Versions:
        if local_path(source_uri) is not None:
            return self._local
        if self._cache is None:
            self._cache = self._make_cache()
        return self._cache

    async def list_versions(self, source_uri: str) -> list[int]:
        """See Versions."""
        return await self._for(source_uri).list_versions(source_uri)

    async def fetch(self, source_uri: str, version: int, progress: Progress) -> Lease:
        """See Versions."""
        return await self._for(source_uri).fetch(source_uri, version, progress)
