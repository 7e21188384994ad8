"""Bring the files of one version onto this disk: parallel ranges, resumed, verified.

Files are cut into parts of 8 MiB that are fetched by ranges, several at once, and written in place.
A part counts as had once its bytes are on the disk and a line in `parts.log` says so, so a fetch
that was cut off anywhere goes on from there. What is verified is the file as it lies on the disk,
read once more when its last part has come: that covers the network, resumed parts and the disk
alike, and costs about a second per GB off the event loop.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from gateway.domain.errors import GatewayError, NotFound, Unavailable
from gateway.storage.folder import ChangedMeanwhile, Folder
from gateway.storage.opening import Kind
from servers.kit import background
from servers.kit.background import in_background

PART_BYTES = 8 * 2**20
"""S3's own advice for ranges is 8 to 16 MiB; smaller parts lose less when a connection breaks."""

PARALLEL_PARTS = 4
"""Ranges at once. Four fill a 10 Gbit/s line from S3 (about 100 MB/s each) with 4 MiB in memory."""

PART_TRIES = 3
FILE_TRIES = 3
"""A file that is wrong three times is wrong at its source."""

RETRY_S = 0.3
"""Before the second try; doubled each time. obstore has retried with backoff already."""


@dataclass(frozen=True, slots=True)
class WantedFile:
    """One file to bring."""

    path: str
    """Relative to the version's folder; checked, so that it cannot lead out of it."""
    size: int
    etag: str = ""
    """Empty where a manifest says what the bytes must be."""
    sha256: str = ""
    """Empty where there is no manifest."""


@dataclass(frozen=True, slots=True)
class Part:
    """A range of one file."""

    file: int
    start: int
    end: int


