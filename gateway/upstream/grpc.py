"""gRPC to replicas over grpc.aio: one channel for each, bytes in and bytes out.

grpc.aio retries nothing here and shares no connections between channels: who is asked again, and
when, is decided in one place (core/retry.py). A channel whose connection broke fails calls at once
with UNAVAILABLE until it is connected again, which is what the caller of this module wants: there
is another replica to ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import grpc
import grpc.aio

from gateway.domain.errors import DeadlineExceeded, UpstreamFailed
from gateway.domain.replicas import Endpoint
from gateway.ports import UpstreamAnswer, UpstreamRequest
from gateway.upstream.settings import UpstreamSettings

_EARLY_S = 0.05
"""grpc core's clock is coarser than ours, so that its deadline may end a call a little early."""

_NOT_SENT = (
    "failed to connect to all addresses",
    "Failed to connect to remote host",
    "Connection refused",
    "connection attempt timed out",
)
_BROKEN = (
    "Stream removed",
    "Socket closed",
    "Connection reset",
    "Broken pipe",
    "Cancelling all calls",
    "GOAWAY",
    "RST_STREAM",
    "Endpoint closing",
    "Transport closed",
    "recvmsg:",
    "keepalive watchdog timeout",
)
"""Words of grpc core's own transport errors (chttp2_transport.cc, posix endpoints; seen with grpcio
1.66 to 1.85). Its API does not tell them from a status that the replica gave. An UNAVAILABLE that
is not recognised counts as the replica's own, which is asked elsewhere all the same."""


class GrpcUpstream:
    """ports.Upstream over grpc.aio. Made and used within one running loop."""

    def __init__(self, settings: UpstreamSettings | None = None) -> None:
        self._settings = settings or UpstreamSettings()
        self._channels: dict[str, _Channel] = {}
        self._retired: set[_Channel] = set()

    async def call(
        self, endpoint: Endpoint, request: UpstreamRequest, deadline_at: float
    ) -> UpstreamAnswer:
        """Make the unary call `request.target`. The replica sees what is left of the deadline.

        A status that the replica itself gave is an answer; one that the transport made up raises.

        Raises:
            UpstreamFailed: `connect_refused` (nothing was sent), `reset`, or `bad_answer` (larger
                than we take).
            DeadlineExceeded: `call`; the call was cancelled, which tells the replica.
        """
        left_s = deadline_at - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise DeadlineExceeded("The deadline passed before a replica was asked", reason="call")
        channel = self._channel(endpoint.grpc)
        channel.in_use += 1
        try:
            call = channel.method(request.target)(
                request.body, timeout=left_s, metadata=request.headers or None
            )
            try:
                body = await call
            except grpc.aio.AioRpcError as error:
                is_over = asyncio.get_running_loop().time() >= deadline_at - _EARLY_S
                return _answer(error, endpoint.grpc, is_deadline_over=is_over)
            return UpstreamAnswer(0, body, _pairs(await call.trailing_metadata()))
        finally:
            channel.in_use -= 1
            if self._retired:
                await self._close_retired()

    def keep(self, endpoints: Collection[Endpoint]) -> None:
        """Forget every other address; its channel is closed with the next call that ends."""
        kept = {e.grpc for e in endpoints}
        for address in [a for a in self._channels if a not in kept]:
            self._retired.add(self._channels.pop(address))

    async def aclose(self) -> None:
        """Close every channel; calls under way end as cancelled."""
        channels = [*self._channels.values(), *self._retired]
        self._channels.clear()
        self._retired.clear()
        for channel in channels:
            await channel.channel.close(None)

    async def _close_retired(self) -> None:
        for channel in [c for c in self._retired if not c.in_use]:
            self._retired.discard(channel)
            await channel.channel.close(None)

    def _channel(self, address: str) -> _Channel:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = _Channel(address, self._settings)
        return channel


class _Channel:
    """One connection and the methods that were called on it."""

    __slots__ = ("_methods", "channel", "in_use")

    def __init__(self, address: str, settings: UpstreamSettings) -> None:
        self.channel = grpc.aio.insecure_channel(
            address,
            options=[
                ("grpc.enable_retries", 0),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_http_proxy", 0),
                ("grpc.lb_policy_name", "pick_first"),
                ("grpc.service_config_disable_resolution", 1),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.initial_reconnect_backoff_ms", int(settings.reconnect_min_s * 1000)),
                ("grpc.min_reconnect_backoff_ms", int(settings.connect_timeout_s * 1000)),
                ("grpc.max_reconnect_backoff_ms", int(settings.reconnect_max_s * 1000)),
            ],
        )
        self._methods: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}
        self.in_use = 0

    def method(self, path: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        """The callable for `path`. Only paths that the gateway serves get here, so there are
        few."""
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = self.channel.unary_unary(path, None, None)
        return method


def _answer(error: grpc.aio.AioRpcError, address: str, *, is_deadline_over: bool) -> UpstreamAnswer:
    """Tell the replica's own status from a failure of the transport."""
    code = error.code()
    details = error.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and is_deadline_over:
        raise DeadlineExceeded(
            "The deadline passed while a replica was working on the request", reason="call"
        ) from error
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "CLIENT: Received message larger" in details:
        raise UpstreamFailed(
            f"The answer of the replica at {address} is larger than the gateway takes: {details}",
            reason="bad_answer",
            sent=True,
        ) from error
    if code is grpc.StatusCode.UNAVAILABLE and any(words in details for words in _NOT_SENT):
        raise UpstreamFailed(
            f"The replica at {address} cannot be reached: {details}",
            reason="connect_refused",
            sent=False,
        ) from error
    if _is_broken(code, details):
        raise UpstreamFailed(
            f"The call to the replica at {address} broke: {details}", reason="reset", sent=True
        ) from error
    return UpstreamAnswer(int(code.value[0]), b"", _pairs(error.trailing_metadata()), details)


def _is_broken(code: grpc.StatusCode, details: str) -> bool:
    """Whether the transport made the status up because the connection or the stream ended."""
    if code is grpc.StatusCode.UNAVAILABLE:
        return any(words in details for words in _BROKEN)
    # A stream that a server resets without a status becomes INTERNAL, CANCELLED or UNKNOWN.
    return "RST_STREAM" in details


def _pairs(metadata: Any) -> tuple[tuple[str, Any], ...]:
    """Metadata as pairs; values of `-bin` keys stay bytes, which grpc takes back as they are."""
    return tuple((str(key), value) for key, value in metadata or ())
