"""Every bound of the wire. Each is there because somebody could otherwise make memory, descriptors
or time grow without end; the numbers are argued one by one."""

from __future__ import annotations

from dataclasses import dataclass

CAUSES = (
    "bad_request",  # HTTP/1.1 that cannot be parsed, or that could be read in two ways (smuggling)
    "protocol_error",  # HTTP/2 that breaks a rule of RFC 9113 or 7541
    "head_too_large",
    "head_timeout",
    "body_timeout",
    "write_timeout",
    "tls_handshake",
    "connections_limit",
    "streams_limit",
    "reset_flood",
    "control_flood",
    "continuation_flood",
    "ping_timeout",
)
"""What `Watch.refused` is told."""


@dataclass(frozen=True, slots=True)
class ServerWireSettings:
    """What callers may do."""

    max_connections: int = 10_000
    """Connections at once in this process; further ones are closed as they come. Each costs some
    10 KB when idle, so 100 MB at most."""

    max_head_bytes: int = 16 * 1024
    """Request line and header fields together (HTTP/2: as RFC 9113 section 6.5.2 counts a header
    list). Twice the 8 KB of most servers, for signed requests. 431."""

    max_header_count: int = 128
    """Header fields of one request. Requests of real programs have below 50."""

    head_timeout_s: float = 10.0
    """From the first byte of a head (or of a connection: TLS handshake and preface included) to its
    last. A head fits a few packets; whoever takes longer is slow on purpose or gone."""

    body_timeout_s: float = 60.0
    """Longest silence within a body that is expected."""

    write_timeout_s: float = 60.0
    """Longest time in which a caller takes nothing of an answer that waits for it (a zero window, a
    full socket)."""

    keepalive_s: float = 75.0
    """An HTTP/1.1 connection without a request is closed after this long. nginx's default; longer
    than callers' pools keep theirs, so that they close first."""

    max_streams: int = 1024
    """Requests at once on one HTTP/2 connection. As many as a model's default in-flight limit."""

    stream_window_bytes: int = 1 << 20
    """How much of one request's body a caller may send ahead of our reading. One MiB keeps 10
    Gbit/s busy at a round trip of 0.8 ms."""

    connection_window_bytes: int = 8 << 20
    """The same for all requests of one connection: bounds the memory that one can hold."""

    max_frame_bytes: int = 1 << 18
    """Largest HTTP/2 frame that we take. Larger than the protocol's 16 KiB, because each frame
    costs work; DATA is passed on as it comes, so nothing of this size is collected."""

    max_continuations: int = 16
    """CONTINUATION frames of one head (CVE-2024-27316)."""

    reset_burst: int = 1000
    reset_per_s: float = 33.0
    """RST_STREAM frames of a caller: so many at once and so many a second beyond (rapid reset,
    CVE-2023-44487). nghttp2's numbers. Each request that was answered to its end allows one more: a
    busy caller whose deadlines pass now and then is no attacker, and its connection carries others'
    requests."""

    control_burst: int = 10_000
    control_per_s: float = 1000.0
    """Frames that cost work and carry nothing: PING, SETTINGS, PRIORITY, empty DATA and
    CONTINUATION, WINDOW_UPDATE beyond what requests and answers account for (CVE-2019-9512 to
    9518)."""

    write_high_bytes: int = 1 << 20
    """Bytes that wait in one connection before `is_congested`: one window."""

    max_unsent_bytes: int = 8 << 20
    """Bytes of answers that wait in one HTTP/2 connection before it begins further requests: a
    caller that asks and does not take (a zero window) could else make us hold `max_streams` whole
    answers. As much as the other direction's `connection_window_bytes`."""

    ping_interval_s: float = 60.0
    """A silent HTTP/2 connection with requests on it is asked whether it lives; idle ones ten times
    more seldom."""

    ping_timeout_s: float = 20.0
    """And closed when it does not answer in this time. gRPC's own default."""

    max_connection_age_s: float = 3600.0
    """After this long (10% more or less, so that they do not all go at once) a connection is told
    to end, so that callers spread anew over gateways that came later. 0: never."""

    age_grace_s: float = 300.0
    """How long requests on a connection that was told to end may take."""


@dataclass(frozen=True, slots=True)
class ClientWireSettings:
    """How connections to servers are kept."""

    connect_timeout_s: float = 2.0
    """A server that does not accept in this time counts as unreachable. Within one machine or rack
    a connection takes a millisecond; two seconds survive one lost SYN."""

    max_connections: int = 1024
    """HTTP/1.1 connections to one address at most; further requests wait. As many as a model's
    default in-flight limit, because HTTP/1.1 carries one request at a time."""

    keepalive_s: float = 30.0
    """How long an unused HTTP/1.1 connection is kept. Below the 60 to 75 s after which servers
    close theirs, so that we seldom write into a connection that is being closed."""

    max_head_bytes: int = 64 * 1024
    """Status line and header fields of an answer."""

    max_header_count: int = 256

    h2_connections: int = 4
    """HTTP/2 connections to one address at most: with one, a lost packet or a large tensor holds up
    every other answer."""

    h2_streams: int = 64
    """Requests on one HTTP/2 connection before another is opened; a server's own limit counts where
    it is smaller."""

    stream_window_bytes: int = 4 << 20
    """How much of one answer a server may send ahead of our reading."""

    connection_window_bytes: int = 64 << 20

    max_frame_bytes: int = 1 << 18

    h2_waiting: int = 4096
    """Requests that wait for an HTTP/2 connection to one address, because none is there yet or all
    are full; further ones fail at once. Four times the default in-flight limit of a model: never
    reached by one model, a bound where several share an address."""

    max_continuations: int = 16
    reset_burst: int = 10_000
    reset_per_s: float = 1000.0
    control_burst: int = 10_000
    control_per_s: float = 1000.0
    """The same bounds as for callers, wider for resets: a server that is overloaded resets what it
    was asked to do."""

    write_high_bytes: int = 1 << 20

    ping_interval_s: float = 20.0
    """A connection that is silent for this long although requests are on it is asked whether it
    lives: a machine that lost power closes nothing."""

    ping_timeout_s: float = 10.0

    ping_again_s: float = 305.0
    """From one question to the next, at least. gRPC core's servers count those that follow each
    other in less than five minutes, and end the connection with the fourth ("too_many_pings";
    gRFC A8, GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS). What is silent in between is
    ended by its deadline."""
