"""What the lifecycle asks replicas, over the wire: short calls to many addresses, again and again.

Apart from the data plane's connections, so that neither waits for the other. A replica is asked
every second for as long as it lives, so its connections stay; an address that nobody has asked
about for a while has left, and its connections go. The wire connects anew with the next request
when one has broken: a replica that was started again behind its address is found at once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gateway.wire.exchange import WireError
from gateway.wire.fields import Fields
from gateway.wire.grpc_client import GrpcAnswer, unary
from gateway.wire.h1_client import Http1Client
from gateway.wire.h2_client import Http2Client
from gateway.wire.settings import ClientWireSettings
from gateway.wire.whole import whole

_T = TypeVar("_T")

_FIELDS = (Fields((("user-agent", "model-gateway"), ("accept", "application/json"))),)

_H1_CONNECTIONS = 100
"""To one address."""

_GONE_AFTER_S = 60.0
"""An address that was not asked for this long has left. Many polls, and longer than a replica's
restart takes, after which it listens at another port anyway."""

_LET_GO_RATIO = 1 / 8
"""Beyond the bound, this share of the addresses is let go together: each letting go looks at all
of them."""


class ReplicaCalls:
    """Calls to replicas by `host:port`. Make it inside the running loop; `aclose` when done."""

    def __init__(self, *, connect_s: float, max_bytes: int, max_addresses: int) -> None:
        """Answers have at most `max_bytes`; beyond `max_addresses`, the connections to those that
        were asked longest ago are closed, each when its calls are done."""
        # One HTTP/2 connection to an address, because what is asked here is small. One of HTTP/1.1
        # carries one call, and a server may hold hundreds of models that are asked about each.
        wire = ClientWireSettings(
            connect_timeout_s=connect_s, h2_connections=1, max_connections=_H1_CONNECTIONS
        )
        self._h2 = Http2Client(wire)
        self._h1 = Http1Client(wire)
        self._loop = asyncio.get_running_loop()
        self._max_bytes = max_bytes
        self._max_addresses = max_addresses
        self._asked_at: OrderedDict[str, float] = OrderedDict()
        """The loop's time, oldest first."""
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"ReplicaCalls({self._h2}, {self._h1})"

    async def ask(self, address: str, path: str, message: bytes, *, timeout_s: float) -> GrpcAnswer:
        """A gRPC call that changes nothing: it is made once more where the connection broke, as
        one does that has stood since the last question when its server has gone meanwhile.

        Raises:
            WireError: no answer came.
            TimeoutError: none came in `timeout_s`.
        """
        until = self._loop.time() + timeout_s
        return await _once_more(lambda: self._unary(address, path, message, timeout_s, until))

    async def order(
        self, address: str, path: str, message: bytes, *, timeout_s: float
    ) -> GrpcAnswer:
        """A gRPC call that changes something, made once. Raises as `ask`."""
        until = self._loop.time() + timeout_s
        return await self._unary(address, path, message, timeout_s, until)

    async def _unary(
        self, address: str, path: str, message: bytes, timeout_s: float, until: float
    ) -> GrpcAnswer:
        self._use(address)
        return await unary(
            self._h2,
            address,
            path,
            message,
            deadline_at=until,
            timeout_s=timeout_s,
            max_bytes=self._max_bytes,
        )

    async def ask_http(
        self, address: str, method: str, path: str, *, timeout_s: float
    ) -> tuple[int, bytes]:
        """Status and body of a request without one, which changes nothing. Made once more and
        raises as `ask`."""
        until = self._loop.time() + timeout_s
        return await _once_more(lambda: self._whole(address, method, path, until))

    async def order_http(
        self, address: str, method: str, path: str, *, timeout_s: float
    ) -> tuple[int, bytes]:
        """The same of a request that changes something, made once."""
        return await self._whole(address, method, path, self._loop.time() + timeout_s)

    async def _whole(self, address: str, method: str, path: str, until: float) -> tuple[int, bytes]:
        self._use(address)
        answer = await whole(
            self._h1,
            address,
            method,
            path,
            _FIELDS,
            b"",
            max_bytes=self._max_bytes,
            deadline_at=until,
        )
        return answer.head.status, answer.body

    async def aclose(self) -> None:
        """Close every connection; calls under way fail."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._h2.aclose()
        await self._h1.aclose()

    # ---- which connections stay --------------------

    def _use(self, address: str) -> None:
        asked_at = self._asked_at
        asked_at[address] = self._loop.time()
        asked_at.move_to_end(address)
        if len(asked_at) > self._max_addresses:
            for _ in range(max(1, int(self._max_addresses * _LET_GO_RATIO))):
                asked_at.popitem(last=False)
            self._keep()
        if self._sweeper is None and not self._is_closed:
            self._sweeper = self._loop.call_later(_GONE_AFTER_S / 2, self._sweep)

    def _sweep(self) -> None:
        """Let go of who was not asked for long."""
        asked_at = self._asked_at
        oldest, before = self._loop.time() - _GONE_AFTER_S, len(asked_at)
        while asked_at and next(iter(asked_at.values())) < oldest:
            asked_at.popitem(last=False)
        if len(asked_at) < before:
            self._keep()
        self._sweeper = self._loop.call_later(_GONE_AFTER_S / 2, self._sweep) if asked_at else None

    def _keep(self) -> None:
        kept = set(self._asked_at)
        self._h2.keep(kept)
        self._h1.keep(kept)


async def _once_more(call: Callable[[], Awaitable[_T]]) -> _T:
    try:
        return await call()
    except WireError as error:
        if error.reason != "reset":
            raise
    return await call()
