"""Other people's readings of HTTP/1.1, to hold ours against: h11, llhttp by itself, and a reader of
answers that knows nothing but Content-Length and chunked.

Two parties that see the end of a request at different places are how requests are smuggled. So what
our server hands on must be what these read from the same bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import h11
import httptools

from gateway.wire.fields import Pairs

_MOST_BYTES = 1 << 20


@dataclass
class Message:
    """One request (`method` and `target`) or answer (`status`) as somebody else reads it."""

    method: str = ""
    target: str = ""
    status: int = 0
    fields: Pairs = ()
    body: bytes = b""
    trailers: Pairs = ()
    is_complete: bool = False

    @property
    def has_end(self) -> bool:
        """Whether an answer's end can be seen before its connection's."""
        framing = ("content-length", "transfer-encoding")
        return self.status in (204, 304) or any(name in framing for name, _ in self.fields)


@dataclass
class Reading:
    """The messages of one connection, and whether it ended in an error."""

    messages: list[Message] = field(default_factory=list)
    error: str = ""
    is_reusable: bool = False
    """Of answers: all are there, nothing follows, and another request may be sent."""


def is_target(target: str, path: str) -> bool:
    """Whether a request's target is this path, or a whole URL with it."""
    if target == path:
        return True
    url = _URL.fullmatch(target)
    return url is not None and path in (url[1], f"/{url[1]}")


_URL = re.compile(r"https?://[^/?]*(.*)", re.IGNORECASE)


def _text(pairs: object) -> Pairs:
    return tuple(
        (bytes(n).decode("latin-1").lower(), bytes(v).decode("latin-1").strip(" \t"))
        for n, v in pairs  # type: ignore[attr-defined]
    )


# ---- h11 --------------------


def h11_requests(sent: bytes) -> Reading:
    """What h11 takes for the requests in these bytes. It ends after a request of HTTP/1.0 and after
    `Connection: close`."""
    reading, connection = Reading(), h11.Connection(h11.SERVER, _MOST_BYTES)
    connection.receive_data(sent)
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                if connection.our_state is not h11.SEND_RESPONSE or event is h11.NEED_DATA:
                    return reading
                _h11_answer(connection)  # it asked for another protocol, and gets an answer
            elif isinstance(event, h11.Request):
                method, target = event.method.decode(), event.target.decode("latin-1")
                message = Message(method, target, fields=_text(event.headers))
                reading.messages.append(message)
            elif isinstance(event, h11.Data):
                reading.messages[-1].body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                message = reading.messages[-1]
                message.is_complete, message.trailers = True, _text(event.headers)
                if connection.our_state is h11.SEND_RESPONSE:
                    _h11_answer(connection)
                if connection.our_state is not h11.DONE:
                    return reading
                connection.start_next_cycle()
            else:
                return reading
    except h11.RemoteProtocolError as error:
        reading.error = str(error)
        return reading


def _h11_answer(connection: h11.Connection) -> None:
    connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
    connection.send(h11.EndOfMessage())


def h11_answers(sent: bytes, methods: list[str]) -> Reading:
    """What h11 takes for the final answers in all that a server sent before it closed, to requests
    with these methods. It ends after an answer of HTTP/1.0 and after `Connection: close`."""
    reading, connection = Reading(), h11.Connection(h11.CLIENT, _MOST_BYTES)
    connection.receive_data(sent)
    connection.receive_data(b"")
    try:
        for method in methods:
            connection.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
            connection.send(h11.EndOfMessage())
            if not _h11_one_answer(connection, reading) or connection.our_state is not h11.DONE:
                return reading
            has_end = method == "HEAD" or reading.messages[-1].has_end
            reading.is_reusable = has_end and not connection.trailing_data[0]
            connection.start_next_cycle()
    except h11.RemoteProtocolError as error:
        reading.error = str(error)
    return reading


