"""Predictions from Python: numpy arrays in, numpy arrays out, over gRPC or HTTP.

    with Client("localhost:8500") as client:               # or "http://localhost:8501"
        client.predict("resnet", {"x": images})            # {"probabilities": float32[8, 1000]}

TensorFlow Serving's protocol unless another is named: `Client(address, protocol="v2-grpc")`.

A prediction changes nothing on the server, so it may be made again: what the gateway calls
Unavailable, and a connection that broke, is tried again after a jittered pause while the deadline
leaves time for it. A refusal because of load (Overloaded) is not: more of the same would not help.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

from gateway.client import transports
from gateway.client.arrays import Array, Inputs
from gateway.client.calls import (
    Call,
    Reply,
    SignatureBook,
    Target,
    choose,
    describing,
    predicting,
)
from gateway.client.wires import WIRES
from gateway.domain.errors import (
    DeadlineExceeded,
    GatewayError,
    InvalidRequest,
    Unavailable,
    UpstreamFailed,
)
from gateway.domain.tensors import DEFAULT_SIGNATURE, Signature

DEFAULT_ADDRESS = "localhost:8500"

TIMEOUT_S = 30.0
"""Deadline of a prediction that names none: TensorFlow Serving's own REST default."""

MAX_ANSWER_BYTES = 2**31 - 1
"""gRPC's own bound. Its clients' default of 4 MB cuts off many an image batch."""

RETRIES = 2
"""Further attempts at most. The gateway has already tried another replica; this covers a gateway
that is being replaced."""

_FIRST_PAUSE_S = 0.1
_R = TypeVar("_R")


def pause_s(error: GatewayError, attempt: int, left_s: float, rng: random.Random) -> float | None:
    """How long to wait before trying again after the `attempt`-th failure; None: give up.

    Full jitter over a window that doubles, never less than the server asked for, and never so long
    that the deadline would pass meanwhile.
    """
    if attempt > RETRIES or not isinstance(error, Unavailable | UpstreamFailed):
        return None
    if error.reason in ("version_failed", "bad_answer"):
        return None
    pause = (error.retry_after_s or 0.0) + rng.uniform(0.0, _FIRST_PAUSE_S * 2 ** (attempt - 1))
    return pause if pause < left_s else None


