"""What must hold inside a connection of ours whenever it has nothing more to do.

Window is never lost and never made: what the peer may send, what we hold, and what we owe it add up
to what it was given. What is queued is queued in some stream, and stands there for a reason.
"""

from __future__ import annotations

from gateway.wire.h2_core import Core
from tests.fuzz.script import must


def check(core: Core, connection_window: int, most_streams: int) -> None:
    """Raise unless the books of this core balance."""
    must(len(core.streams) <= most_streams, "more streams than are allowed", len(core.streams))
    must(not core.fresh, "streams that were not settled")
    held = {stream.id: sum(map(len, stream.held or ())) for stream in core.streams.values()}
    under_way = core._left
    total = core.recv_window + core.owed + sum(held.values()) + under_way
    must(total == connection_window, "the connection's window leaks", total, connection_window)
    for stream in core.streams.values():
        must(not stream.is_over, "a stream that is over is kept", stream)
        if not stream.is_remote_done:
            coming = under_way if core._target is stream else 0
            window = stream.recv_window + stream.owed + held[stream.id] + coming
            must(window == core.stream_window, "a stream's window leaks", window)
    _check_sending(core)


def _check_sending(core: Core) -> None:
    sender = core.sender
    queued = sum(stream.queued for stream in core.streams.values())
    must(sender.queued == queued, "what is queued does not add up", sender.queued, queued)
    must(all(s.queued for s in sender.ready), "a stream with nothing to send has its turn")
    if not sender.is_paused and sender.window > 0:
        stuck = [s for s in core.streams.values() if s.queued and s.send_window > 0]
        must(not stuck, "a body stands still although it could go", stuck)
    for stream in core.streams.values():
        must(stream.queued or not stream.is_congested, "congested by nothing", stream)
