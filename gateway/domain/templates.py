"""What a model's replicas are started with, and one such template in place of another."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Resources:
    """What one replica may use."""

    gpus: int = 0
    gpu_type: str | None = None
    """GPU product, e.g. `NVIDIA-A100-SXM4-80GB`; None takes any."""
    cpus: float | None = None
    """Cores; None sets no bound."""
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Batching:
    """How a replica joins rows of separate requests into one run."""

    max_rows: int = 32
    """Rows per run at most. 1 turns joining off."""
    delay_s: float = 0.0
    """How long the first row waits for company. 0 joins only what is queued already, which costs
    a lone caller nothing and still fills batches under load."""


@dataclass(frozen=True, slots=True)
class Template:
    """The parts of a spec that a running replica cannot change and a rollout can. The source is
    not among them: it says what is served, and replicas of two sources could not be compared."""

    resources: Resources = field(default_factory=Resources)
    batching: Batching = field(default_factory=Batching)
    image: str | None = None
    command: tuple[str, ...] = ()
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True)
class TemplateChange:
    """One template in place of another."""

    before: Template
    after: Template
    attempt: int = 0
    """As the spec's (models.ModelSpec) that asked for it."""