class AsyncClient:
    """Awaits predictions. Use it within one event loop, as `async with AsyncClient(…)`."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        protocol: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`protocol` is tfs-grpc, tfs-rest, v2-grpc or v2-rest; left out, it is TensorFlow
        Serving's over what the address carries."""
        dialect, host, tls = transports.split_address(address, protocol)
        self.address = address
        self.protocol = str(dialect)
        self._timeout_s = timeout_s
        self._book = SignatureBook()
        self._rng = random.Random()
        self._open: Callable[[], transports.AsyncTransport] = (
            (lambda: transports.AsyncGrpc(host, MAX_ANSWER_BYTES))
            if dialect.is_grpc
            else (lambda: transports.AsyncHttp(host, tls, MAX_ANSWER_BYTES))
        )
        self._wire = WIRES[dialect]
        self._transport: transports.AsyncTransport | None = None

    def __repr__(self) -> str:
        return f"AsyncClient({self.address!r}, protocol={self.protocol!r})"

    async def predict(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = DEFAULT_SIGNATURE,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Array]:
        """Outputs by name, for inputs by name (or one array, where the model has one input).

        numpy arrays are sent with the type they have; lists take the type of the signature.
        Strings come back as object arrays of bytes. `outputs` names the ones wanted. V2 has no
        labels; JSON of TensorFlow Serving has no float16 and bfloat16.

        Raises:
            InvalidRequest: inputs that the signature does not take; nothing to retry.
            NotFound: no such model, version or signature.
            Unavailable, UpstreamFailed: nothing answered, after retries.
            Overloaded: the gateway refused at its door; try later.
            DeadlineExceeded: `timeout_s` passed.
        """
        target = Target(model, version, label)
        steps = predicting(self._wire, target, inputs, signature, outputs, self._book)
        return await self._drive(steps, timeout_s)

    async def signatures(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float | None = None,
    ) -> Mapping[str, Signature]:
        """All ways to call `model`, asked anew. Raises NotFound."""
        target = Target(model, version, label)
        self._book.forget(target)
        return await self._drive(describing(self._wire, target, self._book), timeout_s)

    async def signature(self, model: str, name: str = DEFAULT_SIGNATURE) -> Signature:
        """What `model` takes and gives. Raises NotFound."""
        return choose(await self.signatures(model), name, model)

    async def _drive(self, steps: Generator[Call, Reply, _R], timeout_s: float | None) -> _R:
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        deadline_at = asyncio.get_running_loop().time() + limit_s
        try:
            call = next(steps)
            while True:
                try:
                    answer = await self._call(call, deadline_at)
                except GatewayError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(answer)
        except StopIteration as done:
            result: _R = done.value
            return result

    async def _call(self, call: Call, deadline_at: float) -> Reply:
        if self._transport is None:
            self._transport = self._open()
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            left_s = _left(deadline_at - loop.time())
            try:
                return await self._transport.call(call, left_s)
            except GatewayError as error:
                attempt += 1
                pause = pause_s(error, attempt, deadline_at - loop.time(), self._rng)
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    async def aclose(self) -> None:
        """Close the connections."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


class Client:
    """Blocks for predictions. May be shared by threads; make a new one after a fork."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        protocol: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """As AsyncClient."""
        dialect, host, tls = transports.split_address(address, protocol)
        self.address = address
        self.protocol = str(dialect)
        self._wire = WIRES[dialect]
        self._timeout_s = timeout_s
        self._book = SignatureBook()
        self._rng = random.Random()
        self._transport: transports.Transport = (
            transports.Grpc(host, MAX_ANSWER_BYTES)
            if dialect.is_grpc
            else transports.Http(host, tls, MAX_ANSWER_BYTES)
        )

    def __repr__(self) -> str:
        return f"Client({self.address!r}, protocol={self.protocol!r})"

    def predict(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = DEFAULT_SIGNATURE,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Array]:
        """As AsyncClient.predict."""
        target = Target(model, version, label)
        steps = predicting(self._wire, target, inputs, signature, outputs, self._book)
        return self._drive(steps, timeout_s)

    def signatures(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float | None = None,
    ) -> Mapping[str, Signature]:
        """As AsyncClient.signatures."""
        target = Target(model, version, label)
        self._book.forget(target)
        return self._drive(describing(self._wire, target, self._book), timeout_s)

    def signature(self, model: str, name: str = DEFAULT_SIGNATURE) -> Signature:
        """As AsyncClient.signature."""
        return choose(self.signatures(model), name, model)

    def post(self, path: str, body: bytes, *, timeout_s: float | None = None) -> bytes:
        """A JSON request that is already as the server wants it, and its answer, undecoded.

        Raises:
            InvalidRequest: this client speaks gRPC.
        """
        if not isinstance(self._transport, transports.Http):
            raise InvalidRequest(
                f"{self.address} is spoken to over gRPC; post() needs http://…", reason="bad_url"
            )
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        return self._call(Call(path, body), _now() + limit_s).body

    def _drive(self, steps: Generator[Call, Reply, _R], timeout_s: float | None) -> _R:
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        deadline_at = _now() + limit_s
        try:
            call = next(steps)
            while True:
                try:
                    answer = self._call(call, deadline_at)
                except GatewayError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(answer)
        except StopIteration as done:
            result: _R = done.value
            return result

    def _call(self, call: Call, deadline_at: float) -> Reply:
        attempt = 0
        while True:
            try:
                return self._transport.call(call, _left(deadline_at - _now()))
            except GatewayError as error:
                attempt += 1
                pause = pause_s(error, attempt, deadline_at - _now(), self._rng)
                if pause is None:
                    raise
            time.sleep(pause)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _now() -> float:
    return time.monotonic()  # noqa: TID251  the blocking client has no loop whose time to read


def _left(seconds: float) -> float:
    if seconds <= 0:
        raise DeadlineExceeded("The deadline passed before the call was made", reason="queue")
    return seconds
