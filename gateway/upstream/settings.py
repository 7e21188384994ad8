"""How the gateway keeps connections to replicas."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.wire.settings import ClientWireSettings


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Knobs of both transports."""

    wire: ClientWireSettings = field(default_factory=ClientWireSettings)
    """Connections, windows and timeouts; what the numbers are and why stands there."""

    max_answer_bytes: int = 2**31 - 1
    """Largest answer that `call` collects: the most that a gRPC message can say with an int. What a
    model answers is its owner's business. Answers that pass through (`begin`) are not collected and
    have no bound."""
