"""How many requests of a model may be with its replicas at once: learnt, not configured.

Beyond the point where replicas are kept busy, more requests at once make every answer slower and
none come sooner; they wait better here, where they can be ordered, refused and forgotten. As in
Netflix's concurrency-limits (Gradient2: https://github.com/Netflix/concurrency-limits) and Envoy's
adaptive concurrency filter, the latency without load is compared with the present one, and
`limit = limit * gradient + sqrt(limit)` after each window.

Model servers differ from what those were made for in one way: they batch, and a full batch takes
longer than a lone request and is still the better deal. So a cut that cost throughput is taken
back, and the latency that is tolerated grows (`_Tolerance`). Little's law (L = lambda * W) then
tells of any number of requests how long it will take: number / throughput.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """Bounds of what is learnt."""

    is_adaptive: bool = True
    """Off: the model's `in_flight_limit` alone counts, and nothing waits in the gateway."""

    initial: int = 32
    """Until something is known: so few that the first burst on a slow server is not all in its
    queue. Where answers do not get slower it doubles with each window."""

    least: int = 2
    """Never below: one that runs, one that waits, so that a replica is never idle for a round
    trip."""

    window_s: float = 0.1
    """Shortest window, Envoy's (`concurrency_update_interval`); longer where answers take long."""

    window_answers: int = 50
    """Fewest answers in a window; fewer scatter too much (1 / sqrt(50) = 14 %). A window ends
    without them once it is ten times as long, and the first that is full with a third of them."""

    tolerance: float = 3.0
    """So many times the latency without load are no reason to cut: a batch that runs, and the next
    that waits for it."""

    most_tolerance: float = 12.0
    """Where cuts cost throughput, up to here."""

    standing_s: float = 0.005
    """Latency that is never worth a cut: CoDel's target for a queue that stands (RFC 8289)."""


_BACKOFF = 0.9
"""Cut for a window with drops; Netflix's AIMD."""

_DROPPED_RATIO = 0.02
"""Drops below this share are no sign of load."""

_SMOOTHING = 0.3
"""Weight of the newest window in the throughput. Netflix smooths by 0.2."""

_QUEUEING_RATIO = 1.5
"""Calls that take so much longer than without load wait for each other: the replicas are busy."""

_MOST_COMPARED = 256
"""Of a window's answers, how many tell how much they scatter: enough for 5 %."""

_DEVIATIONS = 2.0
"""Added to what a request is expected to take, before it is let in. TCP's timer adds four mean
deviations (RFC 6298), for it must not fire too early; refusing is no better than being late."""

_IDLE_RATIO, _START_RATIO = 1.15, 2.0
"""Slow start: nothing waits at the replicas, so the limit is far from what they can do."""

_AGEING = 1.01
"""Per full window: the latency without load is believed a little less, for a model whose answers
have become slower would be throttled for ever. Falls back with the next window that is better."""

_PROBE_WINDOWS = 10
"""Every so many full windows something is cut, to see whether as much could be done with less;
as Envoy measures its minimum latency anew, but by steps that a queue does not notice."""

_PROBE_RATIO = 0.75

_COSTLY_RATIO = 0.92
"""A cut after which less than this of the throughput is left was one too many."""

_TOLERANCE_UP, _TOLERANCE_DOWN = 1.25, 0.995


