"""A transport without a socket that does what asyncio's do, in the order in which they do it.

Bytes that come while reading is paused wait; bytes that the peer does not take fill a buffer, and
the protocol is told so; closing waits for that buffer; `connection_lost` comes in a later turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, cast

from gateway.wire.exchange import Data


class ScriptedTransport:
    """Made for one protocol, whose `connection_made` it calls."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        self._loop = loop
        self._protocol = protocol
        self.written = bytearray()
        """Everything, whether the peer has taken it or not."""
        self.waiting = 0
        """How much of it the peer has not taken."""
        self.heard = bytearray()
        """What the peer has sent and the protocol has got."""
        self.takes = True
        """Whether the peer reads."""
        self.is_lost = False
        """`connection_lost` has been called."""
        self._is_closing = False
        self._is_cut = False
        self._has_eof = False
        self._is_reading = True
        self._was_eof = False
        self._is_paused = False
        self._high = 64 * 1024
        self._low = 16 * 1024
        self._coming: deque[bytes | None] = deque()
        protocol.connection_made(cast(asyncio.Transport, self))

    # ---- what the peer does --------------------

    def deliver(self, data: bytes) -> None:
        """The peer sends."""
        if data:
            self._coming.append(data)
            self._read()

    def deliver_eof(self) -> None:
        """The peer sends no more."""
        self._coming.append(None)
        self._read()

    def take(self, size: int | None = None) -> None:
        """The peer takes what waits for it, or so much of it."""
        self.waiting -= self.waiting if size is None else min(size, self.waiting)
        if self._is_paused and self.waiting <= self._low:
            self._is_paused = False
            self._protocol.resume_writing()
        if self._is_closing and not self.waiting:
            self._lose_soon(None)

    def cut(self, error: Exception | None) -> None:
        """The connection breaks."""
        self._is_closing = True
        self.waiting = 0
        self._lose_soon(error)

    @property
    def hears(self) -> bool:
        """Whether what the peer sends, or its leaving, would be noticed."""
        return self._is_reading or self._is_closing or self._was_eof

    def _read(self) -> None:
        while self._coming and self._is_reading and not self._is_closing:
            data = self._coming.popleft()
            if data is not None:
                self.heard += data
                self._protocol.data_received(data)
            else:
                self._was_eof = True
                if not self._protocol.eof_received():
                    self.close()

    def _lose_soon(self, error: Exception | None) -> None:
        if not self._is_cut:
            self._is_cut = True
            self._loop.call_soon(self._lose, error)

    def _lose(self, error: Exception | None) -> None:
        self.is_lost = True
        self._protocol.connection_lost(error)

    # ---- asyncio.Transport --------------------

    def write(self, data: Data) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"{type(data)} is not bytes")
        if self._has_eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._is_cut or not data:
            return
        self.written += data
        if self.takes and not self.waiting:
            return
        self.waiting += len(data)
        if self.waiting > self._high and not self._is_paused:
            self._is_paused = True
            self._protocol.pause_writing()

    def writelines(self, pieces: Iterable[Data]) -> None:
        self.write(b"".join(pieces))

    def write_eof(self) -> None:
        if not self._is_closing:
            self._has_eof = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self._is_closing = True
        if not self.waiting:
            self._lose_soon(None)

    def abort(self) -> None:
        self.cut(None)

    def is_closing(self) -> bool:
        return self._is_closing

    def is_reading(self) -> bool:
        return self._is_reading and not self._is_closing

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        if not self._is_reading:
            self._is_reading = True
            self._loop.call_soon(self._read)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 4711) if name == "peername" else default
