"""Read a stream of server-sent events: bytes in, events out, no I/O.

After the WHATWG HTML standard, section 9.2.6 (parsing an event stream): lines end with CR, LF or
CRLF, `:` begins a comment, several `data:` lines are joined by a newline, and a blank line ends an
event. What the standard leaves to memory is bounded here.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.domain.errors import UpstreamFailed

MAX_EVENT_BYTES = 1 << 20
"""An event of the control API is some hundred bytes; a mebibyte is no event but a mistake."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event as it came."""

    data: str
    type: str = "message"
    id: str = ""


class EventStreamParser:
    """Feed it what was read; it answers the events that are complete."""

    def __init__(self) -> None:
        self._rest = b""
        self._after_cr = False
        self._first = True
        self._size = 0
        self._data: list[str] = []
        self._type = ""
        self._id = ""

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that `chunk` completes, in order.

        Raises:
            UpstreamFailed: one event is larger than MAX_EVENT_BYTES.
        """
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        text = (self._rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = text.split(b"\n")
        events = [e for line in lines if (e := self._line(line)) is not None]
        if self._size + len(self._rest) > MAX_EVENT_BYTES:
            raise UpstreamFailed(
                f"The event stream sent more than {MAX_EVENT_BYTES} bytes as one event",
                reason="bad_answer",
                sent=True,
            )
        return events

    def _line(self, raw: bytes) -> ServerSentEvent | None:
        if self._first:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
            self._first = False
        if not raw:
            return self._dispatch()
        self._size += len(raw)
        name, _, value = raw.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif not name:
            self._size = max(0, self._size - len(raw))  # comments (keep-alives) are not kept
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        data, kind = self._data, self._type
        self._data, self._type, self._size = [], "", 0
        if not data:
            return None
        return ServerSentEvent("\n".join(data), kind or "message", self._id)
