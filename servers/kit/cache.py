"""The folder in which model servers of one machine keep fetched versions.

    entries/<entry>/entry.json        what it is, its files' sizes; its mtime is the last use
    entries/<entry>/<version>/…       the model's files, complete and verified
    partial/<entry>/…                 a fetch under way, or cut off; resumed by the next one
    locks/<entry>.fetch .lease        flocks: exclusive by the one who fetches; shared by users
    trash/                            renamed away, being deleted

An entry is complete if and only if its folder is under entries/, as it gets there by one rename.
All exclusion is by flock, which the kernel gives back when a process dies, so no lease outlives
SIGKILL and nothing needs a timeout. Entries that nobody leases are evicted, the least recently
used first.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from gateway.domain.errors import Unavailable

DISK_MARGIN_BYTES = 32 * 2**20
"""Left free on the disk beyond the model: logs and the state database of others live there too."""

_counter = itertools.count()


class FileLock:
    """A held flock on a file of its own. Released by `release`, or by the process's death."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path

    @classmethod
    def try_acquire(cls, path: Path, *, shared: bool) -> FileLock | None:
        """Take it if that needs no waiting; else None.

        The file may be removed by its exclusive holder, so whoever gets a lock checks that the file
        it locked is still the one with that name.
        """
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                if _same_file(fd, path):
                    return cls(fd, path)
            except BlockingIOError:
                os.close(fd)
                return None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def remove_file(self) -> None:
        """Remove the lock's file. Only while holding it exclusively."""
        self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let go. A second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclass(frozen=True, slots=True)
class Entry:
    """One complete version in the cache."""

    name: str
    total_bytes: int
    last_use: float
    """mtime of its entry.json; only compared with others of the same disk."""


