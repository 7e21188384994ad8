"""Target: gRPC's messages, its words in header fields, and calls served over an exchange."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable, Sequence

from gateway.wire.exchange import RequestHead, ResponseHead, WireError
from gateway.wire.fields import Fields
from gateway.wire.grpc import Direct, GrpcCall, GrpcMethods, Stream, Unary
from gateway.wire.grpc_client import _message, status_of
from gateway.wire.grpc_messages import ENCODINGS, GrpcAbort, Messages, whole_message
from gateway.wire.grpc_text import (
    Code,
    code_name,
    decode_message,
    encode_message,
    format_timeout,
    parse_timeout,
    status_fields,
    timeout_fields,
)
from gateway.wire.tasks import Tasks
from tests.fuzz.script import Script, must, split
from tests.parts.scripted_exchange import ScriptedExchange
from tests.parts.virtual_loop import VirtualLoop, virtual_loop

_MAX_BYTES = 300
_ENCODINGS = ("identity", "gzip", "deflate")


def run(data: bytes) -> None:
    """One case. The first byte says of which kind."""
    if data:
        _KINDS[data[0] % len(_KINDS)](data[1:])


# ---- messages --------------------


def _messages(data: bytes) -> None:
    """However the bytes are cut, the messages are those of a plain reading."""
    script, sent = split(data)
    encoding = _ENCODINGS[script.below(len(_ENCODINGS))]
    expected, code, is_partial = _plain_reading(sent, encoding)
    messages, found, at, error = Messages(_MAX_BYTES, encoding), [], 0, None
    try:
        while at < len(sent):
            size = script.byte() or len(sent)
            found += messages.feed(memoryview(sent)[at : at + size])
            at += size
            held = sum(map(len, messages._held)) + len(messages._head)
            must(held < _MAX_BYTES + 5, "more is held than a message may have", held)
    except GrpcAbort as abort:
        error = abort.code
    must(error == code, "another status", error, code)
    must(found == expected[: len(found)], "other messages", found, expected)
    if error is None:
        must(found == expected, "messages are missing", found, expected)
        must(messages.is_partial == is_partial, "it does not know that more is to come")
    whole = whole_message(sent, _MAX_BYTES)
    if whole is not None:
        must(code is None and [whole] == expected, "a whole message is another", whole)


def _plain_reading(sent: bytes, encoding: str) -> tuple[list[bytes], int | None, bool]:
    """The messages, the status that ends the reading if one does, and whether one is cut short."""
    found: list[bytes] = []
    at = 0
    while len(sent) - at >= 5:
        flag, size = sent[at], int.from_bytes(sent[at + 1 : at + 5])
        if flag > 1 or (flag and encoding == "identity"):
            return found, Code.INTERNAL, False
        if size > _MAX_BYTES:
            return found, Code.RESOURCE_EXHAUSTED, False
        message = sent[at + 5 : at + 5 + size]
        if len(message) < size:
            return found, None, True
        at += 5 + size
        if flag:
            plain = _inflated(message, ENCODINGS[encoding])
            if isinstance(plain, int):
                return found, plain, False
            message = plain
        found.append(message)
    return found, None, at < len(sent)


def _inflated(message: bytes, window_bits: int) -> bytes | int:
    stream = zlib.decompressobj(window_bits)
    try:
        plain = stream.decompress(message, 1 << 20)
    except zlib.error:
        # Blown up first, or broken first: both are refusals, and which one depends on the bound.
        stream = zlib.decompressobj(window_bits)
        try:
            stream.decompress(message, _MAX_BYTES + 1)
        except zlib.error:
            return Code.INTERNAL
        return Code.RESOURCE_EXHAUSTED
    if len(plain) > _MAX_BYTES:
        return Code.RESOURCE_EXHAUSTED
    return plain if stream.eof and not stream.unused_data else Code.INTERNAL


# ---- words --------------------


def _words(data: bytes) -> None:
    text = data.decode("latin-1")
    try:
        seconds = parse_timeout(text)
    except ValueError:
        pass
    else:
        again = parse_timeout(format_timeout(seconds))
        longest = 99_999_999 * 3600 * (1 + 1e-9)
        must(again >= min(seconds, longest) * (1 - 1e-6), "a timeout that is shorter", text)
        must(again <= seconds * 1.0101 + 1e-9, "a timeout that is much longer", text)
        [(_, value)] = timeout_fields(seconds).pairs
        must(parse_timeout(value) >= seconds * (1 - 1e-6), "a timeout that is shorter", value)
    decode_message(text)
    for said in (text, data.decode("utf-8", "replace")):
        encoded = encode_message(said)
        must(encoded.isascii() and encoded.isprintable(), "no header field", encoded)
        must(encoded == encoded.strip(), "no header field of HTTP/2", encoded)
        must(decode_message(encoded) == said, "another message", said)
        _ = status_fields(2, said).h2
    code_name(int.from_bytes(data[:4], signed=True))


def _status(data: bytes) -> None:
    """What an answer's status is."""
    script = Script(data)
    status = script.byte() * 4
    head = _status_pairs(script, script.below(4))
    trailers = _status_pairs(script, script.below(4))
    try:
        found = status_of(ResponseHead(status, head), trailers)
        message = _message(ResponseHead(status, head), script.take(400), _MAX_BYTES)
    except WireError as error:
        must(error.reason == "bad_answer" and error.sent, "another reason", error.reason)
        return
    must(found.code >= 0, "a code below 0", found.code)
    must(len(message) <= _MAX_BYTES, "a message beyond the bound", len(message))


