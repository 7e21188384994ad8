"""Predictions as exchanges of bytes: what to send, and what the answer means. No I/O.

`predicting` is the whole of a prediction as a generator: it yields the calls to make and is sent
their answers. So the sync and the async client, over any protocol, share every decision and differ
only in how a call is carried. What a protocol looks like is a `Wire` (tfs_wires.py, v2_wires.py).

JSON of TensorFlow Serving does not say what type a number has; there the model's metadata is asked
first, and kept. The other protocols are asked for it only where a list needs a type.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from gateway.client.arrays import Array, Inputs, as_arrays
from gateway.domain.errors import InvalidRequest, NotFound, UpstreamFailed
from gateway.domain.tensors import DEFAULT_SIGNATURE, Signature


class Dialect(StrEnum):
    """How the gateway is spoken to: `protocol=` of the clients."""

    TFS_REST = "tfs-rest"
    TFS_GRPC = "tfs-grpc"
    V2_REST = "v2-rest"
    V2_GRPC = "v2-grpc"

    @property
    def is_grpc(self) -> bool:
        """Whether it is carried by gRPC."""
        return self in (Dialect.TFS_GRPC, Dialect.V2_GRPC)


@dataclass(frozen=True, slots=True)
class Call:
    """One exchange: `target` is a gRPC method path, or an HTTP path (GET where `body` is None)."""

    target: str
    body: bytes | None
    header_length: int | None = None
    """Of V2 over HTTP: how much of the body is JSON, where raw tensors follow it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    body: bytes
    header_length: int | None = None
    """As in Call."""


@dataclass(frozen=True, slots=True)
class Target:
    """Which version is meant; neither means the live one."""

    model: str
    version: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.version is not None and self.label is not None:
            raise InvalidRequest("Name a version or a label, not both", reason="bad_target")


@dataclass(frozen=True, slots=True)
class Wire:
    """How one protocol writes the two calls that a client makes, and reads their answers."""

    needs_signature: bool
    """Whether arrays cannot be sent or read without knowing the signature."""
    tells_all: bool
    """Whether its metadata tells every signature, or only the default one."""
    describe: Callable[[Target], Call]
    described: Callable[[Reply], Mapping[str, Signature]]
    predict: Callable[[Target, Mapping[str, Array], str, Sequence[str] | None], Call]
    predicted: Callable[[Reply, Signature | None], dict[str, Array]]


class SignatureBook:
    """Signatures by target, so that metadata is asked once and not with each prediction.

    What a name means may change with the model's next version; `predicting` forgets an entry and
    asks again when the server refuses what was encoded by it. The oldest entry goes at MAX.
    """

    MAX = 256

    def __init__(self) -> None:
        self._known: dict[Target, Mapping[str, Signature]] = {}

    def get(self, target: Target) -> Mapping[str, Signature] | None:
        """What is known of `target`."""
        return self._known.get(target)

    def put(self, target: Target, signatures: Mapping[str, Signature]) -> None:
        """Remember."""
        while len(self._known) >= self.MAX:
            # pop, not del: another thread may have been quicker
            self._known.pop(next(iter(self._known), target), None)
        self._known[target] = signatures

    def forget(self, target: Target) -> bool:
        """Whether there was something to forget."""
        return self._known.pop(target, None) is not None


def describing(
    wire: Wire, target: Target, book: SignatureBook
) -> Generator[Call, Reply, Mapping[str, Signature]]:
    """All signatures of a model, from the book or by asking."""
    known = book.get(target)
    if known is not None:
        return known
    reply = yield wire.describe(target)
    try:
        signatures = wire.described(reply)
    except InvalidRequest as error:  # to the codec it is a message; to us it is the server's answer
        raise bad_answer(error.message) from error
    book.put(target, signatures)
    return signatures


def predicting(
    wire: Wire,
    target: Target,
    inputs: Inputs,
    signature: str,
    outputs: Sequence[str] | None,
    book: SignatureBook,
) -> Generator[Call, Reply, dict[str, Array]]:
    """One prediction. The caller throws the server's refusal in at the yield that it answers."""
    known_before = book.get(target) is not None
    try:
        return (yield from _predict_once(wire, target, inputs, signature, outputs, book))
    except InvalidRequest:
        # Perhaps a newer version has other inputs than the ones remembered: look once more.
        if not (known_before and book.forget(target)):
            raise
    return (yield from _predict_once(wire, target, inputs, signature, outputs, book))


def _predict_once(
    wire: Wire,
    target: Target,
    inputs: Inputs,
    signature: str,
    outputs: Sequence[str] | None,
    book: SignatureBook,
) -> Generator[Call, Reply, dict[str, Array]]:
    typed = isinstance(inputs, Mapping) and all(
        isinstance(v, np.ndarray | np.generic) for v in inputs.values()
    )
    spec: Signature | None = None
    if not typed and not wire.tells_all and signature not in ("", DEFAULT_SIGNATURE):
        raise InvalidRequest(
            f"V2's metadata tells the default signature and not {signature!r}: pass numpy arrays "
            "by name, which need none, or use tfs-rest or tfs-grpc",
            reason="signature_unknown",
        )
    if wire.needs_signature or not typed:
        spec = choose((yield from describing(wire, target, book)), signature, target.model)
    arrays = as_arrays(inputs, spec)
    found = wire.predicted((yield wire.predict(target, arrays, signature, outputs)), spec)
    missing = sorted(set(outputs or ()) - set(found))
    if missing:
        raise InvalidRequest(
            f"output tensor alias not found in signature: {missing[0]} Outputs expected to be in "
            f"the set {{{','.join(sorted(found))}}}.",
            reason="unknown_output",
        )
    return {name: found[name] for name in outputs} if outputs else found


def choose(signatures: Mapping[str, Signature], name: str, model: str) -> Signature:
    """The signature called `name`; raises NotFound with the ones there are."""
    found = signatures.get(name or DEFAULT_SIGNATURE)
    if found is None:
        raise NotFound(
            f'Serving signature name: "{name}" not found in signature def of model {model}, '
            f"which has: {', '.join(sorted(signatures)) or 'none'}",
            reason="signature_unknown",
        )
    return found


def bad_answer(words: str) -> UpstreamFailed:
    """The error for an answer that is none."""
    return UpstreamFailed(words, reason="bad_answer", sent=True)
