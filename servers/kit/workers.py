"""Runs of models on worker threads, and the line of due work before them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np

from servers.kit.counters import Timing
from servers.kit.rows import Loaded, NotRowwise, run_alone, split
from servers.kit.runtime import Arrays
from servers.kit.timing import Spent

if TYPE_CHECKING:
    from servers.kit.batching import Lane

Key = tuple[object, ...]


class Pending:
    """One request that waits."""

    __slots__ = (
        "answer",
        "deadline_at",
        "form",
        "inputs",
        "is_queued",
        "queued_at",
        "queued_ns",
        "rows",
        "spent",
    )

    def __init__(
        self, inputs: Arrays, rows: int, deadline_at: float, answer: asyncio.Future[Arrays]
    ) -> None:
        self.inputs = inputs
        self.form: Key = ()
        """Its shapes and what it asks for; see `servers.kit.pace`."""
        self.rows = rows
        self.deadline_at = deadline_at
        self.answer = answer
        self.queued_at = 0.0
        self.queued_ns = perf_counter_ns()
        """For the statistics; the loop's own clock ticks in milliseconds under uvloop."""
        self.is_queued = False
        self.spent: Spent = (0, 0)


@dataclass(frozen=True, slots=True)
class Ran:
    """A run's answers, one per part, and how long each stage took."""

    answers: list[Arrays]
    timing: Timing


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that share one run."""

    loaded: Loaded
    signature: str
    outputs: tuple[str, ...]
    parts: tuple[Pending, ...]
    lane: Lane

    def run(self) -> Ran:
        """Run on a worker thread; one answer per part."""
        began = perf_counter_ns()
        if len(self.parts) == 1:
            inputs = self.parts[0].inputs
        else:
            names = self.parts[0].inputs.keys()
            inputs = {n: np.concatenate([p.inputs[n] for p in self.parts]) for n in names}
        joined = perf_counter_ns()
        answer = run_alone(self.loaded, self.signature, inputs, self.outputs)
        answered = perf_counter_ns()
        rows = [part.rows for part in self.parts]
        answers = [answer] if len(rows) == 1 else split(answer, rows)
        ended = perf_counter_ns()
        return Ran(
            answers,
            Timing(sum(rows), began, joined - began, answered - joined, ended - answered),
        )


class Workers:
    """The threads that run models, and the line of due work before them."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="run")
        self._free = threads
        self._threads = threads
        self._alone: deque[Batch] = deque()
        self._due: deque[Lane] = deque()

    @property
    def is_busy(self) -> bool:
        """Whether some run is under way."""
        return self._free < self._threads

    def offer(self, lane: Lane) -> None:
        """Put a due lane at the end of the line."""
        self._due.append(lane)
        self._pump()

    def _pump(self) -> None:
        while self._free and (self._alone or self._due):
            if self._alone:
                self._start(self._alone.popleft())
                continue
            lane = self._due.popleft()
            batch = lane.cut()
            if batch is not None:
                self._start(batch)
            lane.arm()

    def _start(self, batch: Batch) -> None:
        loop = asyncio.get_running_loop()
        self._free -= 1
        batch.lane.owner.running += 1
        run = self._pool.submit(batch.run)

        def tell(done: Future[Ran]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(self._finish, batch, done)

        run.add_done_callback(tell)

    def _finish(self, batch: Batch, run: Future[Ran]) -> None:
        self._free += 1
        batch.lane.owner.running -= 1
        error = run.exception()
        waiting = [part for part in batch.parts if not part.answer.done()]
        if error is None:
            self._answer(batch, run.result())
        elif len(batch.parts) == 1:
            for part in waiting:
                part.answer.set_exception(error)
        else:
            if isinstance(error, NotRowwise):
                batch.lane.owner.stop_joining(str(error))
            self._alone.extend(
                Batch(batch.loaded, batch.signature, batch.outputs, (part,), batch.lane)
                for part in waiting
            )
        batch.lane.owner.run_ended()
        self._pump()

    def _answer(self, batch: Batch, ran: Ran) -> None:
        counters = batch.lane.owner.counters
        counters.ran(ran.timing)
        if len(batch.parts) == 1:
            batch.lane.owner.pace.ran_on_thread(batch.parts[0].form, ran.timing.infer_ns / 1e9)
        now, timing = perf_counter_ns(), ran.timing
        for part, answer in zip(batch.parts, ran.answers, strict=True):
            if not part.answer.done():
                part.spent = (max(0, timing.began_ns - part.queued_ns), timing.ns)
                part.answer.set_result(answer)
                counters.answered(timing, part.rows, part.queued_ns, now)

    def close(self) -> None:
        """Take no more work; does not wait for runs under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)