_NAMES = ("grpc-status", "grpc-message", "content-type", "grpc-encoding", "x-a")
_VALUES = ("0", "5", "application/grpc", "gzip", "deflate", "", "x%41%", "99999999999", "1\xb2")


def _status_pairs(script: Script, count: int) -> tuple[tuple[str, str], ...]:
    found = []
    for _ in range(count):
        name, value = _NAMES[script.below(len(_NAMES))], script.byte()
        text = script.take(value % 16).decode("latin-1")
        found.append((name, _VALUES[value % len(_VALUES)] if value & 0x80 else text))
    return tuple(found)


# ---- calls --------------------


class _Exchange(ScriptedExchange):
    """Must be answered once, and not at all when the caller is gone."""

    is_gone = False

    def start(self, status: int, fields: Sequence[Fields], length: int | None) -> None:
        must(not self.is_gone and not self.is_aborted, "an answer to nobody")
        super().start(status, fields, length)

    def answer(self) -> dict[str, str]:
        """The fields that hold the status."""
        return dict(self.trailers if self.trailers is not None else self.fields) or dict(
            self.fields
        )


async def _echo(message: bytes, call: GrpcCall) -> bytes:
    return message


async def _fail(message: bytes, call: GrpcCall) -> bytes:
    await call.abort(5, "näh")


async def _chat(requests: AsyncIterator[bytes], call: GrpcCall) -> None:
    async for message in requests:
        await call.write(message)


async def _last(requests: AsyncIterator[bytes], call: GrpcCall) -> None:
    last = b""
    async for message in requests:
        last = message
    await call.write(last)


def _direct(exchange: object, message: bytes, call: GrpcCall) -> None:
    call.reply(message)


_HANDLERS: dict[str, Unary | Stream | Direct] = {
    "/s/Echo": Unary(_echo),
    "/s/Fail": Unary(_fail),
    "/s/Chat": Stream(_chat),
    "/s/Last": Stream(_last),
    "/s/Direct": Direct(_direct),
}
_PATHS = (*_HANDLERS, "/s/Nope")
_FIELDS = (
    ("content-type", "application/grpc"),
    ("content-type", "application/grpc+proto"),
    ("te", "trailers"),
    ("grpc-encoding", "gzip"),
    ("grpc-encoding", "snappy"),
    ("grpc-timeout", "1S"),
    ("grpc-timeout", "x"),
    ("grpc-timeout", "99999999H"),
)


def _call(data: bytes) -> None:
    """A call from its head to its end, its messages in pieces, with pauses and leaving."""
    script, sent = split(data)
    path, chosen = _PATHS[script.below(len(_PATHS))], script.byte()
    fields = [_FIELDS[0], *[f for n, f in enumerate(_FIELDS[1:]) if chosen >> n & 1]]
    head = RequestHead("POST", path, tuple(fields), is_h2=True)
    exchange = _Exchange(head)
    bugs: list[Exception] = []
    with virtual_loop() as loop:
        tasks = Tasks(bugs.append)
        methods = GrpcMethods(_HANDLERS, tasks, _MAX_BYTES)
        is_whole = script.byte() & 1
        methods.begin(exchange, sent if is_whole else None)
        loop.run_ready()
        if not is_whole:
            _feed(loop, exchange, script, sent)
        loop.run_ready()
        _check_call(exchange, loop, tasks)
    if bugs:
        raise bugs[0]


def _feed(loop: VirtualLoop, exchange: _Exchange, script: Script, sent: bytes) -> None:
    at = 0
    while at < len(sent) or not script.is_empty:
        sink, step = exchange.sink, script.byte()
        if sink is None or exchange.is_complete:
            return
        if step == 1:
            loop.advance(2.0)
        elif step == 2:
            exchange.is_gone = True
            sink.on_gone("reset")
            return
        elif step in (3, 4):
            exchange.is_congested = step == 3
            if step == 4:
                sink.on_writable()
        elif at < len(sent):
            piece = sent[at : at + (step or len(sent))]
            at += len(piece)
            sink.on_data(piece)
        if script.byte() & 1:
            loop.run_ready()
    exchange.is_congested = False
    if exchange.sink is not None and not exchange.is_complete:
        exchange.sink.on_writable()
        exchange.sink.on_end(())


def _check_call(exchange: _Exchange, loop: VirtualLoop, tasks: Tasks) -> None:
    must(not len(tasks), "a handler that never ends", exchange.head.path)
    if exchange.is_gone:
        return
    must(exchange.is_complete or exchange.is_aborted, "a call without an end", exchange.head.path)
    if exchange.is_complete and exchange.status == 200:
        must("grpc-status" in exchange.answer(), "no status", exchange.answer())
    loop.advance(1e9)  # no timer may answer it again


_KINDS: tuple[Callable[[bytes], None], ...] = (_messages, _words, _status, _call)
