"""How long runs take, to know which of them may run on the loop's own thread.

A hop to a worker thread and back costs some 60 µs of CPU, a small network's run 15. So what has
shown that it is quick is run where it was decoded. "Quick" is said of one form of request (shapes
and rows included) and is taken back at once when it is no longer true, so the loop is held up by
one run, or a few, and not by a habit:

- a form begins on the worker threads, and stays there for its first WARM runs;
- then, if the quickest of them was below the limit, it runs on the loop. The quickest, because a
  thread's time includes its wait for the interpreter's lock, which a loaded loop makes long;
- on the loop nothing is in the way, so there the mean counts: above the limit, the form goes back
  to the threads, for longer each time;
- so it does at once after a run of HELD_S, or two of BLOCKED_S close to each other. One alone says
  nothing about the model: the process itself may have been held up, where others need its cores.
  For the same reason a run counts in the mean as a few limits at most.
"""

from __future__ import annotations

from collections.abc import Hashable

WARM = 32
"""Runs on a thread before the first on the loop."""
LONGEST = 1024
"""Runs on a thread, at most, after the loop was held up."""
BLOCKED_S = 0.005
"""Beyond this a run on the loop is felt by others."""
HELD_S = 0.05
"""No scheduler holds a thread up for so long by itself."""
CLOSE = 64
"""Two runs beyond BLOCKED_S are close with fewer quick ones between them."""

_FORMS = 256
"""Forms that are told apart. Callers choose shapes; beyond this all begin anew."""
_WEIGHT = 0.125
"""Of the newest run in the mean."""
_MOST_LIMITS = 4
"""What one run can count as. With the weight: three such in a row are too many."""


class _Form:
    __slots__ = ("good", "is_here", "least_s", "left", "mean_s", "next_left")

    def __init__(self) -> None:
        self.is_here = False
        self.left = WARM
        self.least_s = float("inf")
        self.mean_s = 0.0
        self.good = 0
        """Runs on the loop since the last that was too long."""
        self.next_left = WARM

    def back_to_threads(self) -> None:
        self.is_here = False
        if self.good > LONGEST:
            self.next_left = WARM
        self.left, self.least_s = self.next_left, float("inf")
        self.next_left = min(self.next_left * 4, LONGEST)


class Pace:
    """The forms of one version. Used on the event loop only."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        """0: nothing runs on the loop."""
        self._forms: dict[Hashable, _Form] = {}

    def __repr__(self) -> str:
        here = sum(form.is_here for form in self._forms.values())
        return f"Pace({len(self._forms)} forms, {here} on the loop)"

    def is_quick(self, key: Hashable) -> bool:
        """Whether a request of this form may run on the loop."""
        form = self._forms.get(key)
        return form is not None and form.is_here

    def ran_on_thread(self, key: Hashable, took_s: float) -> None:
        """A run of this form ended on a worker thread."""
        form = self._forms.get(key)
        if form is None:
            if len(self._forms) >= _FORMS:
                self._forms.clear()
            form = self._forms[key] = _Form()
        form.least_s = min(form.least_s, took_s)
        form.left -= 1
        if form.left <= 0 and not form.is_here:
            form.is_here = form.least_s < self.limit_s
            form.mean_s, form.good = form.least_s, 0
            form.left, form.least_s = LONGEST, float("inf")

    def ran_here(self, key: Hashable, took_s: float) -> None:
        """A run of this form ended on the loop."""
        form = self._forms.get(key)
        if form is None:
            return
        counted_s = min(took_s, self.limit_s * _MOST_LIMITS)
        form.mean_s += (counted_s - form.mean_s) * _WEIGHT
        if took_s < BLOCKED_S:
            form.good += 1
            is_slow = form.mean_s > self.limit_s
        else:
            is_slow = form.good < CLOSE or took_s > HELD_S or form.mean_s > self.limit_s
            if not is_slow:
                form.good = 0
        if is_slow:
            form.back_to_threads()
