"""What both fronts offer, on domain values: find, check, run, reload. The fronts only translate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from gateway.codecs import tfs_status
from gateway.codecs.pb import tfs_pb2
from gateway.codecs.tfs_errors import GRPC_CODE_NAMES, grpc_code
from gateway.domain.errors import GatewayError, Overloaded, Unavailable
from gateway.domain.models import VersionState
from gateway.domain.tensors import DEFAULT_SIGNATURE
from servers.kit import checks, inference, logs
from servers.kit.manager import Manager
from servers.kit.metrics import Metrics
from servers.kit.runtime import Arrays
from servers.kit.servable import Servable
from servers.kit.timing import Spent

_T = TypeVar("_T")

_UNKNOWN = 2
_FAILED_PRECONDITION = 9


@dataclass(frozen=True, slots=True)
class Answer:
    """Outputs and the version and signature that made them."""

    servable: Servable
    signature: str
    outputs: Arrays
    spent: Spent


@dataclass(frozen=True, slots=True)
class Checked:
    """What a request asks of a servable, beside its tensors."""

    signature: str
    outputs: tuple[str, ...]
    rows: int


class Service:
    """The server, seen from its fronts."""

    def __init__(
        self,
        manager: Manager,
        *,
        timeout_s: float = 30.0,
        offload_bytes: int = 64 * 1024,
        in_flight_limit: int = 4096,
    ) -> None:
        self.manager = manager
        self.metrics = Metrics()
        self.timeout_s = timeout_s
        self.in_flight = 0
        self.admitted = 0
        """Inference requests let in so far."""
        self.is_draining = False
        self.is_steered = False
        """Whether the models were configured from outside (HandleReloadConfigRequest)."""
        self.draining = asyncio.Event()
        """Set with `is_draining`, for those who wait for it."""
        self._idle = asyncio.Event()
        self.offload_bytes = offload_bytes
        self._in_flight_limit = in_flight_limit
        self._codec = ThreadPoolExecutor(2, thread_name_prefix="codec")

    async def off_loop(self, size: int, work: Callable[[], _T]) -> _T:
        """Do `work` here when `size` bytes are few, else on a thread."""
        if size <= self.offload_bytes:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._codec, work)

    async def predict(
        self,
        servable: Servable,
        signature_name: str,
        given: Arrays,
        output_filter: Sequence[str],
        deadline_at: float,
    ) -> Answer:
        """Check the inputs and run them.

        Raises:
            InvalidRequest: signature, names, dtypes or shapes are wrong, or the runtime refused.
            Overloaded, DeadlineExceeded, Unavailable, Internal: see `Batcher.run`.
        """
        inputs, checked = self.check(servable, signature_name, given, output_filter)
        made = await servable.predict(
            checked.signature, inputs, checked.outputs, checked.rows, deadline_at
        )
        return Answer(servable, checked.signature, made, servable.batcher.spent)

    def check(
        self,
        servable: Servable,
        signature_name: str,
        given: Arrays,
        output_filter: Sequence[str],
    ) -> tuple[Arrays, Checked]:
        """The inputs in the signature's order, and what is asked of them. Depends on names, dtypes
        and shapes only.

        Raises:
            InvalidRequest: signature, names, dtypes or shapes are wrong.
        """
        name, signature = servable.signature(signature_name)
        inputs = checks.inputs_of(signature, given)
        outputs = checks.outputs_of(signature, output_filter)
        return inputs, Checked(name, outputs, checks.rows_of(servable.loaded, inputs))

    async def infer(
        self,
        servable: Servable,
        signature_name: str,
        method: str,
        examples: Sequence[bytes],
        deadline_at: float,
    ) -> Answer:
        """Classify or regress serialized Examples."""
        name = signature_name or DEFAULT_SIGNATURE
        signature = servable.signatures.get(name)
        if signature is None:
            raise inference.no_signature(name)
        inference.check_method(signature, method)
        given = inference.examples_input(signature, examples)
        return await self.predict(servable, name, given, (), deadline_at)

    # ---- configuration --------------------

    async def reload(self, request: tfs_pb2.ReloadConfigRequest) -> tuple[int, str]:
        """Replace the configuration; returns a gRPC code and its message.

        In the original's order (server_core.cc ReloadConfig): labels are judged first, against
        what is AVAILABLE now, and a bad one changes nothing; then the models are replaced, and the
        answer waits for those that are new.
        """
        if request.config.WhichOneof("config") is None:
            return 0, ""  # "Taking no action for empty config."
        try:
            configs = tfs_status.model_configs(request)
        except GatewayError as error:
            return grpc_code(error), error.message
        for config in configs:
            for version in config.labels.values():
                if not self._is_ready(config.name, version):
                    return _FAILED_PRECONDITION, (
                        f"Request to assign label to version {version} of model {config.name}, "
                        "which is not currently available for inference"
                    )
        before = self.manager.configured
        self.manager.configure(configs)
        self.is_steered = True
        after = self.manager.configured
        self.metrics.forget(before - after)
        new = frozenset(after - before)
        logs.event("config.reloaded", models=sorted(after), new=sorted(new))
        await self.manager.tried(new)
        self.refuse_if_draining()
        return self._verdict(new)

    def _is_ready(self, name: str, version: int) -> bool:
        try:
            status = self.manager.statuses(name, version)[0]
        except GatewayError:
            return False
        return status.state is VersionState.READY

    def _verdict(self, new: frozenset[str]) -> tuple[int, str]:
        overview = self.manager.overview()
        parts: list[str] = []
        for name in sorted(new & self.manager.configured):
            statuses = overview.get(name, [])
            if any(status.state is VersionState.READY for status in statuses):
                continue
            failed = [s for s in statuses if s.state is VersionState.FAILED]
            parts.extend(
                f"{{{{name: {name} version: {s.version}}} due to error: "
                f"{GRPC_CODE_NAMES[s.error_code]}: {s.reason}}}, "
                for s in failed
            )
            if not failed and (why := self.manager.source_reason(name)):
                parts.append(f"{{{{name: {name}}} due to error: {why}}}, ")
        if not parts:
            return 0, ""
        return _UNKNOWN, f"{len(parts)} model(s) did not become available: {{{''.join(parts)}}}"

    # ---- life --------------------

    def enter(self) -> None:
        """Count a request in; `leave` counts it out."""
        self.in_flight += 1

    def leave(self) -> None:
        """Count a request out."""
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    async def drained(self, longest_s: float) -> bool:
        """Wait until nothing is in flight; False if that took longer than `longest_s`."""
        try:
            async with asyncio.timeout(longest_s):
                while self.in_flight:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def left_alone(self, longest_s: float, quiet_s: float) -> None:
        """Wait until nobody has asked for a prediction for `quiet_s`; at most `longest_s`."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        ends_at, seen = since + longest_s, self.admitted
        while (now := loop.time()) < ends_at and now - since < quiet_s:
            await asyncio.sleep(min(quiet_s / 10, ends_at - now))
            if self.in_flight or self.admitted != seen:
                since, seen = loop.time(), self.admitted

    async def stop(self) -> None:
        """Answer what is in flight, refuse what still comes, let go of reloads that wait."""
        self.is_draining = True
        self.draining.set()
        await self.manager.stop_waiting()

    def admit(self) -> None:
        """Let one inference request, already counted in, go on.

        Raises:
            Overloaded: too many are in flight (`in_flight_limit`).
            Unavailable: the server is going down.
        """
        self.refuse_if_draining()
        self.admitted += 1
        if self.in_flight > self._in_flight_limit:
            raise Overloaded(
                f"more than {self._in_flight_limit} requests are in flight here; try again later, "
                "or add replicas",
                reason="in_flight_limit",
                retry_after_s=1.0,
            )

    def refuse_if_draining(self) -> None:
        """Raise Unavailable once the server is going down."""
        if self.is_draining:
            raise Unavailable("this server is shutting down", reason="draining", retry_after_s=1.0)

    def close(self) -> None:
        """Release the codec threads."""
        self._codec.shutdown(wait=False, cancel_futures=True)
