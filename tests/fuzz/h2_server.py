"""Target: frames, or bytes, of a caller into an HTTP/2 server connection."""

from __future__ import annotations

from gateway.wire import h2_frames as h2
from gateway.wire.h2_server import H2ServerConnection
from gateway.wire.settings import ServerWireSettings
from tests.fuzz import h2_books
from tests.fuzz.front import Bugs, ManneredFront, Served
from tests.fuzz.h2_audit import Audit, Flow
from tests.fuzz.h2_frames import Frames
from tests.fuzz.script import Script, must, split
from tests.fuzz.serving import Counts, Serving
from tests.parts.virtual_loop import VirtualLoop, virtual_loop

SETTINGS = ServerWireSettings(
    max_head_bytes=600,
    max_header_count=12,
    max_streams=4,
    stream_window_bytes=70_000,
    connection_window_bytes=100_000,
    max_frame_bytes=40_000,
    max_continuations=3,
    reset_burst=20,
    control_burst=60,
    write_high_bytes=1024,
)
HELLO = h2.PREFACE + h2.settings_frame({}) + h2.SETTINGS_ACK


def run(data: bytes) -> None:
    """One case: anything may happen, or bytes are cut and all else is steady."""
    script, sent = split(data)
    mode = script.byte()
    if mode & 2:
        sent = (HELLO if mode & 4 else b"") + sent
    else:
        sent = HELLO + Frames(is_client=True).write(Script(sent))
    with Bugs(), virtual_loop() as loop:
        if mode & 1:
            _Run(loop, ManneredFront(), script, sent)
            return
        cut = _Run(loop, ManneredFront(is_steady=True), script, sent, has_events=False)
        whole = _Run(loop, ManneredFront(is_steady=True), Script(b""), sent)
        if not (cut.is_faulty or whole.is_faulty):
            mine, other = cut.told(), whole.told()
            for stream_id in mine.keys() & other.keys():
                must(mine[stream_id] == other[stream_id], "cutting changed an answer", stream_id)


class _Run:
    """One connection from its beginning to its end."""

    def __init__(
        self,
        loop: VirtualLoop,
        front: ManneredFront,
        script: Script,
        sent: bytes,
        *,
        has_events: bool = True,
    ) -> None:
        self.front, self.counts = front, Counts()
        self.audit = Audit(is_server=True)
        self._audited = [0, 0]
        self.connection = H2ServerConnection(self.front, SETTINGS, self.counts)
        self.serving = Serving(loop, self.connection, self.front, self._look)
        self.serving.run(script, sent, has_events=has_events)
        self._check_bodies()
        self.serving.end()
        must(self.counts.open == 0, "opened and closed do not match")

    def _look(self) -> None:
        transport, side = self.serving.transport, self.connection._side
        for at, (read, data) in enumerate(
            ((self.audit.heard, transport.heard), (self.audit.said, transport.written))
        ):
            read(bytes(data[self._audited[at] :]))
            self._audited[at] = len(data)
        if side.is_finished:
            must(not side.core.streams, "a connection that has ended holds streams")
            must(transport.is_closing(), "a connection that has ended is not closed")
        else:
            h2_books.check(side.core, SETTINGS.connection_window_bytes, SETTINGS.max_streams)

    def _check_bodies(self) -> None:
        for served in self.front.served:
            stream_id: int = served.exchange.id  # type: ignore[attr-defined]
            sent, flow = self.audit.body(stream_id), self.audit.flows[stream_id]
            if served.is_complete:
                must(served.body == sent, "another body was handed on", served.body, sent)
            else:
                must(sent.startswith(served.body), "another beginning was handed on", served.body)
            _check_answer(served, flow)

    @property
    def is_faulty(self) -> bool:
        """Whether streams were broken off: how much happened on them before may depend on how the
        bytes were cut."""
        ends = [flow.reset_code for flow in self.audit.flows.values()]
        return bool(self.counts.causes) or self.audit.has_reset or any(ends)

    def told(self) -> dict[int, tuple[object, ...]]:
        """The whole answers, by stream, without their dates. Which are whole may depend on how the
        bytes were cut: a smaller window may come before an answer or after it."""
        return {
            stream_id: ([f for f in flow.head if f[0] != b"date"], bytes(flow.body), flow.trailers)
            for stream_id, flow in self.audit.flows.items()
            if flow.is_ended
        }


def _check_answer(served: Served, flow: Flow) -> None:
    expected = b"" if served.head.method == "HEAD" else bytes(served.answer)
    must(expected.startswith(flow.body), "another answer was written", bytes(flow.body), expected)
    if flow.is_ended and served.is_ended:
        must(flow.body == expected, "an answer lacks its end", bytes(flow.body), expected)
        must(dict(flow.head)[b":status"] == b"%d" % served.status, "another status", flow.head)
    if flow.is_ended:
        must(served.is_ended, "an answer ended that was not given whole", served.head.path)
