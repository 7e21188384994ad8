"""Several gateways that share one store: who leads, and what each says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.domain import errors
from gateway.domain.agreement import AgreementTally
from gateway.domain.errors import GatewayError, Internal, UpstreamFailed
from gateway.domain.names import Version
from gateway.domain.rollouts import Rollout

Use = tuple[str, Version, str]
"""(model, version, replica id) that requests go to."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who leads. There is one, and the store's clock alone says when it ends."""

    holder: str
    """A gateway's id; empty where nobody leads."""
    epoch: int
    """Grows with each term: what a leader of an older one still writes is refused."""
    address: str = ""
    """Control API of the holder."""
    since: str = ""
    """When this term began; RFC 3339, UTC."""
    remaining_s: float = 0.0
    """How long it holds from now on; 0 or less: anybody may take it."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What one gateway says of itself, again and again."""

    gateway: str
    """Its id, which it keeps for as long as its state directory."""
    control: str
    """Its control API, for people."""
    machine: str
    """The machine (and network) whose loopback its local replicas listen on; empty where replicas
    can be reached from everywhere."""
    number: int = 0
    """The newest posting that its data planes answer by."""
    busy: tuple[Use, ...] = ()
    """What they may still use beyond that."""
    counted: Mapping[str, tuple[int, Mapping[Version, Sequence[int]]]] = field(default_factory=dict)
    """By model, the window of a rollout's step and what they have answered in it."""
    agreed: Mapping[str, tuple[int, AgreementTally]] = field(default_factory=dict)
    """By model, that window and what copies to the canary have shown in it."""
    demand: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    """By model that is scaled, what was asked of it since they began (core/autoscale.py)."""
    has_left: bool = False
    """It stops; nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Heard:
    """Another gateway's last word."""

    beat: Beat
    silent_s: float
    """How long ago, by the store's clock."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a gateway is to the others, for people."""

    role: str
    """`leader` or `follower`."""
    gateway: str
    leader: str
    """Id of who leads; empty where nobody does."""
    leader_control: str
    since: str
    """When that term began; RFC 3339, UTC."""
    others: int
    """Other gateways that were heard of lately."""


@dataclass(frozen=True, slots=True)
class Order:
    """Something that a gateway was asked for and only the leader can do."""

    model: str
    action: str
    """`refresh`, or one of a rollout's actions."""
    version: Version | None = None
    number: int = 0
    """Assigned by the store."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an order: a rollout, an error, or nothing to tell."""

    rollout: Rollout | None = None
    error: str = ""
    """Class name of a GatewayError; empty for success."""
    message: str = ""
    reason: str = ""
    retry_after_s: float | None = None

    @classmethod
    def of_error(cls, error: GatewayError) -> Outcome:
        """An error, to be raised again elsewhere."""
        kind = type(error).__name__
        return cls(None, kind, error.message, error.reason, error.retry_after_s)

    def raised(self) -> GatewayError | None:
        """The error; None for success."""
        if not self.error:
            return None
        kind = getattr(errors, self.error, Internal)
        if kind is UpstreamFailed:
            return UpstreamFailed(self.message, reason=self.reason, sent=True)
        error: GatewayError = kind(
            self.message, reason=self.reason, retry_after_s=self.retry_after_s
        )
        return error
