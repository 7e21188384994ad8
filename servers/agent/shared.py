"""Versions placed where TensorFlow Serving reads them: `<shared>/<model>/<version>/`.

Files are fetched and verified by the kit's cache, then hard-linked (copied where the folders are on
different file systems) into a draft beside and renamed into place, so TensorFlow Serving never sees
half a version. Links and not symbolic links: the shared folder is often a volume of its own in
TensorFlow Serving's container, where the cache is not.

The folder belongs to the agent, which empties it when it starts; a marker file says so, and a
folder that holds anything else is refused.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from gateway.domain.errors import InvalidRequest, Unavailable
from gateway.domain.names import check_model_name
from servers.kit import logs
from servers.kit.versions import Lease, Progress, Versions

MARKER = ".gateway-agent"
_DRAFT = ".draft-"


class FolderNotOurs(OSError):
    """The shared folder holds something that the agent did not put there."""


def source_for(model: str, uri: str) -> str:
    """The source as the manager hands it to `SharedVersions`: `NAME=URI`, as after --model."""
    return f"{check_model_name(model)}={uri}"


class SharedVersions:
    """`servers.kit.versions.Versions` over another one, its files put into the shared folder."""

    def __init__(self, folder: Path, inner: Versions) -> None:
        """Take `folder` over and empty it.

        Raises:
            FolderNotOurs: it is not empty and has no marker.
            OSError: it cannot be made or written.
        """
        self.folder = folder.absolute()
        self._inner = inner
        self.folder.mkdir(parents=True, exist_ok=True)
        marker = self.folder / MARKER
        children = [child for child in self.folder.iterdir() if child != marker]
        if children and not marker.exists():
            raise FolderNotOurs(
                f"{self.folder} holds files that are not the agent's ({children[0].name}, …); "
                "name an empty folder with --shared-dir"
            )
        marker.touch()
        for child in children:
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()

    async def list_versions(self, source_uri: str) -> list[int]:
        """See `servers.kit.versions.Versions`."""
        return await self._inner.list_versions(_split(source_uri)[1])

    async def fetch(self, source_uri: str, version: int, progress: Progress) -> Lease:
        """Bring one version to `<shared>/<model>/<version>`. Raises also Unavailable (`disk`)."""
        model, uri = _split(source_uri)
        lease = await self._inner.fetch(uri, version, progress)
        to = self.folder / model / str(version)
        try:
            await asyncio.to_thread(_place, lease.path, to)
        except OSError as error:
            lease.release()
            raise Unavailable(
                f"version {version} of {model} cannot be placed in {self.folder}: {error}; "
                "look at the disk's free space and the folder's permissions",
                reason="shared_folder",
            ) from error
        except BaseException:
            lease.release()
            raise
        return SharedLease(to, lease)


class SharedLease:
    """One version in the shared folder; released, its folder is removed."""

    def __init__(self, path: Path, inner: Lease) -> None:
        self.path = path
        self._inner: Lease | None = inner

    def release(self) -> None:
        """Remove the folder. TensorFlow Serving has let go of it, or was never told of it."""
        if self._inner is None:
            return
        try:
            shutil.rmtree(self.path)
        except OSError as error:
            logs.warn("shared.not_removed", folder=self.path, why=error)
        self._inner.release()
        self._inner = None


def _split(source_uri: str) -> tuple[str, str]:
    model, equals, uri = source_uri.partition("=")
    if not equals:
        raise InvalidRequest(f"{source_uri!r} is not NAME=URI", reason="bad_source")
    return model, uri


def _place(source: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    draft = to.parent / f"{_DRAFT}{to.name}-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        shutil.copytree(source, draft, copy_function=_link)
        if to.exists():
            shutil.rmtree(to)
        draft.rename(to)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _link(source: str, to: str) -> str:
    try:
        os.link(source, to)
    except OSError:
        shutil.copy2(source, to)
    return to
