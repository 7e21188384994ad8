"""How the gateway keeps connections to replicas."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Knobs of both transports."""

    connect_timeout_s: float = 2.0
    """A replica that does not accept in this time counts as unreachable, and another is asked.
    Within one machine or rack a connection takes a millisecond; two seconds survive one lost
    SYN."""

    connections: int = 1024
    """HTTP connections to one replica at most. As many as a model's default in-flight limit,
    because HTTP/1.1 carries one request at a time."""

    keepalive_s: float = 30.0
    """How long an unused HTTP connection is kept. Below the 60 to 75 s after which servers close
    theirs, so that we seldom write into a connection that is being closed."""

    max_message_bytes: int = 2**31 - 1
    """Largest answer that is taken from a replica over gRPC: the most that gRPC can say. What the
    model answers is its owner's business; grpc's own 4 MB would break image outputs."""

    reconnect_min_s: float = 0.05
    reconnect_max_s: float = 1.0
    """How long a broken gRPC channel waits before it connects again. gRPC's own default grows to
    two minutes, in which a replica that came back would stay unused."""
