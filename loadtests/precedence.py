"""Run before others, or behind them: the niceness of all that a bench starts.

Where the kernel groups processes by session (sched_autogroup_enabled), niceness counts within one
only, and what counts between them is the session's own, in /proc/PID/autogroup. Replicas
and workers have sessions of their own, so they are looked for as they come.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_LOOK_S = 0.25


@contextmanager
def precedence(nice: int) -> Iterator[None]:
    """This process, and all that it starts within the block, at this niceness.

    Raises:
        SystemExit: it is not allowed.
    """
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except PermissionError as error:
        raise SystemExit(f"--nice {nice} needs root") from error
    if not nice:
        yield
        return
    over = threading.Event()
    looking = threading.Thread(target=_look, args=(nice, over), daemon=True)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()


def _look(nice: int, over: threading.Event) -> None:
    done: set[int] = set()
    me = psutil.Process()
    while True:
        for pid in (me.pid, *(child.pid for child in me.children(recursive=True))):
            with suppress(OSError):  # it has ended, or there are no such groups
                session = os.getsid(pid)
                if session not in done:
                    Path(f"/proc/{pid}/autogroup").write_text(str(nice))
                    done.add(session)
        if over.wait(_LOOK_S):
            return