def _h11_one_answer(connection: h11.Connection, reading: Reading) -> bool:
    message = Message()
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            message = Message(status=event.status_code, fields=_text(event.headers))
            reading.messages.append(message)
        elif isinstance(event, h11.Data):
            message.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            message.is_complete, message.trailers = True, _text(event.headers)
            return True
        elif not isinstance(event, h11.InformationalResponse):
            return False


# ---- llhttp --------------------


class _Collected:
    def __init__(self) -> None:
        self.reading = Reading()
        self._url = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self.parser: httptools.HttpRequestParser | None = None

    def on_message_begin(self) -> None:
        self._url, self._fields = b"", []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        assert self.parser is not None
        method, target = self.parser.get_method().decode(), self._url.decode("latin-1")
        self.reading.messages.append(Message(method, target, fields=_text(self._fields)))
        self._fields = []

    def on_body(self, body: bytes) -> None:
        self.reading.messages[-1].body += body

    def on_message_complete(self) -> None:
        message = self.reading.messages[-1]
        message.is_complete, message.trailers = True, _text(self._fields)


def llhttp_requests(sent: bytes) -> Reading:
    """What llhttp takes for the requests in these bytes. It ends before an offer of an upgrade."""
    seen = _Collected()
    seen.parser = httptools.HttpRequestParser(seen)
    try:
        seen.parser.feed_data(sent)
    except httptools.HttpParserUpgrade:
        # To llhttp the body of such a request is the other protocol's already.
        seen.reading.messages.pop()
    except httptools.HttpParserError as error:
        seen.reading.error = str(error)
    return seen.reading


# ---- answers --------------------

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*")
_FIELD = re.compile(rb"([!-9;-~]+): ([^\r\n\0]*)")
_CHUNK = re.compile(rb"[0-9a-f]+")


def answers(said: bytes, methods: list[str]) -> list[Message]:
    """The final answers in what a server said to requests with these methods; the last may be
    incomplete. `AssertionError` where it is no HTTP/1.1."""
    found: list[Message] = []
    at = 0
    while at < len(said):
        end = said.find(b"\r\n\r\n", at)
        assert end >= 0, "half a head"
        lines = said[at:end].split(b"\r\n")
        status = _STATUS.fullmatch(lines[0])
        assert status is not None, lines[0]
        pairs = [_FIELD.fullmatch(line) for line in lines[1:]]
        assert all(pairs), lines
        fields = _text([p.groups() for p in pairs if p is not None])
        at = end + 4
        message = Message(status=int(status[1]), fields=fields)
        if message.status < 200:
            assert not fields
            continue
        method = methods[len(found)] if len(found) < len(methods) else ""
        found.append(message)
        at = _body(message, said, at, method)
        if not message.is_complete:
            assert at == len(said)
    return found


def _body(message: Message, said: bytes, at: int, method: str) -> int:
    fields = dict(message.fields)
    assert len(fields) == len(message.fields), "a field twice"
    if method == "HEAD" or message.status in (204, 304):
        message.is_complete = True
        return at
    if fields.get("transfer-encoding") == "chunked":
        assert "content-length" not in fields
        return _chunks(message, said, at)
    if "content-length" in fields:
        size = int(fields["content-length"])
        message.body = said[at : at + size]
        message.is_complete = len(message.body) == size
        return at + len(message.body)
    assert fields.get("connection") == "close", "no way to see where it ends"
    message.body = said[at:]
    message.is_complete = True
    return len(said)


def _chunks(message: Message, said: bytes, at: int) -> int:
    while True:
        end = said.find(b"\r\n", at)
        if end < 0:
            return len(said)
        assert _CHUNK.fullmatch(said[at:end]), said[at:end]
        size = int(said[at:end], 16)
        chunk = said[end + 2 : end + 2 + size + 2]
        message.body += chunk[:size]
        if len(chunk) < size + 2:
            return len(said)
        assert chunk.endswith(b"\r\n")
        at = end + 2 + size + 2
        if not size:
            message.is_complete = True
            return at
