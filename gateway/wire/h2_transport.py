"""A core's output on an asyncio transport: one write per wake-up, and bounds on what piles up."""

from __future__ import annotations

import asyncio

from gateway.wire.h2_core import Core

_BACKLOG_RATIO = 2
_BACKLOG_BYTES = 1 << 20
"""What may be in the transport's buffer: so many times `write_high_bytes`, and so much. Bodies come
to 1.25 times that and a frame (they stop where the buffer is full); heads and control frames come
to more, in front of a peer that goes on asking and does not read."""

_JOIN_BYTES = 1 << 16
_JOIN_PIECE_BYTES = 1 << 10
"""Frames are joined for one write up to here, and beyond where they are small: copying 1 KB costs
about as much as one buffer more in a gathering write (uvloop: 17 us against 27 for 300 answers of
300 bytes, 14 against 5 for four of 150 KB)."""


class Pipe:
    """The transport of one connection."""

    __slots__ = ("_core", "_max_backlog", "_moved_at", "_taken", "_written", "is_deaf", "transport")

    def __init__(self, transport: asyncio.Transport, core: Core, high_bytes: int) -> None:
        self.transport = transport
        self._core = core
        # A quarter in the transport, the rest in streams, where it can still be dropped or shared.
        transport.set_write_buffer_limits(high=high_bytes // 4)
        self._max_backlog = high_bytes * _BACKLOG_RATIO + _BACKLOG_BYTES
        self._written = 0
        self._taken = -1
        """Of what was written, how much the peer had taken at the last look, ..."""
        self._moved_at = 0.0
        """... and when that was last more than before, or all."""
        self.is_deaf = False
        """We have stopped reading."""

    @property
    def is_paused(self) -> bool:
        """Whether the transport's buffer is full."""
        return self._core.sender.is_paused

    def pause(self) -> None:
        """The transport's buffer is full."""
        self._core.sender.is_paused = True

    def resume(self) -> None:
        """It is not any more."""
        sender = self._core.sender
        sender.is_paused = False
        if self.is_deaf:
            self.is_deaf = False
            self.transport.resume_reading()
        if sender.ready:
            sender.wake()

    def flush(self) -> None:
        """Settle the streams, and write until there is nothing more or the transport is full.

        Raises:
            H2Error: the peer made us reset too many streams.
        """
        core = self._core
        sender = core.sender
        sender.is_awake = True
        while True:
            if core.fresh:
                core.settle()
            if sender.ready:
                for stream in sender.pump():
                    stream.local_done()
            if core.postponed:
                core.begin_postponed()
            out = sender.out
            if not out:
                break
            body_bytes = sender.body_bytes
            sender.out = []
            sender.body_bytes = 0
            if self.transport.is_closing():
                continue
            if body_bytes < _JOIN_BYTES + _JOIN_PIECE_BYTES * len(out):
                joined = b"".join(out)
                self._written += len(joined)
                self.transport.write(joined)
            else:
                self._written += sum([len(piece) for piece in out])
                self.transport.writelines(out)
        sender.is_awake = False

    def bound_backlog(self) -> None:
        """Stop reading where too much waits: whatever we read would make it more."""
        if not self.is_deaf and self.is_backlogged:
            self.is_deaf = True
            self.transport.pause_reading()

    @property
    def is_backlogged(self) -> bool:
        """Whether more waits than bodies alone can make it."""
        return self.transport.get_write_buffer_size() > self._max_backlog

    def is_stuck(self, now: float, timeout_s: float) -> bool:
        """Whether something waits of which the peer has taken nothing for that long. To be asked
        now and then. A buffer that is not full counts too: it would else keep its connection open
        for ever, closed or not."""
        waiting = self.transport.get_write_buffer_size()
        taken = self._written - waiting
        if not waiting or taken != self._taken:
            self._taken = taken
            self._moved_at = now
            return False
        return now - self._moved_at > timeout_s


def peer_name(transport: asyncio.BaseTransport) -> str:
    """`host:port` of the other end, as far as it is known."""
    name = transport.get_extra_info("peername")
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) and len(name) >= 2 else str(name or "")
