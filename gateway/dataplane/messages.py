"""What the parent and its workers say to each other: JSON messages, each with its length before it.

The pair of sockets is private to the two processes. A reader that sees its end knows that the
other process is gone, however it went.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Generic, TypeVar

import msgspec

from gateway.core.route import RoutingTable
from gateway.dataplane.settings import DataplaneSettings
from gateway.domain import errors
from gateway.domain.agreement import AgreementTally
from gateway.domain.errors import GatewayError, Internal, UpstreamFailed
from gateway.domain.names import Version

MAX_MESSAGE_BYTES = 256 * 1024 * 1024
"""Far above any table (a thousand models are under a megabyte) and above any reload request, which
the gRPC front bounds."""


class Start(msgspec.Struct, tag="start", frozen=True):
    """First message to a worker, followed by a Publish. Addresses in `settings` are those that were
    bound."""

    settings: DataplaneSettings
    sockets: list[list[int]]
    """The listening sockets of every slot, as inherited descriptors."""
    slot: int
    """The slot whose sockets it accepts on from the start."""
    process: str
    """Its name among those that share `metrics_dir`."""
    metrics_dir: str
    log_format: str
    takes_reloads: bool


class Publish(msgspec.Struct, tag="publish", frozen=True):
    """Replace the table. `number` counts the tables sent, whatever generation they have."""

    number: int
    table: RoutingTable


class ReloadDone(msgspec.Struct, tag="reload_done", frozen=True):
    """The answer to a Reload."""

    number: int
    body: bytes = b""
    error: str = ""
    """Class name of a GatewayError; empty for success."""
    message: str = ""
    reason: str = ""
    retry_after_s: float | None = None


class Accept(msgspec.Struct, tag="accept", frozen=True):
    """Accept on the sockets of these slots, and no others: the worker's own, and those of slots
    whose worker does not serve for now."""

    slots: list[int]


class Leave(msgspec.Struct, tag="leave", frozen=True):
    """Another process has taken this one's slot: accept no more, finish, and exit. Tables still
    come until then."""


ToWorker = Start | Publish | ReloadDone | Accept | Leave


class Serving(msgspec.Struct, tag="serving", frozen=True):
    """It accepts connections."""


class Leaving(msgspec.Struct, tag="leaving", frozen=True):
    """It accepts no more, finishes, and will exit: somebody has sent it a SIGTERM."""


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """The worker cannot start, and exits."""

    message: str


class Busy(msgspec.Struct, tag="busy", frozen=True):
    """The worker has taken table `number`; requests in flight still use these, which it lacks."""

    number: int
    uses: list[tuple[str, Version, str]]


class Counted(msgspec.Struct, tag="counted", frozen=True):
    """What the worker has answered in the windows of rollouts, since they began; and the replicas
    that are not in good standing with it."""

    windows: dict[str, tuple[int, dict[Version, list[int]]]]
    standings: dict[str, tuple[str, str]] = {}
    """What is thought of each, and why."""
    shadows: dict[str, tuple[int, AgreementTally]] = {}


class Demanded(msgspec.Struct, tag="demanded", frozen=True):
    """What was asked of scaled models since the worker began: seconds in flight and requests, of
    those where that has changed. An older parent names no scaled models, so is never told."""

    models: dict[str, tuple[float, int]]


class Called(msgspec.Struct, tag="called", frozen=True):
    """Requests wait for these models, which have no replica."""

    models: list[str]


class Reload(msgspec.Struct, tag="reload", frozen=True):
    """HandleReloadConfigRequest, for the parent to apply."""

    number: int
    body: bytes
    timeout_s: float


class Refresh(msgspec.Struct, tag="refresh", frozen=True):
    """Have a model's source looked at. Not answered."""

    model: str


ToParent = Serving | Leaving | Failed | Busy | Counted | Demanded | Called | Reload | Refresh

T = TypeVar("T")


class Channel(Generic[T]):
    """One end of the pair; `T` is what it receives."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, received: Any
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = msgspec.json.Decoder(received)

    @classmethod
    async def over(cls, sock: socket.socket, received: Any) -> Channel[T]:
        """Speak over a connected socket, which is closed with the channel."""
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        return cls(reader, writer, received)

    def send(self, message: ToWorker | ToParent) -> None:
        """Returns at once. Senders bound what is under way: one unacknowledged table, few reloads.
        Nothing happens when the other end is gone, which the reader learns."""
        body = msgspec.json.encode(message)
        if not self._writer.is_closing():
            self._writer.write(len(body).to_bytes(4, "big") + body)

    async def receive(self) -> T | None:
        """The next message; None when the other process is gone."""
        try:
            size = int.from_bytes(await self._reader.readexactly(4), "big")
            if size > MAX_MESSAGE_BYTES:
                raise Internal(f"a message of {size} bytes between processes", reason="bug")
            message: T = self._decoder.decode(await self._reader.readexactly(size))
            return message
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        """The other end sees the end."""
        self._writer.close()


def reload_failed(number: int, error: GatewayError) -> ReloadDone:
    """An error, to be raised again on the other side."""
    return ReloadDone(
        number,
        error=type(error).__name__,
        message=error.message,
        reason=error.reason,
        retry_after_s=error.retry_after_s,
    )


def raised(answer: ReloadDone) -> GatewayError:
    """The error that `reload_failed` packed."""
    kind = getattr(errors, answer.error, Internal)
    if kind is UpstreamFailed:
        return UpstreamFailed(answer.message, reason=answer.reason, sent=True)
    error: GatewayError = kind(
        answer.message, reason=answer.reason, retry_after_s=answer.retry_after_s
    )
    return error
