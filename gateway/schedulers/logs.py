"""Bounded logs of replicas: each writes its own file, and keeps writing when the gateway is gone.

Replicas append to plain files instead of pipes, so that neither a restart nor a crash of the
gateway loses a line or blocks a replica. The bound is kept by copying a file that has grown too
long aside and truncating it; lines written in between (microseconds) may be lost.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

_CHUNK_BYTES = 64 * 1024
_FOLLOW_EVERY_S = 0.2
_TAIL_BYTES = 4096


def bound(log: Path, max_bytes: int) -> None:
    """Keep `log` and its predecessor together below about twice `max_bytes`."""
    try:
        if log.stat().st_size <= max_bytes:
            return
        shutil.copyfile(log, predecessor(log))
        with log.open("r+b") as file:
            file.truncate(0)
    except FileNotFoundError:
        return


def predecessor(log: Path) -> Path:
    """Where the older part of a log lies."""
    return log.with_suffix(".log.1")


def tail(log: Path, lines: int = 3, max_chars: int = 400) -> str:
    """The last lines that say anything, for the reason of a failure."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    said = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(said[-lines:])[-max_chars:]


def forget_old(directory: Path, keep: int, in_use: Callable[[str], bool]) -> None:
    """Delete all but the newest `keep` logs of replicas that have stopped."""
    logs = [p for p in directory.glob("*.log") if not in_use(p.stem)]
    logs.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    for old in logs[keep:]:
        predecessor(old).unlink(missing_ok=True)
        old.unlink(missing_ok=True)


async def read(log: Path, *, follow: bool, is_running: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The output, oldest first; with `follow`, on until the replica has stopped."""
    older = predecessor(log)
    if older.exists():
        with older.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    offset = 0
    while True:
        was_running = is_running()
        with log.open("rb") as file:
            if file.seek(0, 2) < offset:
                offset = 0
            file.seek(offset)
            while chunk := file.read(_CHUNK_BYTES):
                offset += len(chunk)
                yield chunk
        if not follow or not was_running:
            return
        await asyncio.sleep(_FOLLOW_EVERY_S)
