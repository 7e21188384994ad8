"""One loaded version, and who is using it."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.codecs.oip_forms import InferAnswers
from gateway.codecs.oip_json_forms import InferTexts
from gateway.codecs.proto_forms import MAX_FORMS
from gateway.codecs.tfs_forms import PredictAnswers
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
        self.checked: dict[Any, Any] = {}
        """What was found out about a form of request; for the fronts, by the form."""
        self.predict_answers = PredictAnswers()
        self.infer_answers = InferAnswers(name, version)
        self.infer_texts = InferTexts(name, version)
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"Servable({self.name!r}, {self.version}, in_flight={self.in_flight})"

    def remember(self, form: object, checked: object) -> None:
        """Keep what was found out about a form; callers choose forms, so not without bound."""
        if len(self.checked) >= MAX_FORMS:
            self.checked.clear()
        self.checked[form] = checked

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
        """Answer checked inputs (`servers.kit.checks`); until then it stays loaded."""
        self.in_flight += 1
        if self.in_flight == 1:
            self._idle.clear()
        try:
            return await self.batcher.run(signature, inputs, outputs, rows, deadline_at)
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()
