"""The seam between a request on its way (forwarding.py) and whoever made it (`*_caller.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gateway.core.dialect import Dialect
from gateway.core.retry import Failure
from gateway.domain.errors import GatewayError
from gateway.domain.names import Version
from gateway.domain.replicas import Endpoint
from gateway.ports import DirectUpstream, UpstreamAnswer, UpstreamRequest
from gateway.wire.exchange import AnswerSink, ClientExchange, Data, ResponseHead
from gateway.wire.fields import Pairs

if TYPE_CHECKING:
    from gateway.dataplane.forwarding import Forwarding


@dataclass(frozen=True, slots=True)
class Transport:
    """A caller's protocol, with how it says what routing must understand."""

    name: str
    """`http` or `grpc`, as metrics say it."""
    dialect: Dialect
    upstream: DirectUpstream
    """To replicas that speak `dialect`; others are spoken to through the plane's Translation."""
    unavailable: int
    """The status that means "not now, ask another"."""
    not_found: int
    errors: frozenset[int]
    """The statuses that may be the replica's own fault."""
    overloaded: int
    """The status that means "too much to do"."""
    last_good: int
    """Statuses up to this one are those of answers; the others, of errors."""

    def failure_of(self, status: int) -> Failure | None:
        """What of an answer is a reason to ask another replica; None where it is the caller's."""
        if status == self.unavailable:
            return Failure.UNAVAILABLE
        return Failure.VERSION_SKEW if status == self.not_found else None

    def address_of(self, endpoint: Endpoint) -> str:
        """Where it is called."""
        return endpoint.grpc if self.dialect.is_grpc else endpoint.http


class Kept(NamedTuple):
    """A request that outlives its caller."""

    size_bytes: int
    request: Callable[[float], UpstreamRequest]
    """Makes it anew, with so many seconds left."""


class Caller(Protocol):
    """Whoever is to be answered."""

    is_direct: bool
    """Whether it is a DirectCaller."""

    @property
    def is_complete(self) -> bool:
        """Whether all of its request is here."""
        ...

    @property
    def can_repeat(self) -> bool:
        """Whether all that has come of its request is still held."""
        ...

    def place(self, model: str, sticky: str) -> float | None:
        """Where its head puts it in a split (placing.py); None where that says nothing."""
        ...

    def request(self, version: Version, timeout_s: float) -> UpstreamRequest:
        """The whole request for one version. Asked for when it is complete."""
        ...

    def kept(self, version: Version) -> Kept:
        """As `request`, for later: it is still good when the caller has let go of its own. Asked
        for while all of the request is held."""
        ...

    def collect(self) -> None:
        """The request is needed whole: `Forwarding.go` is to be called when it is complete."""
        ...

    def told(self, answer: UpstreamAnswer) -> None:
        """The answer, whole and in the caller's own dialect."""
        ...

    def refused(self, error: GatewayError) -> None:
        """There is none."""
        ...


class DirectCaller(Caller, Protocol):
    """One whose request and answer pass through as they come."""

    @property
    def is_congested(self) -> bool:
        """It does not read as fast as we write; `Forwarding.resume_answer` follows."""
        ...

    def send(
        self,
        upstream: DirectUpstream,
        endpoint: Endpoint,
        version: Version,
        timeout_s: float,
        sink: AnswerSink,
    ) -> ClientExchange:
        """Begin a call with what is here of the request. What comes later is to be written to
        `Forwarding.exchange`."""
        ...

    def send_more(self) -> None:
        """The replica takes more of the request."""
        ...

    def failure_in(self, head: ResponseHead, trailers: Pairs) -> Failure | None:
        """What of an answer is a reason to ask another replica; None when it is one for the
        caller."""
        ...

    def report_in(self, head: ResponseHead, trailers: Pairs) -> int:
        """What an answer, in which there was no failure, says of its replica: the requests that it
        holds, replicas.NO_REPORT, or replicas.AN_ERROR. Asked right after `failure_in`."""
        ...

    def status_of(self, head: ResponseHead) -> int:
        """Of the answer that `failure_in` was asked about, in the transport's numbers."""
        ...

    def whole(self, asked: Forwarding, head: ResponseHead, body: Data, trailers: Pairs) -> None:
        """All of the answer."""
        ...

    def start(self, asked: Forwarding, head: ResponseHead, length: int | None) -> None:
        """The answer begins; `piece` and `end` follow, or `broke_off`."""
        ...

    def piece(self, data: Data) -> None: ...

    def end(self, asked: Forwarding, head: ResponseHead, trailers: Pairs) -> None: ...

    def broke_off(self, reason: str) -> None:
        """The answer that has begun will not be completed."""
        ...
