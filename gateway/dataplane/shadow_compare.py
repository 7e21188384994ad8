"""What the two answers to a copied request differ in. Runs on a thread; imports numpy with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from time import thread_time
from typing import Any, NamedTuple

from gateway.codecs.oip_headers import HEADER_LENGTH, header_length
from gateway.core.dialect import Dialect
from gateway.dataplane.compressed import decompressed
from gateway.dataplane.signatures import Signatures
from gateway.domain.agreement import Difference
from gateway.domain.errors import GatewayError, InvalidRequest
from gateway.ports import UpstreamAnswer, UpstreamRequest
from gateway.wire.exchange import Data, ResponseHead
from gateway.wire.grpc import GrpcAbort, Messages

_HEADER_LENGTH = HEADER_LENGTH.lower()


class Exchanged(NamedTuple):
    """One request, and what either version answered, in the caller's dialect."""

    dialect: Dialect
    request: UpstreamRequest
    stable: Callable[[], UpstreamAnswer]
    """Not yet joined and taken out of its frame."""
    canary: UpstreamAnswer
    signatures: tuple[Signatures, Signatures]
    """Of both, where the dialect's answers do not describe themselves; else empty."""


class Compared(NamedTuple):
    """What came of it."""

    differences: tuple[Difference, ...] = ()
    stable_error: str = ""
    """Why the stable version's answer could not be read."""
    canary_error: str = ""
    took_s: float = 0.0
    """Of this thread's own time."""


def direct_answer(
    dialect: Dialect, head: ResponseHead, pieces: Sequence[Data], max_bytes: int
) -> UpstreamAnswer:
    """What came as it was passed on, as if it had been awaited.

    Raises:
        GrpcAbort: it is no gRPC message.
    """
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if dialect.is_grpc:
        messages = Messages(max_bytes, head.get("grpc-encoding") or "identity")
        return UpstreamAnswer(0, b"".join(messages.feed(body)))
    return UpstreamAnswer(head.status, bytes(body), tuple(head.fields))


def compare(exchanged: Exchanged, tolerance: float, max_bytes: int) -> Compared:
    """Read both answers, and compare what they hold. Raises nothing but for a bug."""
    began = thread_time()
    codec = import_module("gateway.codecs.differences")
    stable, canary = exchanged.signatures
    try:
        ours = _outputs(codec, exchanged, exchanged.stable(), stable, max_bytes)
    except (GatewayError, GrpcAbort) as error:
        return Compared(stable_error=_words(error), took_s=thread_time() - began)
    try:
        theirs = _outputs(codec, exchanged, exchanged.canary, canary, max_bytes)
    except (GatewayError, GrpcAbort) as error:
        return Compared(canary_error=_words(error), took_s=thread_time() - began)
    found = codec.differences(ours, theirs, tolerance)
    return Compared(found, took_s=thread_time() - began)


def _words(error: GatewayError | GrpcAbort) -> str:
    return error.details if isinstance(error, GrpcAbort) else error.message


def _outputs(
    codec: Any,
    exchanged: Exchanged,
    answer: UpstreamAnswer,
    signatures: Signatures,
    max_bytes: int,
) -> Any:
    dialect, request = exchanged.dialect, exchanged.request
    body = decompressed(answer.body, _header(answer.headers, "content-encoding"), max_bytes)
    length = header_length(_header(answer.headers, _HEADER_LENGTH), len(body))
    name = ""
    if dialect is Dialect.TFS_REST:
        encoding = _header(request.headers, "content-encoding")
        name = codec.signature_name_of(decompressed(request.body, encoding, max_bytes))
    try:
        return codec.outputs_of(
            codec.Dialect(dialect), body, signatures, name, header_length=length
        )
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidRequest(f"it cannot be read: {error}", reason="bad_answer") from error


def _header(headers: Sequence[tuple[str, str]], name: str) -> str | None:
    return next((value for key, value in headers if key == name), None)
