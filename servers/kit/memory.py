"""Give freed memory back to the system.

Closing a model frees it inside the process only: Python keeps cycles until a collection, and glibc
keeps freed chunks in its arenas. A server that swaps versions for weeks would look as if it leaked.
"""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back() -> None:
    """Collect garbage and return free heap pages. Slow (tens of ms): never on the event loop."""
    gc.collect()
    if sys.platform != "linux":
        return
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return  # musl has no malloc_trim and returns large blocks by itself
    trim(0)
