"""One copied request: asked of the canary once its caller has the stable version's answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from gateway.core.dialect import Dialect
from gateway.core.route import Canary, ModelRoute, Target
from gateway.dataplane.callers import Kept, Transport
from gateway.dataplane.inflight import Use
from gateway.dataplane.shadow_compare import Compared, Exchanged, direct_answer
from gateway.dataplane.signatures import Signatures
from gateway.dataplane.translated_calls import Kind, asked, words_of
from gateway.domain.errors import DeadlineExceeded, GatewayError, UpstreamFailed
from gateway.domain.names import Version
from gateway.ports import Upstream, UpstreamAnswer
from gateway.wire.exchange import Data, ResponseHead

if TYPE_CHECKING:
    from gateway.dataplane.forwarding import Forwarding
    from gateway.dataplane.plane import Dataplane
    from gateway.dataplane.shadowing import Shadowing

_WORDS_CHARS = 200
_SKIPPED = "skipped", None

Outcome = tuple[str, Compared | None]


class Copy:
    """Made before its caller has the answer; then `answered` or `told`."""

    __slots__ = (
        "_canary", "_kept", "_model", "_plane", "_shadowing", "_speaks", "_transport", "_use",
    )  # fmt: skip

    def __init__(
        self,
        plane: Dataplane,
        shadowing: Shadowing,
        asking: Forwarding,
        canary: Canary,
        use: Use,
        kept: Kept,
    ) -> None:
        self._plane = plane
        self._shadowing = shadowing
        self._canary = canary
        self._use = use
        self._kept = kept
        self._model = asking.name
        self._transport: Transport = asking.transport
        self._speaks = asking.speaks

    def __repr__(self) -> str:
        return f"Copy({self._model}, {self._use} to version {self._canary.version})"

    def answered(self, head: ResponseHead, pieces: Sequence[Data]) -> None:
        """The caller has this answer."""
        most = self._plane.settings.max_body_bytes
        stable = partial(direct_answer, self._transport.dialect, head, pieces, most)
        self._begin(stable, sum(map(len, pieces)))

    def told(self, answer: UpstreamAnswer) -> None:
        """The caller has this answer, which was awaited."""
        self._begin(lambda: answer, len(answer.body))

    def _begin(self, stable: Callable[[], UpstreamAnswer], answer_bytes: int) -> None:
        size_bytes = self._kept.size_bytes + answer_bytes
        self._shadowing.begun(self._model, size_bytes)
        self._plane.tasks.start(self._run(stable, size_bytes))

    async def _run(self, stable: Callable[[], UpstreamAnswer], size_bytes: int) -> None:
        outcome, found = _SKIPPED
        try:
            outcome, found = await self._asked(stable)
        finally:
            self._shadowing.ended(self._model, size_bytes)
            self._shadowing.tell(self._model, self._canary.window, outcome, found)

    async def _asked(self, stable: Callable[[], UpstreamAnswer]) -> Outcome:
        """Ask the canary, and compare. A replica that is gone, overloaded or late says nothing of
        what the canary predicts, and errors are counted where callers get them: only what the
        canary itself refuses, or answers wrongly, is a failure."""
        try:
            return await self._compared(stable)
        except DeadlineExceeded:
            return _SKIPPED
        except UpstreamFailed as error:
            return _failed(error.message) if error.reason == "bad_answer" else _SKIPPED
        except GatewayError as error:
            return _failed(error.message)

    async def _compared(self, stable: Callable[[], UpstreamAnswer]) -> Outcome:
        transport, canary, shadowing = self._transport, self._canary, self._shadowing
        model = self._plane.table.models.get(self._model)
        target = None if model is None else self._target(model)
        if model is None or target is None:
            return _SKIPPED
        request = self._kept.request(model.timeout_s)
        if asked(transport.dialect, request).kind is not Kind.INFER:
            return _SKIPPED
        deadline_at = self._plane.loop.time() + model.timeout_s
        answer = await self._upstream(target).call(target.endpoint, request, deadline_at)
        if answer.status > transport.last_good:
            busy = (transport.unavailable, transport.overloaded, transport.not_found)
            return _SKIPPED if answer.status in busy else _failed(words_of(answer))
        signatures = await self._signatures(model, target, deadline_at)
        if signatures is None:
            return _SKIPPED
        exchanged = Exchanged(transport.dialect, request, stable, answer, signatures)
        found = await shadowing.compared(exchanged, canary.tolerance)
        if found.stable_error:
            return _SKIPPED
        return ("failed" if found.canary_error else "compared"), found

    def _target(self, model: ModelRoute) -> Target | None:
        """The replica that has answered, or another one."""
        targets = model.canary_targets(self._canary)
        same = next((t for t in targets if t.replica_id == self._use[2]), None)
        return same or (self._plane.rng.choice(targets) if targets else None)

    def _upstream(self, target: Target) -> Upstream:
        translation, dialect = self._plane.translation, self._transport.dialect
        return translation.between(dialect, target.endpoint, self._speaks) or (
            self._transport.upstream
        )

    async def _signatures(
        self, model: ModelRoute, canary: Target, deadline_at: float
    ) -> tuple[Signatures, Signatures] | None:
        """Of both versions, where answers cannot be read without; None where they are not told."""
        if self._transport.dialect is not Dialect.TFS_REST:
            return {}, {}
        _, version, replica_id = self._use
        targets = model.targets.get(version, ())
        stable = next((t for t in targets if t.replica_id == replica_id), None)
        if stable is None:
            return None
        ours = await self._signature(stable, version, deadline_at)
        theirs = await self._signature(canary, self._canary.version, deadline_at)
        return None if ours is None or theirs is None else (ours, theirs)

    async def _signature(
        self, target: Target, version: Version, deadline_at: float
    ) -> Signatures | None:
        try:
            found = await self._shadowing.signatures.get(
                self._upstream(target),
                target.endpoint,
                self._transport.dialect,
                self._model,
                version,
                deadline_at,
            )
        except GatewayError:
            return None
        return None if isinstance(found, UpstreamAnswer) else found


def _failed(words: str) -> Outcome:
    return "failed", Compared(canary_error=words[:_WORDS_CHARS])
