"""What the two sides of each rollout have answered, in this process.

Counted by version; where both sides have the same, the canary's is what its replicas have answered.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from gateway.core import agreement
from gateway.core.analysis import BOUNDS_S, Tally, add, count, empty
from gateway.core.route import CANARY_SIDE, RoutingTable
from gateway.core.split import is_chosen
from gateway.dataplane.inflight import Use
from gateway.domain.agreement import AgreementTally
from gateway.domain.names import Version

_GOOD = ("200", "OK")
"""What nearly all are."""

Window = tuple[int, dict[Version, Tally]]
"""The number of a step's window, and what was counted in it."""

Shadowed = tuple[int, AgreementTally]
"""The same of copies (shadowing.py)."""

W = TypeVar("W", Window, Shadowed)


class SplitCounts:
    """Counts by model and version in the window that the table names."""

    def __init__(self) -> None:
        self._windows: dict[str, Window] = {}
        self._shadows: dict[str, Shadowed] = {}
        self._sides: dict[str, frozenset[str]] = {}
        """By model, the replicas that have been the canary's in its window."""

    def keep(self, table: RoutingTable) -> None:
        """Begin the windows that are new in this table and forget those that it does not name."""
        before, self._windows = self._windows, {}
        shadows, self._shadows = self._shadows, {}
        sides, self._sides = self._sides, {}
        for name, model in table.models.items():
            canary = model.canary
            if canary is None or model.live is None:
                continue
            known = before.get(name)
            if known is None or known[0] != canary.window:
                key = canary.version if model.side is None else CANARY_SIDE
                known = canary.window, {model.live: empty(), key: empty()}
                sides.pop(name, None)
            self._windows[name] = known
            if model.side is not None:
                # With those that are gone: their last requests may still end.
                ids = frozenset(t.replica_id for t in model.side)
                self._sides[name] = sides.get(name, frozenset()) | ids
            if canary.shadow:
                shadowed = shadows.get(name)
                if shadowed is None or shadowed[0] != canary.window:
                    shadowed = canary.window, AgreementTally()
                self._shadows[name] = shadowed

    def ended(self, model: str, asked: Use | None, place: float, took_s: float, code: str) -> None:
        """A request that was split has ended; `asked` was its last call.

        A caller who left is counted with the time that it has waited: else a canary that hangs
        would look as good as its few quick answers. A request that chose its side tells nothing:
        testers send what others do not.
        """
        window = self._windows.get(model)
        if window is None or asked is None or is_chosen(place):
            return
        side = self._sides.get(model)
        tally = window[1].get(CANARY_SIDE if side and asked[2] in side else asked[1])
        if tally is None:
            return
        if code in _GOOD:
            # As `count`, whose call would be a tenth of what a split costs.
            tally[1 + bisect_left(BOUNDS_S, took_s)] += 1
        else:
            count(tally, took_s, failed=_is_failure(code))

    def of(self, model: str) -> Mapping[Version, Sequence[int]]:
        """What `model` has in its window."""
        window = self._windows.get(model)
        return {} if window is None else window[1]

    def windows(self) -> Mapping[str, Window]:
        """All of them."""
        return self._windows

    def agreement_in(self, model: str, window: int) -> AgreementTally | None:
        """To count copies of `model` in, as long as that is its window."""
        shadowed = self._shadows.get(model)
        return None if shadowed is None or shadowed[0] != window else shadowed[1]

    def agreement_of(self, model: str) -> AgreementTally | None:
        """What copies of `model` have shown in its window; None where none are made."""
        shadowed = self._shadows.get(model)
        return None if shadowed is None else shadowed[1]

    def shadows(self) -> Mapping[str, Shadowed]:
        """All of these."""
        return self._shadows


def current(counted: Mapping[str, W], table: RoutingTable) -> dict[str, W]:
    """Of what another process has counted, the windows that `table` names."""
    found: dict[str, W] = {}
    for name, window in counted.items():
        model = table.models.get(name)
        if model is not None and model.canary is not None and model.canary.window == window[0]:
            found[name] = window
    return found


def summed(model: str, counted: Iterable[Mapping[str, Window]]) -> dict[Version, Tally]:
    """What several processes have counted of `model` in the same window."""
    total: dict[Version, Tally] = {}
    for each in counted:
        for version, tally in each.get(model, (0, {}))[1].items():
            add(total.setdefault(version, empty()), tally)
    return total


def summed_agreement(
    model: str, counted: Iterable[Mapping[str, Shadowed]]
) -> AgreementTally | None:
    """The same of copies; None where no process has made any."""
    total: AgreementTally | None = None
    for each in counted:
        shadowed = each.get(model)
        if shadowed is not None:
            total = total or AgreementTally()
            agreement.add(total, shadowed[1])
    return total


def _is_failure(code: str) -> bool:
    """By the code that the caller saw. The caller's own mistakes (4xx) count too: both sides get
    the same share of them, unless the new version refuses what the old one takes."""
    return not (code == "OK" or code[0] in "123" or code in ("499", "CANCELLED"))
