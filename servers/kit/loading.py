"""Load, warm and check one version on a loader thread; give it back on one too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from servers.kit import memory
from servers.kit.rowcheck import why_not_rowwise
from servers.kit.rows import Loaded, offered
from servers.kit.runtime import LoadedModel, Runtime
from servers.kit.warmup import warm


def load(runtime: Runtime, folder: Path, joins: bool, tell: Callable[[str], None]) -> Loaded:
    """Load, warm up, and see whether rows may be joined. Leaves nothing behind when it fails.

    Raises:
        InvalidRequest: no such model, a broken one, or one that fails its warm-up.
    """
    model = runtime.load(folder)
    try:
        tell("warming")
        warm(offered(model), folder)
        is_split = model.fixed_batch is not None and model.fixed_batch > 1
        reason = why_not_rowwise(model) if is_split or (joins and model.batchable) else ""
        return offered(model, reason)
    except BaseException:
        model.close()
        del model
        memory.give_back()
        raise


def unload(model: LoadedModel) -> None:
    """Close a version that nobody uses and return its memory to the system."""
    model.close()
    del model
    memory.give_back()
