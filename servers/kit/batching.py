"""Join queued requests into one run, and tell their answers apart again.

A lane holds requests that may share a run: one signature, the same dtypes and per-row shapes, the
same outputs asked for. A lane is due when it has a full batch, when its oldest request has waited
long enough, or when it may not join at all. Due lanes of all models wait in one line for a free
worker, so no model starves another.

A joined run that fails is run again request by request, so a bad row fails alone. Requests that
were cancelled, or whose deadline has passed, leave the queue without being run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

from gateway.domain.errors import DeadlineExceeded, Overloaded, Unavailable
from servers.kit.counters import Counters, Timing
from servers.kit.rows import Loaded, NotRowwise, run_alone, split
from servers.kit.runtime import Arrays
from servers.kit.settings import BatchSettings

Key = tuple[object, ...]


class Pending:
    """One request that waits."""

    __slots__ = (
        "answer",
        "deadline_at",
        "inputs",
        "is_queued",
        "queued_at",
        "queued_ns",
        "rows",
    )

    def __init__(
        self, inputs: Arrays, rows: int, deadline_at: float, answer: asyncio.Future[Arrays]
    ) -> None:
        self.inputs = inputs
        self.rows = rows
        self.deadline_at = deadline_at
        self.answer = answer
        self.queued_at = 0.0
        self.queued_ns = perf_counter_ns()
        """For the statistics; the loop's own clock ticks in milliseconds under uvloop."""
        self.is_queued = False


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
        now = perf_counter_ns()
        for part, answer in zip(batch.parts, ran.answers, strict=True):
            if not part.answer.done():
                part.answer.set_result(answer)
                counters.answered(ran.timing, part.rows, part.queued_ns, now)

    def close(self) -> None:
        """Take no more work; does not wait for runs under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Lane:
    """Requests that may share a run, oldest first."""

    def __init__(self, owner: Batcher, key: Key, signature: str, outputs: tuple[str, ...]) -> None:
        self.owner = owner
        self.key = key
        self.signature = signature
        self.outputs = outputs
        self._queue: deque[Pending] = deque()
        self._rows = 0
        self._is_offered = False
        self._timer: asyncio.TimerHandle | None = None

    def add(self, pending: Pending) -> None:
        self._queue.append(pending)
        self._rows += pending.rows
        self.arm()

    def arm(self) -> None:
        """Offer this lane if it is due; else look again when its oldest request has waited."""
        if self._is_offered or not self._queue:
            return
        loop = asyncio.get_running_loop()
        due_at = self._queue[0].queued_at + self.owner.settings.delay_s
        is_full = self._rows >= self.owner.limit
        if not self.owner.is_joining or is_full or loop.time() >= due_at:
            self._disarm()
            self._is_offered = True
            self.owner.workers.offer(self)
        elif self._timer is None:
            self._timer = loop.call_at(due_at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.arm()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def cut(self) -> Batch | None:
        """Take the next batch off the queue, or None when nothing in it is still wanted."""
        self._is_offered = False
        now = asyncio.get_running_loop().time()
        parts: list[Pending] = []
        rows = 0
        while self._queue:
            head = self._queue[0]
            if not head.answer.done() and head.deadline_at <= now:
                head.answer.set_exception(_late())
            if head.answer.done():
                self._take()
                continue
            if parts and (not self.owner.is_joining or rows + head.rows > self.owner.limit):
                break
            parts.append(self._take())
            rows += head.rows
        if not self._queue:
            self.owner.forget(self)
        if not parts:
            return None
        return Batch(self.owner.loaded, self.signature, self.outputs, tuple(parts), self)

    def _take(self) -> Pending:
        pending = self._queue.popleft()
        self._rows -= pending.rows
        self.owner.leave(pending)
        return pending

    def refuse(self, error: Unavailable) -> None:
        """Fail everything that waits."""
        self._disarm()
        while self._queue:
            pending = self._take()
            if not pending.answer.done():
                pending.answer.set_exception(error)


class Batcher:
    """The queue before one loaded version."""

    def __init__(self, loaded: Loaded, settings: BatchSettings, workers: Workers) -> None:
        self.loaded = loaded
        self.settings = settings
        self.workers = workers
        self.limit = loaded.fixed_batch or settings.max_rows
        is_rowwise = loaded.batchable or loaded.fixed_batch is not None
        self.is_joining = is_rowwise and min(self.limit, settings.max_rows) > 1
        self.running = 0
        self.queued_rows = 0
        self.counters = Counters()
        self.not_joining_because = loaded.not_joining_because
        self._lanes: dict[Key, Lane] = {}
        self._idle = asyncio.Event()

    async def run(
        self,
        signature: str,
        inputs: Arrays,
        outputs: tuple[str, ...],
        rows: int,
        deadline_at: float,
    ) -> Arrays:
        """Answer one request of `rows` rows.

        Raises:
            Overloaded: too many rows wait (`queue_full`); nothing was run.
            DeadlineExceeded: `deadline_at` passed while it waited (`queue`) or ran (`call`).
            InvalidRequest, Internal: what the runtime said of this request.
        """
        limit = self.settings.queue_rows
        if self.queued_rows and self.queued_rows + rows > limit:
            self.counters.failed(0)
            raise Overloaded(
                f"{self.queued_rows} rows wait for this version and at most {limit} may; "
                "try again later, or add replicas",
                reason="queue_full",
                retry_after_s=1.0,
            )
        loop = asyncio.get_running_loop()
        pending = Pending(inputs, rows, deadline_at, loop.create_future())
        lane = self._lane(signature, inputs, outputs)
        pending.queued_at = loop.time()
        pending.is_queued = True
        self.queued_rows += rows
        timer = loop.call_at(deadline_at, _expire, pending)
        try:
            lane.add(pending)
            return await pending.answer
        except BaseException:
            self.counters.failed(perf_counter_ns() - pending.queued_ns)
            raise
        finally:
            timer.cancel()
            if pending.is_queued:  # cancelled or late: its place stays in the lane, its tensors go
                self.leave(pending)
                pending.inputs = {}

    def _lane(self, signature: str, inputs: Arrays, outputs: tuple[str, ...]) -> Lane:
        form = tuple((name, a.dtype, a.shape[1:]) for name, a in inputs.items())
        key: Key = (signature, outputs, form)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(self, key, signature, outputs)
        return lane

    def leave(self, pending: Pending) -> None:
        """Count a request out of the queue, once."""
        if pending.is_queued:
            pending.is_queued = False
            self.queued_rows -= pending.rows

    def forget(self, lane: Lane) -> None:
        """Drop an empty lane: callers choose shapes, so lanes must not pile up."""
        self._lanes.pop(lane.key, None)

    def stop_joining(self, reason: str) -> None:
        """Run every later request alone: the model's outputs do not follow its rows."""
        self.is_joining = False
        self.not_joining_because = reason

    def run_ended(self) -> None:
        """Called by the workers after each run."""
        self._idle.set()

    async def settle(self) -> None:
        """Wait until no run of this version is under way."""
        while self.running:
            self._idle.clear()
            await self._idle.wait()

    def refuse_queued(self) -> None:
        """Fail what still waits; what runs goes on."""
        error = Unavailable(
            "this version is being unloaded; ask again without naming it", reason="draining"
        )
        for lane in list(self._lanes.values()):
            lane.refuse(error)
        self._lanes.clear()


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("Deadline exceeded while the request waited to run", reason="queue")


def _expire(pending: Pending) -> None:
    if not pending.answer.done():
        if pending.is_queued:
            pending.answer.set_exception(_late())
        else:
            pending.answer.set_exception(
                DeadlineExceeded("Deadline exceeded while the model ran", reason="call")
            )
