"""The knobs of the data plane."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.core.balance import BalanceSettings
from gateway.core.retry import RetrySettings


@dataclass(frozen=True, slots=True)
class DataplaneSettings:
    """One gateway's fronts and what is behind them. The same in every worker."""

    http: str = "127.0.0.1:8501"
    """Where predictions come in over HTTP, `host:port`; port 0 takes a free one."""

    grpc: str = "127.0.0.1:8500"
    """Where predictions come in over gRPC, `host:port`; port 0 takes a free one."""

    max_body_bytes: int = 128 * 1024 * 1024
    """Largest request body and gRPC message. Four 4K float images fit; an endless body does not."""

    max_header_bytes: int = 16 * 1024
    """Longest request line and header field. Twice the 8 KB of most servers, for signed
    requests."""

    keepalive_s: float = 75.0
    """An HTTP connection without a request, or without a whole request head, is closed after this
    long. nginx's default; longer than callers' pools keep theirs, so that they close first."""

    body_timeout_s: float = 60.0
    """A request's body must have come in by then, whatever its deadline, so that callers who send a
    byte at a time cannot hold a model's slots. 128 MiB need 18 Mbit/s."""

    drain_s: float = 15.0
    """How long a stopping gateway lets requests finish that it has taken."""

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

    balance: BalanceSettings = field(default_factory=BalanceSettings)
    retry: RetrySettings = field(default_factory=RetrySettings)
