"""A rollout: a version, or another template of one, on its way to all of a model's traffic, in
steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.domain.agreement import Agreement
from gateway.domain.names import Version
from gateway.domain.templates import TemplateChange


class Phase(StrEnum):
    """Where a rollout is.

    PENDING: the new version is wanted, and is not READY wherever the model is answered, or not on
    all of its own replicas where it has some; all traffic goes to the stable one. PROGRESSING: the
    canary has its step's weight. PAUSED: the same, and only a person changes the weight; a canary
    found worse is taken back all the same. PROMOTING: it becomes live as soon as it is READY
    everywhere. ROLLING_BACK: nothing new is routed to it, requests that it has begun finish.
    SUCCEEDED: it is live. FAILED: it has nothing any more, and is not tried again by itself.
    """

    PENDING = "pending"
    PROGRESSING = "progressing"
    PAUSED = "paused"
    PROMOTING = "promoting"
    ROLLING_BACK = "rolling_back"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


OVER = (Phase.SUCCEEDED, Phase.FAILED)


class Verdict(StrEnum):
    """PASS: enough was seen and nothing speaks against it. FAIL: worse, with the stated error rate.
    INCONCLUSIVE: neither, yet."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Side:
    """One version's numbers in one window."""

    requests: int = 0
    failed: int = 0
    p50_s: float | None = None
    p99_s: float | None = None
    """Upper bounds of their buckets, of answers that did not fail; None while there are none."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict with its numbers."""

    verdict: Verdict = Verdict.INCONCLUSIVE
    reason: str = ""
    """In words, for people."""
    stable: Side = field(default_factory=Side)
    canary: Side = field(default_factory=Side)
    error_evidence: float = 1.0
    latency_evidence: float = 1.0
    """How much likelier the numbers are if the canary is worse. Below 1: it looks no worse."""
    limit: float = math.inf
    """Evidence from which on it fails."""
    agreement: Agreement | None = None
    """Where requests are shadowed."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """A model's newest rollout, as it is stored."""

    version: Version
    """The canary: where it goes."""
    stable: Version
    """What was live when it began: where it goes back."""
    phase: Phase = Phase.PENDING
    steps: tuple[float, ...] = ()
    """Percent of the traffic, ascending. None: all at once, as an undo goes."""
    step: int = 0
    """Which of them it is at, or was at when it ended; from 0."""
    reason: str = ""
    """Why it is in this phase, in words."""
    started_at: str = ""
    phase_at: str = ""
    """When it came into this phase and step. Both RFC 3339, UTC."""
    rejected: tuple[Version, ...] = ()
    """Versions that were rolled back or undone: they go live only when somebody starts them."""
    canary_replicas: int = 0
    """Replicas of its own that the canary has, as the model's plan was when it began; 0: none."""
    change: TemplateChange | None = None
    """What the canary's replicas are started with, where that is something else than the stable
    version's. `version` may then be `stable`: the same one, run otherwise."""
    rejected_templates: tuple[str, ...] = ()
    """Keys (core/templates.py) of what was rolled back or undone, the last ones: started only when
    somebody deploys it again or starts it."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.phase in OVER

    @property
    def is_of_template(self) -> bool:
        """Whether both sides have the same version, and differ in their template alone."""
        return self.change is not None and self.version == self.stable

    @property
    def is_undo(self) -> bool:
        """Whether it goes back, all at once and in place."""
        return not self.steps

    @property
    def replicas_wanted(self) -> int:
        """How many replicas of the canary's own there should be now."""
        is_wanted = not self.is_over and self.phase is not Phase.ROLLING_BACK
        return self.canary_replicas if is_wanted else 0

    @property
    def weight(self) -> float:
        """The canary's share of the traffic now, from 0 to 1, as long as it is not live."""
        has_share = self.phase in (Phase.PROGRESSING, Phase.PAUSED, Phase.PROMOTING)
        return self.steps[self.step] / 100.0 if has_share and self.steps else 0.0


@dataclass(frozen=True, slots=True)
class RolloutView:
    """A rollout with what its step has shown so far, for people."""

    rollout: Rollout
    finding: Finding
    min_samples: int = 0
    step_s: float = 0.0
