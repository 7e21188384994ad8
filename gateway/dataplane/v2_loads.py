"""What "load this model" does at the gateway: its source is looked at, now instead of soon.

Triton's callers put a version into the repository and ask for the model. Here the lifecycle loads
what the source shows by itself; the asking only saves the wait for its next look. The answer is
success while some version answers, and does not wait for one that is new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from gateway.codecs.oip_errors import Flavour
from gateway.dataplane import v2_own
from gateway.dataplane.plane import Dataplane
from gateway.ports import Reloader

_PAUSE_S = 1.0
"""Between two looks at one model's source for callers' sake: they may ask as often as they like,
and looking costs requests to object storage."""


class Loads:
    """Takes load requests; one for each front of a process."""

    def __init__(self, plane: Dataplane, reloader: Reloader | None) -> None:
        self._plane = plane
        self._reloader = reloader
        self._flavour = Flavour(plane.settings.v2_flavour)
        self._looked_at: dict[str, float] = {}

    async def load(self, name: str, parameters: Collection[str]) -> None:
        """Raises GatewayError as v2_own.check_load."""
        table = self._plane.table
        v2_own.check_load(table, name, parameters, self._flavour)
        now = asyncio.get_running_loop().time()
        if self._reloader is None or now - self._looked_at.get(name, -_PAUSE_S) < _PAUSE_S:
            return
        self._looked_at = {n: at for n, at in self._looked_at.items() if n in table.models}
        self._looked_at[name] = now
        await self._reloader.refresh(name)
