"""Replace a repository's pointer so that two publishers both survive.

Read it, add to it, write it back on the condition that it is still the one that was read; else
begin again. Object stores check the condition themselves (If-Match, If-None-Match, generation). A
local folder's store cannot, so there the same is done under an flock, ending in an atomic rename.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from random import Random

from gateway.codecs.manifest import (
    POINTER_NAME,
    Pointer,
    PointerEntry,
    build_pointer,
    parse_pointer,
)
from gateway.domain.errors import Conflict, Unavailable
from gateway.domain.names import Version
from gateway.storage.folder import ChangedMeanwhile, Folder, Unchanged
from gateway.storage.opening import Kind
from gateway.storage.repository import read_pointer

TRIES = 20
"""Each lost round means that somebody else published; twenty in a row need a crowd."""

LOCK_NAME = f".{POINTER_NAME}.lock"
LOCK_WAIT_S = 30.0
"""The lock is held for two file writes; who waits this long stands behind a stopped process."""


async def add_version(folder: Folder, version: Version, entry: PointerEntry, rng: Random) -> None:
    """Name `version` in the pointer, keeping all others.

    Raises:
        Conflict: `version_exists`; somebody published it meanwhile.
        Unavailable: `publish_contended` after TRIES; and as storage.Folder.
    """
    if folder.location.kind is Kind.LOCAL:
        await _add_locally(Path(folder.location.root), folder.uri, version, entry)
        return
    for attempt in range(TRIES):
        try:
            found = await read_pointer(folder)
            if found is None:
                data = build_pointer(Pointer({version: entry}))
                await folder.create(POINTER_NAME, data)
            else:
                pointer, blob = found
                data = build_pointer(_with(pointer, folder.uri, version, entry))
                await folder.replace(POINTER_NAME, data, blob)
        except (ChangedMeanwhile, Unchanged):
            await asyncio.sleep(rng.uniform(0.0, min(1.0, 0.02 * 2**attempt)))
        else:
            return
    raise Unavailable(
        f"{folder.uri}/{POINTER_NAME} was changed by others {TRIES} times in a row. The files of "
        f"version {version} are uploaded; publish it again.",
        reason="publish_contended",
    )


def _with(pointer: Pointer, uri: str, version: Version, entry: PointerEntry) -> Pointer:
    if version in pointer.versions:
        raise already_there(uri, version)
    versions: Mapping[Version, PointerEntry] = {**pointer.versions, version: entry}
    return Pointer(versions)


def already_there(uri: str, version: Version) -> Conflict:
    """Published versions never change."""
    return Conflict(
        f"{uri} has version {version} already, and a published version never changes. Leave out "
        "--version to take the next free number.",
        reason="version_exists",
    )


async def _add_locally(root: Path, uri: str, version: Version, entry: PointerEntry) -> None:
    loop = asyncio.get_running_loop()
    give_up = loop.time() + LOCK_WAIT_S
    fd = os.open(root / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while not _try_flock(fd):
            if loop.time() > give_up:
                raise Unavailable(
                    f"{root / LOCK_NAME} has been locked for {LOCK_WAIT_S:g} s by another "
                    "`gateway publish`. End it and publish again.",
                    reason="publish_contended",
                )
            await asyncio.sleep(0.02)
        _replace_file(root, uri, version, entry)
    finally:
        os.close(fd)


def _try_flock(fd: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _replace_file(root: Path, uri: str, version: Version, entry: PointerEntry) -> None:
    path = root / POINTER_NAME
    pointer = parse_pointer(path.read_bytes()) if path.exists() else Pointer()
    temporary = root / f".{POINTER_NAME}.new"  # one name is enough under the lock
    with temporary.open("wb") as output:
        output.write(build_pointer(_with(pointer, uri, version, entry)))
        output.flush()
        os.fsync(output.fileno())
    temporary.replace(path)
    folder = os.open(root, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
