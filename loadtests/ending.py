"""Nothing that a bench started outlives it, however it ends: done, failed, Ctrl-C or SIGTERM."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_GRACE_S = 10.0


@contextmanager
def nothing_left() -> Iterator[None]:
    """End whatever is still there of the processes that the block started, and theirs.

    Orphans (a replica whose gateway was killed) come to this process rather than to init, so they
    are found too. SIGTERM is taken as Ctrl-C, so that every `with` on the way is left in order; of
    both, the exit status is 130.
    """
    with suppress(OSError, AttributeError):  # not Linux: children are ended, orphans are not
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    earlier = signal.signal(signal.SIGTERM, _interrupt)
    known = {child.pid for child in psutil.Process().children()}
    try:
        yield
    except KeyboardInterrupt:
        print("\nstopped; ending what was started …", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    finally:
        patient = signal.signal(signal.SIGINT, signal.SIG_IGN)
        _end(known)
        signal.signal(signal.SIGINT, patient)
        signal.signal(signal.SIGTERM, earlier)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end(known: set[int]) -> None:
    """Politely first, then not; again until nothing is left, as orphans may come meanwhile."""
    for hard in (False, True, True, True):
        left = _descendants(known)
        if not left:
            return
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill() if hard else process.terminate()
        psutil.wait_procs(left, timeout=_GRACE_S)


def _descendants(known: set[int]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        if child.pid in known:
            continue
        with suppress(psutil.NoSuchProcess):
            found += [child, *child.children(recursive=True)]
    return [p for p in found if _is_running(p)]


def _is_running(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
