"""Memory that is not moved about: what is freed is kept, what stays is not looked at again.

**Freed memory is kept for the next request.**

Each read from a socket fills a fresh buffer of up to 256 KB, which is freed microseconds later.
glibc gives what is free at the end of its heap back to the system beyond 128 KB, so every large
request pays for getting it again: a system call, and a fault for each of its pages. Measured with
messages of 150 KB passed on over gRPC: 240 µs of CPU a request without this, 173 with it.

**What was made by the start is spared from garbage collections** (gc.freeze). A full collection
looks at every object there is, with everything else held up: 75,000 in a gateway that has just
started, nearly all of them code, 20 ms and up to 60 on a busy machine, several times while a
version is swapped. Without them it takes less than a tenth of a millisecond.
"""

from __future__ import annotations

import ctypes
import gc
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h

_KEPT_BYTES = 32 << 20
"""What may stay unused at the end of the heap. Bounds what an idle process keeps for nothing."""

_STEP_BYTES = 4 << 20
"""How much more is asked for than is needed, when it is."""

_MMAP_BYTES = 32 << 20
"""Smaller blocks come from the heap; the most that glibc takes (HEAP_MAX_SIZE / 2 on 64 bits)."""


def keep_freed_memory() -> bool:
    """To be called once, early; whether there is glibc to be told. Elsewhere nothing happens."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another libc
        return False
    return all(
        mallopt(name, size) == 1
        for name, size in (
            (_M_TRIM_THRESHOLD, _KEPT_BYTES),
            (_M_TOP_PAD, _STEP_BYTES),
            (_M_MMAP_THRESHOLD, _MMAP_BYTES),
        )
    )


def spare_what_is_there() -> None:
    """To be called once, when all that stays has been made: modules, settings, connections. It is
    never collected after that, so nothing may be among it that is to be freed and is in a cycle."""
    gc.collect()
    gc.freeze()