class Download:
    """One fetch into one partial folder. The caller holds the entry's fetch lock."""

    def __init__(
        self, folder: Folder, below: str, files: Sequence[WantedFile], partial: Path, version: int
    ) -> None:
        """`below` is the version's folder in the source (`3`, `003`)."""
        self._folder = folder
        self._below = below
        self._files = files
        self._partial = partial
        self._into = partial / str(version)
        is_near = folder.location.kind is Kind.LOCAL
        self._at_once = background.THREADS if is_near else PARALLEL_PARTS
        """Parts. A disk of this machine is waited for by nobody; each copy takes a processor."""
        self._had: set[tuple[int, int]] = set()
        self._done_bytes = 0
        self.total_bytes = sum(file.size for file in files)
        self._progress: Callable[[int, int], None] = _ignore

    def plan(self) -> bytes:
        """What `plan.json` says; another plan cannot be resumed by this one."""
        return orjson.dumps(
            {
                "part_bytes": PART_BYTES,
                "total_bytes": self.total_bytes,
                "files": [[f.path, f.size, f.etag, f.sha256] for f in self._files],
            }
        )

    def resume(self) -> int:
        """Take up what an earlier fetch of the same plan left; returns the bytes still missing."""
        self._had.clear()
        try:
            same = (self._partial / "plan.json").read_bytes() == self.plan()
        except OSError:
            same = False
        if same:
            self._had = self._read_log()
        else:
            (self._partial / "parts.log").unlink(missing_ok=True)
        self._done_bytes = sum(
            part.end - part.start for part in self._parts() if (part.file, part.start) in self._had
        )
        return self.total_bytes - self._done_bytes

    async def run(self, progress: Callable[[int, int], None]) -> None:
        """Fetch what is missing and verify everything.

        Raises:
            NotFound: `file_missing`; a file that the manifest names is not there, or too short.
            Unavailable: `file_corrupt` after FILE_TRIES; `source_changing`; `disk_full`;
                `source_unreachable`.
        """
        self._progress = progress
        with _disk_errors(self._partial):
            await asyncio.to_thread(self._prepare)
            progress(self._done_bytes, self.total_bytes)
            wrong = list(range(len(self._files)))
            for attempt in range(FILE_TRIES):
                await self._fetch_parts()
                wrong = await self._verify(wrong)
                if not wrong:
                    return
                if attempt + 1 < FILE_TRIES:
                    await asyncio.to_thread(self._forget, wrong)
            await self._give_up(wrong[0])

    def _prepare(self) -> None:
        """Make folders and files of the right length, so that parts can be written anywhere."""
        for file in self._files:
            target = self._into / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("ab") as output:
                output.truncate(file.size)

    async def _fetch_parts(self) -> None:
        waiting = iter([p for p in self._parts() if (p.file, p.start) not in self._had])
        fd = os.open(self._partial / "parts.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._at_once):
                    group.create_task(self._worker(waiting, fd))
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            os.close(fd)

    async def _worker(self, waiting: Iterator[Part], log: int) -> None:
        for part in waiting:
            await self._fetch_part(part)
            self._had.add((part.file, part.start))
            os.write(log, f"{part.file} {part.start} {part.end - part.start}\n".encode())

    async def _fetch_part(self, part: Part) -> None:
        """One part onto the disk, tried again when the connection or the length is wrong."""
        pause_s = RETRY_S
        for attempt in range(1, PART_TRIES + 1):
            counted = 0

            def count(size: int) -> None:
                nonlocal counted
                counted += size
                self._done_bytes += size
                self._progress(self._done_bytes, self.total_bytes)

            try:
                await self._write_part(part, count)
                if counted == part.end - part.start:
                    return
                raise self._too_short(part, counted)
            except ChangedMeanwhile as error:
                raise self._changed(part) from error
            except (Unavailable, NotFound):
                if attempt == PART_TRIES:
                    raise
            self._done_bytes -= counted
            await asyncio.sleep(pause_s)
            pause_s *= 2

    async def _write_part(self, part: Part, count: Callable[[int], None]) -> None:
        file = self._files[part.file]
        fd = await asyncio.to_thread(os.open, self._into / file.path, os.O_WRONLY)
        try:
            offset = part.start
            source = f"{self._below}/{file.path}"
            stream = self._folder.stream(source, part.start, part.end, etag=file.etag)
            async with aclosing(stream) as chunks:
                async for chunk in chunks:
                    await in_background(_write_all, fd, chunk, offset)
                    offset += len(chunk)
                    count(len(chunk))
            await in_background(os.fdatasync, fd)
        finally:
            os.close(fd)

    async def _verify(self, indexes: Sequence[int]) -> list[int]:
        """Which of these files have another sha256 than their manifest says."""
        wrong = []
        for index in indexes:
            file = self._files[index]
            if file.sha256:
                found = await in_background(sha256_of, self._into / file.path)
                if found != file.sha256:
                    wrong.append(index)
        return wrong

    def _forget(self, indexes: Sequence[int]) -> None:
        """Fetch these files again, whole."""
        kept = {(file, start) for file, start in self._had if file not in indexes}
        lost = sum(
            part.end - part.start
            for part in self._parts()
            if (part.file, part.start) in self._had - kept
        )
        self._had = kept
        self._done_bytes -= lost
        sizes = {(p.file, p.start): p.end - p.start for p in self._parts()}
        lines = [f"{file} {start} {sizes[file, start]}\n" for file, start in sorted(kept)]
        temporary = self._partial / "parts.log.new"
        temporary.write_text("".join(lines))
        temporary.rename(self._partial / "parts.log")

    async def _give_up(self, index: int) -> None:
        file = self._files[index]
        found = await in_background(sha256_of, self._into / file.path)
        await asyncio.to_thread(self._forget, [index])
        raise Unavailable(
            f"{self._where(file)} is damaged: its sha256 is {found}, the manifest says "
            f"{file.sha256}; fetched {FILE_TRIES} times. Publish the version again under a new "
            "number.",
            reason="file_corrupt",
        )

    def _too_short(self, part: Part, counted: int) -> GatewayError:
        file = self._files[part.file]
        if not file.sha256:
            return self._changed(part)
        return NotFound(
            f"{self._where(file)} ends at byte {part.start + counted}; the manifest says "
            f"{file.size}. Publish the version again under a new number.",
            reason="file_truncated",
        )

    def _changed(self, part: Part) -> GatewayError:
        file = self._files[part.file]
        if file.sha256:
            return NotFound(
                f"{self._where(file)} is missing or shorter than the {file.size} bytes that the "
                "manifest says. Publish the version again under a new number.",
                reason="file_missing",
            )
        return changing(f"{self._folder.uri}/{self._below}", f"{file.path} is another file now")

    def _where(self, file: WantedFile) -> str:
        return f"{self._folder.uri}/{self._below}/{file.path}"

    def _parts(self) -> Iterator[Part]:
        for index, file in enumerate(self._files):
            for start in range(0, file.size, PART_BYTES):
                yield Part(index, start, min(start + PART_BYTES, file.size))

    def _read_log(self) -> set[tuple[int, int]]:
        possible = {(p.file, p.start): p.end - p.start for p in self._parts()}
        had = {(file, start): size for file, start, size in read_log(self._partial)}
        lengths = {}
        for index, file in enumerate(self._files):
            try:
                lengths[index] = (self._into / file.path).stat().st_size
            except OSError:
                lengths[index] = -1  # somebody removed it; what the log says of it is void
        return {
            key
            for key, size in had.items()
            if possible.get(key) == size and lengths[key[0]] == self._files[key[0]].size
        }


def read_log(partial: Path) -> list[tuple[int, int, int]]:
    """(file index, start, bytes) of every part had; a line that was cut off is passed over."""
    found = []
    try:
        lines = (partial / "parts.log").read_text().splitlines(keepends=True)
    except OSError:
        return []
    for line in lines:
        fields = line.split()
        if line.endswith("\n") and len(fields) == 3 and all(f.isdigit() for f in fields):
            found.append((int(fields[0]), int(fields[1]), int(fields[2])))
    return found


def changing(where: str, what: str) -> Unavailable:
    """The version is still being uploaded, or was replaced, while we fetched it."""
    return Unavailable(
        f"{where} changed while it was being fetched ({what}); it is not taken until it stands "
        "still. Versions should never be changed in place: upload under a new number.",
        reason="source_changing",
        retry_after_s=2.0,
    )


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


@contextmanager
def _disk_errors(partial: Path) -> Iterator[None]:
    """A disk that fills up during the fetch, in words."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Unavailable(
            f"The disk of {partial.parent.parent} became full while a version was being fetched; "
            "the part that had come was removed. Make room there, or give another --cache-dir.",
            reason="disk_full",
        ) from error


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The cause among what the workers raised: the others were only cancelled."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _ignore(_done: int, _total: int) -> None: ...
