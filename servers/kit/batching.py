"""Join queued requests into one run, and tell their answers apart again.

A lane holds requests that may share a run: one signature, the same dtypes and per-row shapes, the
same outputs asked for. A lane is due when it has a full batch, when its oldest request has waited
long enough, or when it may not join at all. Due lanes of all models wait in one line for a free
worker, so no model starves another.

A joined run that fails is run again request by request, so a bad row fails alone. Requests that
were cancelled, or whose deadline has passed, leave the queue without being run.

Where nothing waits, a request of a form that has shown to be quick (`servers.kit.pace`) is run at
once on the loop's own thread: no queue, no timer, no hop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter_ns

from gateway.domain.errors import DeadlineExceeded, Overloaded, Unavailable
from servers.kit.counters import Counters
from servers.kit.pace import Pace
from servers.kit.rows import Loaded, run_alone
from servers.kit.runtime import Arrays
from servers.kit.settings import BatchSettings
from servers.kit.timing import Spent
from servers.kit.workers import Batch, Key, Pending, Workers

__all__ = ["Batch", "Batcher", "Lane", "Pending", "Workers"]


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
        self.spent: Spent = (0, 0)
        """Where the time of the answer went that `run` has returned last."""
        self.counters = Counters()
        waits_for_company = self.is_joining and settings.delay_s > 0
        self.pace = Pace(0.0 if waits_for_company else settings.here_s)
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
        """Answer one request of `rows` rows. Until the caller waits for something else, `spent` is
        of its answer.

        Raises:
            Overloaded: too many rows wait (`queue_full`); nothing was run.
            DeadlineExceeded: `deadline_at` passed while it waited (`queue`) or ran (`call`).
            InvalidRequest, Internal: what the runtime said of this request.
        """
        form = (signature, outputs, *[(name, a.dtype, a.shape) for name, a in inputs.items()])
        if not self.queued_rows and self.pace.is_quick(form):
            return self._run_here(form, signature, inputs, outputs, rows, deadline_at)
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
        pending.form = form
        lane = self._lane(signature, inputs, outputs)
        pending.queued_at = loop.time()
        pending.is_queued = True
        self.queued_rows += rows
        timer = loop.call_at(deadline_at, _expire, pending)
        try:
            lane.add(pending)
            answer = await pending.answer
        except BaseException:
            self.counters.failed(perf_counter_ns() - pending.queued_ns)
            raise
        finally:
            timer.cancel()
            if pending.is_queued:  # cancelled or late: its place stays in the lane, its tensors go
                self.leave(pending)
                pending.inputs = {}
        self.spent = pending.spent
        return answer

    def _run_here(
        self,
        form: Key,
        signature: str,
        inputs: Arrays,
        outputs: tuple[str, ...],
        rows: int,
        deadline_at: float,
    ) -> Arrays:
        """One run on the loop's own thread."""
        began = perf_counter_ns()
        if asyncio.get_running_loop().time() >= deadline_at:
            self.counters.failed(0)
            raise _late()
        try:
            answer = run_alone(self.loaded, signature, inputs, outputs)
        except BaseException:
            self.counters.failed(perf_counter_ns() - began)
            raise
        took_ns = perf_counter_ns() - began
        self.spent = (0, took_ns)
        self.counters.ran_here(rows, took_ns)
        self.pace.ran_here(form, took_ns / 1e9)
        return answer

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
