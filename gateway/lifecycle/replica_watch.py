"""Talk with one replica: tell it what to hold, ask what it holds.

The report comes first: a replica that was adopted may hold what this gateway does not know of yet,
and must not lose it to a configuration made in ignorance.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized
from dataclasses import replace

from gateway.domain.errors import GatewayError
from gateway.domain.models import VersionState
from gateway.domain.names import Version
from gateway.domain.replicas import Endpoint, ReplicaReport, Told
from gateway.lifecycle.settings import LifecycleSettings
from gateway.ports import Clock, ReplicaControl
from gateway.telemetry import log

_UNDER_WAY = (
    VersionState.NEW,
    VersionState.FETCHING,
    VersionState.LOADING,
    VersionState.DRAINING,
)
NOTHING = ReplicaReport(answered=False)


class ReplicaWatch:
    """One replica that listens. `run` is its loop; `news` is called when its report changed."""

    def __init__(
        self,
        replica_id: str,
        model: str,
        endpoint: Endpoint,
        control: ReplicaControl,
        clock: Clock,
        settings: LifecycleSettings,
        news: Callable[[], None],
        fleet: Sized = (),
    ) -> None:
        """`fleet`: all replicas that are watched, this one too."""
        self.report = NOTHING
        self.told: frozenset[Version] = frozenset()
        """What it was last told, and took."""
        self.asked = False
        """Whether it was asked at least once, answered or not."""
        self.is_known = False
        """Whether it has answered, or was asked as often as one that answers may miss."""
        self.trouble = ""
        """Why it does not take what it is told."""
        self.silent_since = 0.0
        """When the first of the reports was asked for that it owes; 0.0 while it answers, or has
        never answered."""
        self._id = replica_id
        self._model = model
        self.endpoint = endpoint
        self._control = control
        self._clock = clock
        self._settings = settings
        self._news = news
        self._fleet = fleet
        self._wanted: Told | None = None
        self._sent: Told | None = None
        self._sent_at = 0.0
        self._missed = 0
        self._leaving: set[Version] = set()
        """Told to go, and not seen gone yet: READY of these may be from before."""
        self._poked = asyncio.Event()

    def __repr__(self) -> str:
        return f"ReplicaWatch({self._id}, told={sorted(self.told)}, report={self.report})"

    @property
    def is_silent(self) -> bool:
        """Whether it has answered once, and does not any more."""
        return self.silent_since > 0.0 and not self.report.answered

    def tell(self, told: Told) -> None:
        """What it should hold from now on; sent by the loop."""
        if told != self._wanted:
            self._wanted = told
            self._poked.set()

    async def run(self) -> None:
        """Ask and tell for ever."""
        while True:
            self._poked.clear()
            await self._ask()
            if self.report.answered:
                await self._tell()
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._poked.wait()
            except TimeoutError:
                continue

    async def _ask(self) -> None:
        asked_at = self._clock.now()
        report = await self._control.report(self.endpoint, self._model)
        if report.answered:
            self._see_gone(report)
            report = self._without_leaving(report)
        if not self.asked:
            self.asked = True
            self._news()
        if report.answered:
            self._missed, self.silent_since = 0, 0.0
        else:
            self._missed += 1
            if self._missed == 1 and self.report.answered:
                self.silent_since = asked_at
            may_miss = self.report.answered or not self.is_known
            if self._missed < self._settings.missed_reports and may_miss:
                return
        was_known, self.is_known = self.is_known, True
        if report != self.report or not was_known:
            self.report = report
            self._news()

    async def _tell(self) -> None:
        wanted = self._wanted
        if wanted is None or (wanted == self._sent and not self._has_lost_it(wanted)):
            return
        leaving = self.report.versions.keys() - set(wanted.versions) - self._leaving
        self._leaving |= leaving
        self.report = self._without_leaving(self.report)
        try:
            await self._control.tell(self.endpoint, wanted)
        except GatewayError as error:
            self._leaving -= leaving
            if error.message != self.trouble:
                self.trouble = error.message
                log.warning("replica.tell_failed", replica=self._id, cause=error.message)
                self._news()
            return
        self._sent, self._sent_at = wanted, self._clock.now()
        had_trouble, self.trouble = bool(self.trouble), ""
        if self.told != frozenset(wanted.versions) or had_trouble:
            self.told = frozenset(wanted.versions)
            self._news()

    def _see_gone(self, report: ReplicaReport) -> None:
        """Forget the leaving versions that are seen gone, or going; and those that it has been told
        to hold again for so long that it must have taken that, and kept them."""
        held = report.versions
        again: set[Version] = set()
        if self._sent is not None and self._clock.now() - self._sent_at >= self._settings.retell_s:
            again = set(self._sent.versions)
        gone = (VersionState.DRAINING, VersionState.GONE)
        self._leaving = {
            v for v in self._leaving - again if v in held and held[v].state not in gone
        }

    def _without_leaving(self, report: ReplicaReport) -> ReplicaReport:
        """The report with versions that were told to go shown as going. A replica tries failed
        versions again by itself; one that comes up at the moment when it is told to drop it (its
        files have changed) would be routed to, and gone."""
        versions = {
            v: replace(s, state=VersionState.DRAINING)
            if v in self._leaving and s.state is VersionState.READY
            else s
            for v, s in report.versions.items()
        }
        return report if versions == report.versions else replace(report, versions=versions)

    def _has_lost_it(self, wanted: Told) -> bool:
        """Whether it shows no trace of something that it was told a while ago."""
        if self._clock.now() - self._sent_at < self._settings.retell_s:
            return False
        held = self.report.versions
        return any(v not in held or held[v].state is VersionState.GONE for v in wanted.versions)

    def _pause_s(self) -> float:
        report = self.report
        steady = (
            report.answered
            and self._wanted == self._sent
            and self._missed == 0
            and all(s.state not in _UNDER_WAY for s in report.versions.values())
            and self.told <= report.versions.keys()
        )
        settings = self._settings
        longer = max(1.0, len(self._fleet) / settings.often_asked)
        return longer * (settings.steady_report_s if steady else settings.busy_report_s)
