"""What one loaded version has done: counts and nanoseconds, as the V2 statistics show them.

Kept by the batcher, so every protocol's requests count. As in Triton, each request of a joined run
is charged the whole run (`compute_*`), while `batches` charges each run once. Written on the event
loop only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

_MAX_SIZES = 256
"""Batch sizes told apart. Callers choose sizes; further ones count in the totals only."""


@dataclass(slots=True)
class Tally:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """One more, which took `ns`."""
        self.count += 1
        self.ns += ns


@dataclass(frozen=True, slots=True)
class Timing:
    """One run on a worker thread, by `perf_counter_ns`."""

    rows: int
    began_ns: int
    input_ns: int
    """Joining the inputs."""
    infer_ns: int
    output_ns: int
    """Telling the answers apart."""

    @property
    def ns(self) -> int:
        """All of it."""
        return self.input_ns + self.infer_ns + self.output_ns


@dataclass(slots=True)
class RunTally:
    """All runs of one batch size."""

    compute_input: Tally = field(default_factory=Tally)
    compute_infer: Tally = field(default_factory=Tally)
    compute_output: Tally = field(default_factory=Tally)

    def add(self, timing: Timing) -> None:
        """One more run."""
        self.compute_input.add(timing.input_ns)
        self.compute_infer.add(timing.infer_ns)
        self.compute_output.add(timing.output_ns)


@dataclass(slots=True)
class Counters:
    """One version since it was loaded."""

    success: Tally = field(default_factory=Tally)
    """From the queue's door to the answer."""
    fail: Tally = field(default_factory=Tally)
    """Also those that were refused at the door, came too late or were cancelled."""
    queue: Tally = field(default_factory=Tally)
    compute: RunTally = field(default_factory=RunTally)
    inference_count: int = 0
    """Rows answered."""
    execution_count: int = 0
    """Runs of the model."""
    last_inference_ms: int = 0
    """Milliseconds since 1970; 0 before the first."""
    batches: dict[int, RunTally] = field(default_factory=dict)

    def ran(self, timing: Timing) -> None:
        """One run that came to its end."""
        self.execution_count += 1
        self.last_inference_ms = time.time_ns() // 1_000_000
        size = self.batches.get(timing.rows)
        if size is None:
            if len(self.batches) >= _MAX_SIZES:
                return
            size = self.batches[timing.rows] = RunTally()
        size.add(timing)

    def ran_here(self, rows: int, ns: int) -> None:
        """One request that was run alone, at once, on the loop: `ran` and `answered` in one."""
        self.execution_count += 1
        self.inference_count += rows
        self.last_inference_ms = time.time_ns() // 1_000_000
        for tally in (self.success, self.compute.compute_infer):
            tally.count += 1
            tally.ns += ns
        for tally in (self.queue, self.compute.compute_input, self.compute.compute_output):
            tally.count += 1
        size = self.batches.get(rows)
        if size is None:
            if len(self.batches) >= _MAX_SIZES:
                return
            size = self.batches[rows] = RunTally()
        size.compute_infer.add(ns)
        size.compute_input.count += 1
        size.compute_output.count += 1

    def answered(self, timing: Timing, rows: int, queued_ns: int, now_ns: int) -> None:
        """One request of that run that got its answer."""
        self.inference_count += rows
        self.success.add(now_ns - queued_ns)
        self.queue.add(max(0, timing.began_ns - queued_ns))
        self.compute.add(timing)

    def failed(self, ns: int) -> None:
        """One request that got none."""
        self.fail.add(ns)