class Limit:
    """The limit of one model. An answer costs an append and a comparison; the rest is done once for
    each window."""

    __slots__ = (
        "_base_s", "_before_cut", "_dropped", "_end_at", "_full_windows", "_is_full", "_is_refused",
        "_latencies_s", "_off_s", "_overdue_at", "_settings", "_tolerance", "_window_at", "free",
        "most", "per_s", "value",
    )  # fmt: skip

    def __init__(self, settings: LimitSettings, most: int, now: float) -> None:
        """`most` is the limit that the model's owner has set."""
        self._settings = settings
        self.most = most
        self.value = min(settings.initial, most) if settings.is_adaptive else most
        """The limit."""
        self.per_s: float | None = None
        """What the replicas can do, answers per second; None until they had more than that."""
        self.free = most
        """So many at once do not wait for each other, as far as is known (Little's law)."""
        self._base_s = inf
        """Latency without load, the mean of a window."""
        self._off_s = 0.0
        """Mean deviation of latencies."""
        self._tolerance = settings.tolerance
        self._before_cut: tuple[int, float] | None = None
        """Limit and throughput before the last cut, until it has been judged."""
        self._full_windows = 0
        self._latencies_s: list[float] = []
        """Of the calls in this window that were answered; of those dropped, until then."""
        self._dropped = 0
        self._is_full = False
        """In this window the limit was reached."""
        self._is_refused = False
        """In this window something was refused, for it would have been late."""
        self._window_at = now
        self._end_at = now + settings.window_s
        """The window's beginning, and its earliest end."""
        self._overdue_at = now
        """The last answer after that."""

    def queued(self) -> None:
        """A request has to wait: the limit is reached."""
        self._is_full = True

    def refused(self) -> None:
        """A request was refused, for it would have been late."""
        self._is_refused = True

    def observe(self, latency_s: float, now: float) -> None:
        """A call has been answered."""
        self._latencies_s.append(latency_s)
        if now >= self._end_at:
            self._leave_out_idle(now - latency_s)
            self._end_window(now)

    def dropped(self, elapsed_s: float, now: float) -> None:
        """A call was given up after `elapsed_s`, at its deadline. One that had less time than a
        call takes without load says nothing of the load."""
        if not elapsed_s < self._base_s < inf:
            self._drop(elapsed_s, now)

    def rejected(self, now: float) -> None:
        """A replica said that it has too much to do."""
        if self._base_s < inf:
            self._drop(self._base_s, now)

    def _drop(self, elapsed_s: float, now: float) -> None:
        self._dropped += 1
        self.observe(elapsed_s, now)  # it would have been more

    def finish_s(self, ahead: int) -> float:
        """Seconds until a request is answered that comes after `ahead` others, with the replicas
        or waiting for them: expected. 0.0 for one with nobody before it, who is always let in: what
        is believed of a model that has become quicker would else never be put right."""
        if not ahead or self._base_s == inf:
            return 0.0
        if self.per_s is None:
            return self._base_s
        return max((ahead + 1) / self.per_s, self._base_s)

    def finish_surely_s(self, ahead: int, margin: float) -> float:
        """As `finish_s`, with room for how much answers scatter, and `margin` times the wait; 0.0
        also while it is not known how much the replicas can do."""
        if not ahead or self.per_s is None:
            return 0.0
        wait_s = max(0.0, (ahead + 1) / self.per_s - self._base_s)
        return self._base_s + margin * wait_s + _DEVIATIONS * self._off_s

    def _leave_out_idle(self, began_at: float) -> None:
        """The window is overdue, and waits for enough answers; the newest is of a call that began
        then. If nobody asked before that, it says nothing of what the replicas can do."""
        idle_s = began_at - max(self._overdue_at, self._end_at)
        if idle_s > 0.0:
            self._window_at += idle_s
            self._end_at += idle_s

    def _end_window(self, now: float) -> None:
        settings, latencies_s, dropped = self._settings, self._latencies_s, self._dropped
        length_s, shortest_s = now - self._window_at, self._end_at - self._window_at
        is_full, is_refused = self._is_full, self._is_refused
        seen = len(latencies_s)
        enough = settings.window_answers
        if self.per_s is None and is_full:
            enough //= 3
        if seen < enough and length_s < 10 * shortest_s:
            self._overdue_at = now
            return
        # At least a clock's tick, as it is divided by.
        mean_s = max(1e-6, sum(latencies_s) / seen)
        # Two of what a call takes, so that a window shows what the limit before it has done.
        next_s = max(settings.window_s, min(2 * mean_s, 10 * settings.window_s))
        self._window_at, self._end_at = now, now + next_s
        self._latencies_s, self._dropped = [], 0
        self._is_full = self._is_refused = False
        is_full = is_full or (is_refused and mean_s > _QUEUEING_RATIO * self._base_s)
        is_dropping = dropped > _DROPPED_RATIO * seen
        self._base_s = min(mean_s, self._base_s * _AGEING if is_full else self._base_s)
        some_s = latencies_s[:_MOST_COMPARED]
        off_s = sum([abs(latency_s - mean_s) for latency_s in some_s]) / len(some_s)
        self._off_s += _SMOOTHING * (off_s - self._off_s) if self._off_s else off_s
        is_idle = not (is_dropping or is_refused) and mean_s < _IDLE_RATIO * self._base_s
        rate = (seen - dropped) / length_s
        self._gauge(rate, is_busy=is_full and not is_idle)
        if is_full and settings.is_adaptive:
            self._steer(mean_s, rate, is_dropping=is_dropping, is_idle=is_idle)

    def _gauge(self, rate: float, *, is_busy: bool) -> None:
        """What the replicas can do. Where less was asked than that, at least `rate`."""
        per_s = self.per_s
        if is_busy:
            # Above 0, for it is divided by; the least that a window can show.
            rate = max(rate, 0.1)
            self.per_s = rate if per_s is None else per_s + _SMOOTHING * (rate - per_s)
        elif per_s is not None and rate > per_s:
            self.per_s = rate
        if self.per_s is not None:
            self.free = int(self.per_s * self._base_s)

    def _steer(self, mean_s: float, rate: float, *, is_dropping: bool, is_idle: bool) -> None:
        """The limit for the next window."""
        settings = self._settings
        before_cut, self._before_cut = self._before_cut, None
        if before_cut and not is_dropping and rate < _COSTLY_RATIO * before_cut[1]:
            self._tolerance = min(settings.most_tolerance, self._tolerance * _TOLERANCE_UP)
            self._set(before_cut[0])
            return
        self._full_windows += 1
        self._tolerance = max(settings.tolerance, self._tolerance * _TOLERANCE_DOWN)
        allowed_s = self._tolerance * self._base_s + settings.standing_s
        gradient = max(0.5, min(1.0, allowed_s / mean_s))
        wanted = self.value * gradient + sqrt(self.value)
        if is_idle:
            wanted = self.value * _START_RATIO
        elif mean_s > settings.standing_s and self._full_windows % _PROBE_WINDOWS == 0:
            wanted = min(wanted, self.value * _PROBE_RATIO)
        if is_dropping:
            wanted = min(wanted, self.value * _BACKOFF)
        if wanted < self.value:
            self._before_cut = (self.value, rate if self.per_s is None else self.per_s)
        self._set(wanted)

    def _set(self, wanted: float) -> None:
        self.value = int(max(self._settings.least, min(self.most, wanted)))
