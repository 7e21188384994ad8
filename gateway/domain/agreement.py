"""How much a rollout's two versions agree about the same requests."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Difference:
    """One output of one request: what the canary answered beside what the stable version did."""

    output: str
    mismatch: str = ""
    """In words, where the two cannot be compared: missing, another dtype or shape. The numbers are
    then those of a difference in everything."""
    differing: float = 0.0
    """The share of its predictions (rows, axis 0) in which some element is off by more than the
    tolerance, from 0 to 1."""
    flips: float | None = None
    """The share of its vectors (all axes but the last) whose largest element is another one; None
    where the last axis does not look like classes."""
    abs_error: float = 0.0
    """The largest one of its elements."""
    rel_error: float = 0.0
    """The largest error of an element in relation to its size, see codecs.differences."""
    cosine: float | None = None
    """Similarity of the two as vectors, from -1 to 1; None where they are no numbers."""


@dataclass(frozen=True, slots=True)
class OutputAgreement:
    """One output over all compared requests of one window."""

    name: str
    compared: int
    mismatched: int
    mismatch: str
    """The last one, in words."""
    differing: float
    flips: float | None
    """Shares of the predictions, each request counted alike."""
    max_abs_error: float
    max_rel_error: float
    mean_cosine: float | None
    min_cosine: float | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """What shadowed requests show in one window."""

    compared: int = 0
    """Requests that both versions have answered."""
    failed: int = 0
    """Requests that the canary answered with an error, and the stable version with none."""
    skipped: int = 0
    """Copied and not compared: no prediction, too large, unreadable, or the canary's replica was
    overloaded or gone."""
    dropped: int = 0
    """Drawn and not copied, because as much was under way as may be."""
    differing: float = 0.0
    flips: float = 0.0
    """Shares of the predictions, over compared and failed requests: of the worst output each."""
    outputs: tuple[OutputAgreement, ...] = ()
    """By name."""
    evidence: float = 1.0
    """How much likelier this is if the versions differ in more than is allowed; 1 where nobody has
    said how much is."""
    needed: int = 0
    """Requests that have to be compared before a step passes; 0 where it is not judged."""
    tests: int = 0
    """How many bounds were given."""
    reason: str = ""
    """The largest difference in words; empty where there is none."""

    @property
    def judged(self) -> int:
        """Requests that tell something."""
        return self.compared + self.failed


# ---- counted --------------------


@dataclass(slots=True)
class OutputTally:
    """Mutable: sums over one output."""

    compared: int = 0
    classed: int = 0
    """Of these, with something that looks like classes."""
    mismatched: int = 0
    mismatch: str = ""
    differing: float = 0.0
    flips: float = 0.0
    max_abs: float = 0.0
    max_rel: float = 0.0
    cosines: int = 0
    cosine_sum: float = 0.0
    min_cosine: float = 1.0


@dataclass(slots=True)
class AgreementTally:
    """Mutable: what one process, or all, have seen of one window. Processes send it each other."""

    compared: int = 0
    failed: int = 0
    skipped: int = 0
    dropped: int = 0
    differing: float = 0.0
    flips: float = 0.0
    failure: str = ""
    """The last error of the canary, in its words."""
    outputs: dict[str, OutputTally] = field(default_factory=dict)
