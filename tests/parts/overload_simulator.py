"""A gateway in front of a server in virtual time, with the decisions that the real one makes.

Arrivals are Poisson, in phases; the server has `width` workers, each of which takes up to
`batch` requests from a first-in-first-out queue that knows no deadlines (the worst that may be
behind us). Everything between is `core.queueing.Turns` and `core.limits.Limit`, used as
`dataplane.forwarding` uses them: checked at the door, waiting, sent, cancelled at the deadline.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random

from gateway.core.limits import Limit, LimitSettings
from gateway.core.queueing import Priority, QueueSettings, Turns
from gateway.domain.errors import Overloaded


@dataclass(frozen=True)
class Server:
    """How long a batch takes, and how many run at once."""

    run_s: Callable[[Random, int], float]
    width: int = 1
    batch: int = 1
    drops_cancelled: bool = True
    """Whether what was cancelled leaves its queue, as the kit's does."""
    works_s: float = 0.0
    """0: always. Else it stands still again and again, as a process whose processor others take:
    the mean times of both, exponential."""
    pauses_s: float = 0.0

    def capacity_per_s(self) -> float:
        rng = Random(1)
        mean = sum(self.run_s(rng, self.batch) for _ in range(4000)) / 4000
        return self.width * self.batch / mean


@dataclass(eq=False)
class Request:
    came_at: float
    deadline_at: float
    priority: Priority = Priority.STANDARD
    sent_at: float = -1.0
    ended_at: float = -1.0
    refused: str = ""
    missed: bool = False
    ran: bool = False
    wasted: bool = False
    has_turn: bool = False

    @property
    def is_over(self) -> bool:
        return self.ended_at >= 0


@dataclass
class Outcome:
    requests: list[Request] = field(default_factory=list)
    limits: list[tuple[float, int]] = field(default_factory=list)
    work_s: float = 0.0
    wasted_s: float = 0.0
    left: tuple[int, int] = (0, 0)
    """Active and waiting at the end; both are to be 0."""

    def between(self, start: float, end: float) -> list[Request]:
        return [r for r in self.requests if start <= r.came_at < end]

    @staticmethod
    def in_time_ratio(requests: Sequence[Request]) -> float:
        accepted = [r for r in requests if not r.refused]
        return sum(not r.missed for r in accepted) / max(1, len(accepted))

    @staticmethod
    def answered(requests: Sequence[Request]) -> int:
        return sum(not r.refused and not r.missed for r in requests)


class Simulation:
    """One run."""

    def __init__(
        self,
        server: Server,
        *,
        seed: int = 1,
        limits: LimitSettings | None = None,
        queue: QueueSettings | None = None,
        most: int = 1024,
        is_guarded: bool = True,
    ) -> None:
        """Without `is_guarded` everything is sent at once, as if the gateway decided nothing."""
        self.rng = Random(seed)
        self.server = server
        self.now = 0.0
        self.turns: Turns[Request] = Turns(
            "m", Limit(limits or LimitSettings(), most, 0.0), queue or QueueSettings()
        )
        self.out = Outcome()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        self._queue: deque[Request] = deque()
        self._free = server.width
        self._is_guarded = is_guarded
        self._back_at = 0.0
        """While it is later than now, the server stands still."""

    def run(
        self,
        phases: Sequence[tuple[float, float]],
        deadline_s: Callable[[Random], float],
        priority: Callable[[Random], Priority] = lambda _: Priority.STANDARD,
    ) -> Outcome:
        """`phases`: seconds and arrivals per second."""
        at = 0.0
        for length_s, per_s in phases:
            end = at + length_s
            come = at
            while (come := come + self.rng.expovariate(per_s)) < end:
                request = Request(come, come + deadline_s(self.rng), priority(self.rng))
                self._at(come, lambda r=request: self._come(r))
            at = end
        if self.server.works_s:
            self._work_on(at)
        while self._events:
            self.now, _, step = heapq.heappop(self._events)
            step()
        self.out.left = (self.turns.active, self.turns.queue.size)
        return self.out

    def _at(self, when: float, step: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._number), step))

    # ---- the gateway --------------------

    def _come(self, request: Request) -> None:
        self.out.requests.append(request)
        self.out.limits.append((self.now, self.turns.limit.value))
        if not self._is_guarded:
            self._at(request.deadline_at, lambda: self._too_late(request))
            self.turns.active += 1
            self._send(request)
            return
        try:
            if self.turns.active > self.turns.limit.free:
                self.turns.check(request.priority, request.deadline_at - self.now)
        except Overloaded as error:
            self._refuse(request, error.reason)
            return
        self._at(request.deadline_at, lambda: self._too_late(request))
        if self.turns.take(request, request.priority):
            self._send(request)
        elif (last := self.turns.displaced()) is not None:
            self._refuse(last, "displaced")

    def _refuse(self, request: Request, reason: str) -> None:
        request.refused, request.ended_at = reason, self.now

    def _send(self, request: Request) -> None:
        request.has_turn = True
        left_s = request.deadline_at - self.now
        if self._is_guarded and not self.turns.is_worth_sending(left_s):
            request.missed = True
            self._end(request)
            return
        request.sent_at = self.now
        self._queue.append(request)
        self._serve()

    def _too_late(self, request: Request) -> None:
        if request.is_over:
            return
        request.missed = True
        if request.sent_at >= 0:
            self.turns.limit.dropped(self.now - request.sent_at, self.now)
        self._end(request)

    def _end(self, request: Request) -> None:
        request.ended_at = self.now
        if request.has_turn:
            self.turns.give_back()
        else:
            self.turns.queue.remove(request, request.priority)
        while (following := self.turns.next()) is not None:
            self._send(following)

    # ---- the server --------------------

    def _work_on(self, until: float) -> None:
        """Go on, and stand still after a while."""
        self._serve()
        stops_at = self.now + self.rng.expovariate(1 / self.server.works_s)
        back_at = stops_at + self.rng.expovariate(1 / self.server.pauses_s)

        def stop() -> None:
            self._back_at = back_at

        if back_at < until:
            self._at(stops_at, stop)
            self._at(back_at, lambda: self._work_on(until))

    def _serve(self) -> None:
        if self.now < self._back_at:
            return
        while self._free and self._queue:
            batch: list[Request] = []
            while self._queue and len(batch) < self.server.batch:
                request = self._queue.popleft()
                if not (request.is_over and self.server.drops_cancelled):
                    batch.append(request)
            if not batch:
                return
            self._free -= 1
            took_s = self.server.run_s(self.rng, len(batch))
            self._at(self.now + took_s, lambda b=batch, t=took_s: self._done(b, t))

    def _done(self, batch: list[Request], took_s: float) -> None:
        if self.now < self._back_at:
            self._at(self._back_at, lambda: self._done(batch, took_s))
            return
        self._free += 1
        share_s = took_s / len(batch)
        for request in batch:
            self.out.work_s += share_s
            if request.is_over:
                self.out.wasted_s += share_s
                continue
            self.turns.limit.observe(self.now - request.sent_at, self.now)
            self._end(request)
        self._serve()
