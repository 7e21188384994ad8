"""Frames that carry no message: SETTINGS, PING, WINDOW_UPDATE, RST_STREAM, GOAWAY, PRIORITY.

All of them cost their sender nothing, so each is charged to the connection's buckets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.wire import h2_frames as h2
from gateway.wire.h2_frames import H2Error

if TYPE_CHECKING:
    from gateway.wire.h2_core import Core

_LENGTHS = {h2.PRIORITY: 5, h2.RST_STREAM: 4, h2.PING: 8, h2.WINDOW_UPDATE: 4}
"""Frames of one length only."""

_FREE_PER_FRAME = 8
"""Settings, and streams whose windows a setting moves: so many cost what one frame does."""

_OF_CONNECTION = frozenset((h2.SETTINGS, h2.PING, h2.GOAWAY))
_OF_STREAM = frozenset((h2.PRIORITY, h2.RST_STREAM))


class Control:
    """Acts on such frames for one connection."""

    __slots__ = ("_core",)

    def __init__(self, core: Core) -> None:
        self._core = core

    def receive(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """One frame; of an unknown type it is ignored (section 4.1), but charged.

        Raises:
            H2Error: the frame breaks a rule, or there are too many.
        """
        if kind in _OF_CONNECTION and stream_id:
            raise H2Error(h2.PROTOCOL_ERROR, "a frame of the connection came on a stream")
        if kind in _OF_STREAM and not stream_id:
            raise H2Error(h2.PROTOCOL_ERROR, "a frame of a stream came without one")
        length = _LENGTHS.get(kind)
        if length is not None and len(payload) != length:
            raise H2Error(h2.FRAME_SIZE_ERROR, "a frame of the wrong length")
        if kind == h2.WINDOW_UPDATE:
            self._window_update(stream_id, int.from_bytes(payload, "big") & h2.MAX_WINDOW_BYTES)
            return
        if kind == h2.RST_STREAM:
            self._rst_stream(stream_id, int.from_bytes(payload, "big"))
            return
        self._core.charge_control()
        if kind == h2.PING:
            self._ping(flags, payload)
        elif kind == h2.SETTINGS:
            self._settings(flags, payload)
        elif kind == h2.PRIORITY:
            h2.check_dependency(payload[:4], stream_id)
        elif kind == h2.GOAWAY:
            self._goaway(payload)
        elif kind == h2.PUSH_PROMISE:
            raise H2Error(h2.PROTOCOL_ERROR, "PUSH_PROMISE was not allowed")

    def _window_update(self, stream_id: int, more: int) -> None:
        core, sender = self._core, self._core.sender
        if not sender.takes_update():
            core.charge_control()
        if not stream_id:
            if not more:
                raise H2Error(h2.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            sender.widen(more)
            return
        stream = core.streams.get(stream_id)
        if stream is None:
            if core.side.is_unopened(stream_id):
                raise H2Error(h2.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that was not opened")
        elif not more:
            core.break_off(stream, h2.PROTOCOL_ERROR, "protocol_error")
        elif not sender.widen_stream(stream, more):
            core.break_off(stream, h2.FLOW_CONTROL_ERROR, "protocol_error")

    def _rst_stream(self, stream_id: int, code: int) -> None:
        core = self._core
        if core.side.is_unopened(stream_id):
            raise H2Error(h2.PROTOCOL_ERROR, "RST_STREAM on a stream that was not opened")
        core.charge_reset()
        stream = core.streams.get(stream_id)
        if stream is not None:
            core.side.on_reset(stream, code)

    def _ping(self, flags: int, payload: bytes) -> None:
        if flags & h2.ACK:
            self._core.side.on_pong(payload)
        else:
            self._core.sender.control(h2.ping(payload, is_ack=True))

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & h2.ACK:
            if payload:
                raise H2Error(h2.FRAME_SIZE_ERROR, "an acknowledgement with settings")
            return
        core, sender = self._core, self._core.sender
        pairs = h2.read_settings(payload)
        core.charge_control(len(pairs) / _FREE_PER_FRAME)
        for name, value in pairs:
            if name == h2.INITIAL_WINDOW_SIZE:
                core.charge_control(len(core.streams) / _FREE_PER_FRAME)
                sender.widen_all(core.streams.values(), value)
            elif name == h2.MAX_FRAME_SIZE:
                sender.limit_frames(value)
            elif name == h2.MAX_CONCURRENT_STREAMS:
                core.side.on_max_streams(value)
            elif name == h2.HEADER_TABLE_SIZE:
                sender.limit_table(value)
        sender.control(h2.SETTINGS_ACK)

    def _goaway(self, payload: bytes) -> None:
        if len(payload) < 8:
            raise H2Error(h2.FRAME_SIZE_ERROR, "GOAWAY is too short")
        last = int.from_bytes(payload[:4], "big") & h2.MAX_STREAM_ID
        self._core.side.on_goaway(last, int.from_bytes(payload[4:8], "big"))
