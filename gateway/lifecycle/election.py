"""One gateway's part in the election: asks for the lease again and again.

What follows from the answers is decided in core/leadership.py. Whoever leads learns here that it
does not any more: `lost` returns at the moment when the term must be over, answer or no answer.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random

from gateway.core.leadership import (
    LeaseSettings,
    Standing,
    answered,
    ends_at,
    leads,
    pause_s,
    unanswered,
)
from gateway.domain.errors import GatewayError
from gateway.domain.gateways import Lease
from gateway.ports import Clock, Leases
from gateway.telemetry import log


class Election:
    """`run` is its loop."""

    def __init__(
        self,
        me: str,
        leases: Leases,
        clock: Clock,
        rng: Random,
        settings: LeaseSettings | None = None,
    ) -> None:
        self.me = me
        self.address = ""
        """Control API of this gateway, for the others to know."""
        self._leases = leases
        self._clock = clock
        self._rng = rng
        self._settings = settings or LeaseSettings()
        self._standing = Standing()
        self._changed = asyncio.Event()
        self._hurry = asyncio.Event()
        self._is_troubled = False

    def __repr__(self) -> str:
        return f"Election(me={self.me}, epoch={self.epoch})"

    @property
    def epoch(self) -> int | None:
        """Of the term in which this gateway leads now; None where it does not."""
        is_leader = leads(self._standing, self._clock.now(), self._settings)
        return self._standing.epoch if is_leader else None

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            await self._ask()
            self._hurry.clear()
            pause = pause_s(self._standing, self._clock.now(), self._settings, self._rng)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurry.wait()

    async def won(self) -> int:
        """Wait until this gateway leads; returns the epoch."""
        while (epoch := self.epoch) is None:
            await self._changed.wait()
        return epoch

    async def lost(self, epoch: int) -> None:
        """Wait until the term `epoch` is over."""
        while self.epoch == epoch:
            left_s = ends_at(self._standing, self._settings) - self._clock.now()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, left_s)):
                    await self._changed.wait()

    def hurry(self) -> None:
        """The lease may be free: ask now."""
        self._hurry.set()

    def stand_down(self) -> None:
        """Somebody else leads, as a refused write has shown."""
        self._take(Standing())
        self._hurry.set()

    async def resign(self) -> None:
        """Give the lease back, so that the next one need not wait for its end."""
        epoch = self.epoch
        self._take(Standing())
        if epoch is not None:
            with suppress(GatewayError):
                await self._leases.release(self.me, epoch)

    async def _ask(self) -> None:
        asked_at, asked = self._clock.now(), self.epoch
        limit_s = self._settings.renew_s
        if asked is not None:
            limit_s = ends_at(self._standing, self._settings) - asked_at
        try:
            async with asyncio.timeout(limit_s):
                lease = await self._leases.take(
                    self.me, self.address, asked, self._settings.lease_s
                )
        except (GatewayError, TimeoutError) as error:
            self._trouble(str(error) or "no answer in time")
            self._take(unanswered(self._standing, self._clock.now(), self._settings))
        else:
            self._is_troubled = False
            now = self._clock.now()
            self._take(self._answer(asked, asked_at, lease, now))

    def _answer(self, asked: int | None, asked_at: float, lease: Lease, now: float) -> Standing:
        return answered(self.me, asked, asked_at, lease, now, self._settings)

    def _trouble(self, cause: str) -> None:
        if not self._is_troubled:
            log.warning("lease.unanswered", cause=cause, leads=self.epoch is not None)
        self._is_troubled = True

    def _take(self, standing: Standing) -> None:
        self._standing = standing
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
