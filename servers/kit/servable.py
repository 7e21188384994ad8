"""One loaded version, and who is using it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.domain.errors import InvalidRequest
from gateway.domain.tensors import DEFAULT_SIGNATURE, Signature
from servers.kit.batching import Batcher
from servers.kit.rows import Loaded
from servers.kit.runtime import Arrays
from servers.kit.versions import Lease


class Servable:
    """A version that answers. Closed only once nobody holds it."""

    def __init__(self, name: str, version: int, loaded: Loaded, batcher: Batcher) -> None:
        self.name = name
        self.version = version
        self.loaded = loaded
        self.signatures = loaded.signatures
        self.batcher = batcher
        self.lease: Lease | None = None
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"Servable({self.name!r}, {self.version}, in_flight={self.in_flight})"

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep it loaded for the length of one request."""
        self.in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def drain(self, longest_s: float) -> None:
        """Wait for its requests; after `longest_s` refuse those that are still queued.

        Returns only once no run is under way, however long that takes.
        """
        try:
            async with asyncio.timeout(longest_s):
                await self._idle.wait()
        except TimeoutError:
            self.batcher.refuse_queued()
        await self.batcher.settle()

    def signature(self, name: str) -> tuple[str, Signature]:
        """The named signature, `serving_default` for an empty name.

        Raises:
            InvalidRequest: the model has none of that name (`unknown_signature`).
        """
        asked = name or DEFAULT_SIGNATURE
        found = self.signatures.get(asked)
        if found is None:
            raise InvalidRequest(
                f'Serving signature name: "{asked}" not found in signature def',
                reason="unknown_signature",
            )
        return asked, found

    async def predict(
        self,
        signature: str,
        inputs: Arrays,
        outputs: tuple[str, ...],
        rows: int,
        deadline_at: float,
    ) -> Arrays:
        """Answer checked inputs (`servers.kit.checks`)."""
        with self.hold():
            return await self.batcher.run(signature, inputs, outputs, rows, deadline_at)