class CacheFolder:
    """The folder's layout, leases and eviction. Its methods touch only the disk; call the ones that
    may take long (`make_room`, `discard`) off the event loop."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        """`max_bytes` 0 sets no bound beyond the disk. Raises OSError if `root` cannot be made."""
        self.root = root
        self.max_bytes = max_bytes
        for name in ("entries", "partial", "locks", "trash"):
            (root / name).mkdir(parents=True, exist_ok=True)

    @staticmethod
    def entry_name(source_uri: str, version: int, fingerprint: str) -> str:
        """The key: the same version of the same source with the same content."""
        content = hashlib.sha256(fingerprint.encode()).hexdigest()[:20]
        return f"{_source_key(source_uri)}-{version}-{content}"

    def folder(self, name: str) -> Path:
        """Where a complete entry is."""
        return self.root / "entries" / name

    def partial(self, name: str) -> Path:
        """Where it is while being fetched."""
        return self.root / "partial" / name

    def try_fetch_lock(self, name: str) -> FileLock | None:
        """The right to fetch this entry."""
        return FileLock.try_acquire(self.root / "locks" / f"{name}.fetch", shared=False)

    def try_lease(self, name: str) -> FileLock | None:
        """A shared lock on a complete, undamaged entry, which counts as a use; else None."""
        if not self.folder(name).is_dir():
            return None
        lock = FileLock.try_acquire(self._lease_file(name), shared=True)
        if lock is None:  # it is being evicted
            return None
        if self.folder(name).is_dir() and self._is_whole(name):
            self.touch(name)
            return lock
        lock.release()
        return None

    def touch(self, name: str) -> None:
        """Note a use."""
        with suppress(FileNotFoundError):
            os.utime(self.folder(name) / "entry.json")

    def newest(self, source_uri: str, version: int) -> str | None:
        """The entry of this version that was used last, whatever its content."""
        prefix = f"{_source_key(source_uri)}-{version}-"
        found = [entry for entry in self.entries() if entry.name.startswith(prefix)]
        return max(found, key=lambda entry: entry.last_use).name if found else None

    def entries(self) -> list[Entry]:
        """All complete entries, least recently used first."""
        found = []
        for path in (self.root / "entries").iterdir():
            with suppress(FileNotFoundError):
                document = _read_json(path / "entry.json")
                total = document.get("total_bytes", 0)
                last_use = (path / "entry.json").stat().st_mtime
                found.append(Entry(path.name, total if isinstance(total, int) else 0, last_use))
        return sorted(found, key=lambda entry: entry.last_use)

    def complete(self, name: str, version: int, files: Sequence[tuple[str, int]]) -> None:
        """Make the partial an entry, by one rename, after everything in it has reached the disk."""
        partial = self.partial(name)
        document = {
            "version": version,
            "total_bytes": sum(size for _, size in files),
            "files": [list(file) for file in files],
        }
        for leftover in ("plan.json", "parts.log"):
            (partial / leftover).unlink(missing_ok=True)
        (partial / "entry.json").write_bytes(orjson.dumps(document))
        for path in [partial / "entry.json", *_folders_below(partial)]:
            _sync(path)
        partial.rename(self.folder(name))
        _sync(self.root / "entries")

    def make_room(self, name: str, total: int, missing: int, plan: bytes) -> None:
        """Evict until `total` more bytes fit the bound and the `missing` ones the disk, then write
        `plan` into the partial, by which other processes count these bytes too.

        Raises:
            Unavailable: `cache_full` or `disk_full`, with how much is needed and there.
        """
        if self.max_bytes and total > self.max_bytes:
            raise Unavailable(
                f"The version has {_mb(total)} and the cache in {self.root} may hold "
                f"{_mb(self.max_bytes)}. Raise --cache-bytes.",
                reason="cache_full",
            )
        with self._room():
            for grave in (self.root / "trash").iterdir():  # left by a process that died deleting
                shutil.rmtree(grave, ignore_errors=True)
            while (missing_space := self._missing_space(name, total, missing)) is not None:
                if not (self._evict_one() or self._drop_abandoned(name)):
                    raise missing_space
            partial = self.partial(name)
            partial.mkdir(parents=True, exist_ok=True)
            temporary = partial / "plan.json.new"
            temporary.write_bytes(plan)
            temporary.rename(partial / "plan.json")

    def discard(self, folder: Path) -> None:
        """Remove a folder so that nobody sees it half removed."""
        grave = self.root / "trash" / f"{folder.name}-{os.getpid()}-{next(_counter)}"
        try:
            folder.rename(grave)
        except FileNotFoundError:
            return
        shutil.rmtree(grave, ignore_errors=True)

    def discard_entry(self, name: str) -> bool:
        """Remove a complete entry unless somebody leases it; whether it is gone."""
        lock = FileLock.try_acquire(self._lease_file(name), shared=False)
        if lock is None:
            return False
        try:
            self.discard(self.folder(name))
            lock.remove_file()
        finally:
            lock.release()
        return True

    def free_bytes(self) -> int:
        """Free on the cache's disk, for us."""
        return shutil.disk_usage(self.root).free

    def _missing_space(self, name: str, total: int, missing: int) -> Unavailable | None:
        """What is short, or None."""
        free = self.free_bytes()
        if free < missing + DISK_MARGIN_BYTES:
            return Unavailable(
                f"The version needs {_mb(missing)} more and {_mb(free)} are free on the disk of "
                f"{self.root} ({_mb(DISK_MARGIN_BYTES)} of them are kept free). Make room there, "
                "or "
                "give another --cache-dir.",
                reason="disk_full",
            )
        used = sum(entry.total_bytes for entry in self.entries()) + self._promised(name)
        if self.max_bytes and used + total > self.max_bytes:
            return Unavailable(
                f"The version has {_mb(total)}, and {_mb(used)} of the {_mb(self.max_bytes)} "
                "that the "
                f"cache in {self.root} may hold are loaded or being fetched. Raise --cache-bytes, "
                "or keep fewer versions loaded.",
                reason="cache_full",
            )
        return None

    def _promised(self, but: str) -> int:
        """Bytes that fetches under way or cut off have claimed."""
        total = 0
        for path in (self.root / "partial").iterdir():
            if path.name != but:
                claimed = _read_json(path / "plan.json").get("total_bytes", 0)
                total += claimed if isinstance(claimed, int) else 0
        return total

    def _evict_one(self) -> bool:
        return any(self.discard_entry(entry.name) for entry in self.entries())

    def _drop_abandoned(self, but: str) -> bool:
        """Remove one partial that nobody is fetching."""
        for path in sorted((self.root / "partial").iterdir()):
            if path.name == but:
                continue
            lock = self.try_fetch_lock(path.name)
            if lock is None:
                continue
            try:
                self.discard(path)
                lock.remove_file()
            finally:
                lock.release()
            return True
        return False

    def _is_whole(self, name: str) -> bool:
        """Whether every file is there with its size; catches what a full disk or a person did."""
        folder = self.folder(name)
        document = _read_json(folder / "entry.json")
        version, files = document.get("version"), document.get("files")
        if not isinstance(files, list):
            return False
        try:
            return all(
                (folder / str(version) / path).stat().st_size == size for path, size in files
            )
        except (OSError, ValueError, TypeError):
            return False

    @contextmanager
    def _room(self) -> Iterator[None]:
        """One process at a time decides who goes; held for as long as deleting takes."""
        fd = os.open(self.root / "locks" / "room", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _lease_file(self, name: str) -> Path:
        return self.root / "locks" / f"{name}.lease"


def _source_key(source_uri: str) -> str:
    return hashlib.sha256(source_uri.encode()).hexdigest()[:20]


def _same_file(fd: int, path: Path) -> bool:
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(fd)
    return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)


def _read_json(path: Path) -> dict[str, Any]:
    """A document of ours; empty when it is not there or cut off."""
    try:
        document = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return document if isinstance(document, dict) else {}


def _folders_below(root: Path) -> list[Path]:
    return [Path(folder) for folder, _, _ in os.walk(root)]


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(fd)


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
