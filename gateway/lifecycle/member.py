"""One gateway among several on one store: it leads, or it follows who does.

The leader does all that a single gateway does (reconcile.py) and posts what comes of it, model by
model: the route, as every routing table is to have it, and the view, for people. A follower answers
requests by the leader's posts; it asks no replica, tells none and starts none. So all gateways have
the same table, whose sides and weights come from one hash, and a replica is asked once however many
gateways there are. With nobody leading, or with the store down, everybody answers on by what was
posted last, and passive ejection sees to replicas that die meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any

from gateway.domain.errors import Conflict, GatewayError, Internal, Unavailable
from gateway.domain.gateways import Beat, Lease, Order, Outcome, Role
from gateway.domain.names import Version
from gateway.domain.observed import ModelView
from gateway.domain.rollouts import Rollout
from gateway.lifecycle.election import Election
from gateway.lifecycle.inherited import retire
from gateway.lifecycle.reconcile import Lifecycle
from gateway.lifecycle.settings import MemberSettings
from gateway.lifecycle.shared_planes import SharedPlanes
from gateway.lifecycle.term import Term, unposted
from gateway.lifecycle.views import with_standings
from gateway.ports import Board, Clock, Orders, Posting, Pulse, Scheduler
from gateway.telemetry import Metrics, log

_REFRESH, _CALL = "refresh", "call"
"""Orders beside those of rollouts: look at the source; start a replica, for a request waits."""

Begin = Callable[[Term], Lifecycle]
"""Makes what leads for one term; it is cancelled when the term is over."""


class Member:
    """ports.Observed of a gateway that is one of several. `run` in a TaskGroup."""

    def __init__(
        self,
        me: Beat,
        *,
        election: Election,
        board: Board,
        orders: Orders,
        planes: SharedPlanes,
        begin: Begin,
        clock: Clock,
        settings: MemberSettings | None = None,
        own: Scheduler | None = None,
        stand_down: Callable[[], None] | None = None,
        on_event: Callable[[int], Awaitable[None]] | None = None,
        listen: Callable[[], Coroutine[Any, Any, None]] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """`own`: a scheduler whose replicas are this gateway's alone. `stand_down` is called after
        a term: one that is shared is to act no more. `on_event` is told the number of the newest
        event that anybody has stored; `listen` runs beside everything."""
        self._me = me
        self._election = election
        self._board = board
        self._orders = orders
        self._planes = planes
        self._begin = begin
        self._clock = clock
        self._settings = settings or MemberSettings()
        self._own = own
        self._stand_down = stand_down
        self._on_event = on_event
        self._listening = listen
        self._metrics = metrics
        self._postings: dict[str, Posting] = {}
        self._posted = 0
        """The newest number that is known to be stored."""
        self._lifecycle: Lifecycle | None = None
        self._lease = Lease("", 0)
        self._pokes: set[str] = set()
        self._called: set[str] = set()
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._ordered = asyncio.Event()
        self._begun = self._ended = 0
        """Pulses; to wait for one that began after now."""
        self._pulsed = asyncio.Event()
        self._newest_event = 0
        self._is_troubled = False

    def __repr__(self) -> str:
        return f"Member({self._me.gateway}, leads={self._lifecycle is not None}, {self._planes!r})"

    def reached_at(self, control: str) -> None:
        """Where its control API listens, before `run`."""
        self._me = replace(self._me, control=control)
        self._election.address = control

    def role(self) -> Role:
        """What it is now."""
        lease, leads = self._lease, self._election.epoch is not None
        return Role(
            "leader" if leads else "follower",
            self._me.gateway,
            self._me.gateway if leads else lease.holder,
            self._me.control if leads else lease.address,
            lease.since,
            len(self._planes.living()),
        )

    # ---- ports.Observed --------------------

    def view(self, name: str) -> ModelView | None:
        """See ports.Observed."""
        found = None if self._lifecycle is None else self._lifecycle.view(name)
        found = found or self._postings.get(name, Posting()).view
        standings = self._planes.standings()
        return found if found is None or not standings else with_standings(found, standings)

    def poke(self, name: str) -> None:
        """See ports.Observed."""
        if self._lifecycle is not None:
            self._lifecycle.poke(name)
        else:
            self._pokes.add(name)
            self._wake.set()

    async def changed(self) -> None:
        """See ports.Observed."""
        await self._changed.wait()

    async def order(self, name: str, action: str, version: Version | None = None) -> Rollout:
        """See ports.Observed. A follower leaves it to the leader and waits for what becomes of it.

        Raises:
            Unavailable: nobody leads now (`no_leader`), and nothing was done; or the leader has
                taken it and not answered (`leader_silent`).
        """
        if self._lifecycle is not None:
            return await self._lifecycle.order(name, action, version)
        number = await self._orders.give(Order(name, action, version))
        end = self._clock.now() + self._settings.order_s
        while self._clock.now() < end:
            outcome = await self._orders.outcome(number)
            if outcome is not None:
                return _result(outcome)
            await self._clock.sleep(self._settings.order_look_s)
        return _result(await self._orders.outcome(number) or await self._give_up(number, name))

    async def _give_up(self, number: int, name: str) -> Outcome:
        if await self._orders.withdraw(number):
            raise Unavailable(
                "No gateway leads now, so nobody can do this; nothing was changed. The next one "
                "leads within seconds: try again.",
                reason="no_leader",
                retry_after_s=2.0,
            )
        raise Unavailable(
            "The leading gateway has taken this and not answered, so it may have been done: "
            f"`gateway rollout status {name}` says.",
            reason="leader_silent",
            retry_after_s=2.0,
        )

    # ---- loops --------------------

    async def run(self) -> None:
        """Take part for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._election.run())
            if self._listening is not None:
                tasks.create_task(self._listening())
            tasks.create_task(self._listen())
            tasks.create_task(self._hear_calls())
            tasks.create_task(self._exchange())
            if self._own is not None:
                tasks.create_task(self._retire(self._own))
            while True:
                await self._one_term(await self._election.won())

    async def leave(self) -> bool:
        """Say goodbye, after `run` has ended: the next gateway leads at once. Whether another one
        is there, that may use our replicas on."""
        await self._election.resign()
        with suppress(GatewayError):
            pulse = await self._board.beat(replace(self._beat(), has_left=True))
            self._planes.heard(pulse.gateways, 0)
        return bool(self._planes.living())

    async def join(self) -> None:
        """Become known, and hear what is posted, before the prediction ports open.

        Twice, since the first beat may not be seen by a leader that posts at that very moment.

        Raises:
            Unavailable: the store does not answer.
            Conflict: replicas of the others cannot be reached from here (`other_machine`).
        """
        await self._board.beat(self._beat())
        self._took(await self._board.beat(self._beat()), 0)
        for other in (o.beat for o in self._planes.living()):
            if self._me.machine and other.machine and self._me.machine != other.machine:
                await self._board.beat(replace(self._beat(), has_left=True))
                raise Conflict(
                    f"Gateway {other.gateway} uses this database from another machine. Replicas of "
                    "--scheduler local listen on their own machine only, so all gateways of one "
                    "database must run there; use --scheduler kubernetes for several machines.",
                    reason="other_machine",
                )

    async def _exchange(self) -> None:
        """Tell and hear, each second or as soon as there is news."""
        while True:
            self._begun += 1
            begun, confirmed = self._begun, self._known()
            self._wake.clear()
            try:
                await self._send_pokes()
                news = self._took(await self._board.beat(self._beat()), confirmed)
                self._is_troubled = False
                if self._on_event is not None:
                    await self._on_event(self._newest_event)
            except GatewayError as error:
                self._trouble(error)
                await self._clock.sleep(self._settings.retry_s)
                continue
            self._ended = begun
            self._pulsed.set()
            self._pulsed = asyncio.Event()
            if not news:  # else say at once that it was taken
                await self._pause()

    async def _pause(self) -> None:
        settings = self._settings
        hurries = self._planes.own_busy() or self._planes.counted()
        with suppress(TimeoutError):
            async with asyncio.timeout(settings.busy_beat_s if hurries else settings.beat_s):
                await self._wake.wait()
        await self._clock.sleep(settings.least_s)

    async def _listen(self) -> None:
        while True:
            await self._board.changed()
            self._wake.set()

    async def _hear_calls(self) -> None:
        while True:
            await self._planes.hear_calls()
            self._wake.set()

    async def _send_pokes(self) -> None:
        """What only the leader can do and nobody waits for the outcome of."""
        if self._lifecycle is None:
            self._called |= self._planes.calls()
        for waiting, action in ((self._pokes, _REFRESH), (self._called, _CALL)):
            while waiting:
                name = min(waiting)
                await self._orders.give(Order(name, action))
                waiting.discard(name)

    async def _retire(self, own: Scheduler) -> None:
        """While another gateway leads, end what is left of our own replicas once nobody uses it."""
        while True:
            await self._pulsed.wait()
            lease = self._lease
            if lease.holder in ("", self._me.gateway) or lease.remaining_s <= 0:
                continue
            if self._lifecycle is None and self._election.epoch is None and own.replicas():
                await retire(own, self._planes.used_replicas())

    # ---- what is said and heard --------------------

    def _beat(self) -> Beat:
        planes = self._planes
        return replace(
            self._me,
            number=planes.number,
            busy=planes.own_busy(),
            counted=planes.counted(),
            agreed=planes.agreed(),
            demand=planes.asked(),
        )

    def _known(self) -> int:
        """The newest number that is stored for sure: ours, or what we have read."""
        return self._planes.number if self._lifecycle is None else self._posted

    def _took(self, pulse: Pulse, confirmed: int) -> bool:
        """Whether there was something new to answer by, or to show."""
        self._lease = pulse.lease
        self._planes.heard(pulse.gateways, confirmed)
        self._newest_event = pulse.newest_event
        if pulse.has_orders:
            self._ordered.set()
        if not pulse.lease.holder:
            self._election.hurry()
        if self._lifecycle is not None or not self._planes.take(pulse.postings, pulse.number):
            return False
        self._postings.update(pulse.postings)
        self._say_changed()
        return True

    def _trouble(self, error: GatewayError) -> None:
        if not self._is_troubled:
            log.warning("store.unanswered", cause=error.reason, message=error.message)
        self._is_troubled = True

    def _say_changed(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # ---- leading --------------------

    async def _one_term(self, epoch: int) -> None:
        log.event("gateway.leading", epoch=epoch)
        self._measure(1)
        try:
            async with asyncio.TaskGroup() as tasks:
                leading = tasks.create_task(self._lead(epoch))
                await self._election.lost(epoch)
                leading.cancel()
        finally:
            log.event("gateway.following", epoch=epoch)
            self._measure(0)
            if self._stand_down is not None:
                self._stand_down()
            if self._lifecycle is not None:
                self._lifecycle = None
                # What was published and not stored is nobody's truth: all is read anew.
                self._planes.rewind()

    async def _lead(self, epoch: int) -> None:
        await self._caught_up()
        self._posted = self._planes.number
        known = frozenset(n for n, p in self._postings.items() if p.route or p.view)
        self._lifecycle = lifecycle = self._begin(Term(epoch, known))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(lifecycle.run())
            tasks.create_task(self._post(lifecycle, epoch))
            tasks.create_task(self._serve(lifecycle, epoch))
            while True:
                await lifecycle.changed()
                self._say_changed()

    async def _caught_up(self) -> None:
        """The last leader can post no more. Wait until everybody answers by its last post: what
        they may use is then what the table names, and what they say."""
        while True:
            begun = self._begun
            while self._ended <= begun:
                self._wake.set()
                await self._pulsed.wait()
            if all(o.beat.number >= self._planes.number for o in self._planes.living()):
                return

    async def _post(self, lifecycle: Lifecycle, epoch: int) -> None:
        """Make known what is published at once, and what people see a little later."""
        await lifecycle.looked()
        planes = self._planes
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.view_s):
                    await planes.published.wait()
            planes.published.clear()
            changes = unposted(self._postings, planes.table, lifecycle.kept)
            if not changes:
                continue
            number = planes.numbered()
            try:
                await self._board.post(epoch, number, changes)
            except GatewayError as error:
                await self._not_posted(error)
                continue
            self._posted = number
            self._postings.update(changes)

    async def _not_posted(self, error: GatewayError) -> None:
        self._planes.published.set()
        if error.reason == "not_leader":
            self._election.stand_down()
        else:
            self._trouble(error)
        await self._clock.sleep(self._settings.retry_s)

    async def _serve(self, lifecycle: Lifecycle, epoch: int) -> None:
        """Do what followers were asked for."""
        while True:
            await self._ordered.wait()
            self._ordered.clear()
            try:
                for order in await self._orders.take_orders(epoch):
                    await self._execute(lifecycle, epoch, order)
            except GatewayError as error:
                self._trouble(error)

    async def _execute(self, lifecycle: Lifecycle, epoch: int, order: Order) -> None:
        if order.action == _REFRESH:
            lifecycle.poke(order.model)
            return
        if order.action == _CALL:
            self._planes.call({order.model})
            return
        try:
            rollout = await lifecycle.order(order.model, order.action, order.version)
            outcome = Outcome(rollout)
        except GatewayError as error:
            outcome = Outcome.of_error(error)
        await self._orders.reply(epoch, order.number, outcome)

    def _measure(self, leads: int) -> None:
        if self._metrics is not None:
            self._metrics.leader.set(leads)


def _result(outcome: Outcome) -> Rollout:
    error = outcome.raised()
    if error is not None:
        raise error
    if outcome.rollout is None:
        raise Internal("an order was answered without a rollout", reason="bug")
    return outcome.rollout
