"""The knobs of the data plane."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.core.balance import BalanceSettings
from gateway.core.ejection import EjectionSettings
from gateway.core.limits import LimitSettings
from gateway.core.queueing import QueueSettings
from gateway.core.retry import RetrySettings
from gateway.wire.settings import ServerWireSettings


@dataclass(frozen=True, slots=True)
class HoldSettings:
    """How much of requests and answers is held in memory."""

    stream_from_bytes: int = 64 * 1024
    """A request that is not here whole is passed on as it comes once so much of it is here. Smaller
    ones are worth waiting for: they are sent in one write, to whoever is least loaded then."""

    request_bytes: int = 8 << 20
    """So much of a request that is passed on is kept, so that it can be sent to another replica if
    the first one dies. A batch of 13 float images of 224 x 224 fits; what is larger flows through
    and fails with its replica."""

    answer_bytes: int = 1 << 20
    """An answer up to this size reaches its caller only when it is whole, so that a replica that
    dies in it costs nothing; a larger one flows through from here on."""

    total_bytes: int = 512 << 20
    """Of all requests together, in one process. Beyond, nothing that flows through is kept, and
    what would have to be kept (it is to be translated, or waits for a replica) is refused as
    overload."""


@dataclass(frozen=True, slots=True)
class ShadowSettings:
    """How much copies to canaries may cost in one process (shadowing.py)."""

    calls: int = 8
    """Copies of one model under way at once. A canary as fast as the stable version needs one or
    two; one that hangs keeps no more than these."""

    held_bytes: int = 64 << 20
    """What the requests and answers of all copies hold before no more are made."""

    busy_ratio: float = 0.1
    """The share of one core that comparing may take: the interpreter runs one thread at a time, so
    whoever compares keeps requests waiting. A thousand scores take half a millisecond, so 200
    copies a second; a quarter of a million a tenth of a second, so one."""


@dataclass(frozen=True, slots=True)
class DataplaneSettings:
    """One gateway's fronts and what is behind them. The same in every worker."""

    http: str = "127.0.0.1:8501"
    """Where predictions come in, `host:port`; port 0 takes a free one. TensorFlow Serving's port
    for HTTP, but both ports answer both."""

    grpc: str = "127.0.0.1:8500"
    """The other one: TensorFlow Serving's port for gRPC."""

    max_body_bytes: int = 128 * 1024 * 1024
    """Largest request body and gRPC message. Four 4K float images fit; an endless body does not."""

    wire: ServerWireSettings = field(default_factory=ServerWireSettings)
    """What callers may do with their connections."""

    body_timeout_s: float = 60.0
    """A request's body must have come in by then, whatever its deadline, so that callers who send a
    byte at a time cannot hold a model's slots. 128 MiB need 18 Mbit/s."""

    drain_s: float = 15.0
    """How long a stopping gateway lets requests finish that it has taken."""

    patience_s: float = 2.0
    """For how much of that a stopping process, or one that is replaced, keeps HTTP/1.1 connections
    without a request: one may be on its way, and is answered with `connection: close`. Longer than
    busy callers leave a connection alone; those that do for longer have to expect its end."""

    tls_cert: str = ""
    tls_key: str = ""
    """Paths of a certificate chain and its key, PEM. With them both ports speak TLS alone."""

    tls_client_ca: str = ""
    """Path of authorities, PEM. With it callers must show a certificate that one of them signed."""

    v2_flavour: str = "triton"
    """`triton` or `kserve`: whose answers the Open Inference Protocol has where its servers differ
    (bodies of health, readiness and model control, words of some errors). Triton, because its
    clients are the stricter ones."""

    stream_window: int = 16
    """Requests of one V2 stream that are worked on at once. Answers leave in the order of the
    requests, so this also bounds how many answers wait for a slow one before them."""

    access_log: bool = False
    """One line for each request. Off, because at thousands of requests per second it costs more
    than the requests; the metrics tell the same in sum."""

    hold: HoldSettings = field(default_factory=HoldSettings)
    balance: BalanceSettings = field(default_factory=BalanceSettings)
    ejection: EjectionSettings = field(default_factory=EjectionSettings)
    retry: RetrySettings = field(default_factory=RetrySettings)
    limit: LimitSettings = field(default_factory=LimitSettings)
    queue: QueueSettings = field(default_factory=QueueSettings)
    shadow: ShadowSettings = field(default_factory=ShadowSettings)
