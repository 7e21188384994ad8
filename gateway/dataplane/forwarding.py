"""One admitted request on its way: choose, call, observe, again or answer.

A state machine of callbacks: no task, no future and no await. Its events come from the replica (it
is the AnswerSink of the call under way), the caller (`gone`, `refuse`), and time (the deadline, a
new table, its turn). It ends once, in `_close`, and only there is what was counted released.
Durations are by `perf_counter`: a loop's own time may be coarse and is for deadlines.

Nearly all answers come back whole and are passed on in one piece; pieces.py takes those that do
not, awaited_call.py those that are translated, hedging.py a second call beside the first.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, cast

from gateway.core.hedge import Tail
from gateway.core.queueing import Priority
from gateway.core.retry import Attempt, Failure
from gateway.core.route import Canary, Route, RoutingTable, Target
from gateway.dataplane import awaited_call, observing
from gateway.dataplane.callers import Caller, DirectCaller, Transport
from gateway.dataplane.hedging import Hedge, hedged
from gateway.dataplane.inflight import Use
from gateway.dataplane.pieces import Pieces
from gateway.dataplane.replicas import AN_ERROR, NO_REPORT
from gateway.dataplane.rescue import bug, guarded
from gateway.dataplane.waiting import Wait, none_came, passed
from gateway.domain.errors import GatewayError, UpstreamFailed
from gateway.domain.names import Version
from gateway.domain.replicas import Endpoint
from gateway.ports import Upstream, UpstreamAnswer
from gateway.wire.exchange import AnswerSink, ClientExchange, Data, ResponseHead, WireError
from gateway.wire.fields import Pairs
from gateway.wire.whole import upstream_failed

if TYPE_CHECKING:
    from gateway.dataplane.plane import Dataplane
    from gateway.dataplane.shadow_copy import Copy
    from gateway.dataplane.turns import ModelState

_LEAST_LEFT_S = 0.001
"""What a replica is told to be left of a deadline that passes in this moment."""


class Forwarding:
    """One request. Made by `Dataplane.admit`; then `go`."""

    __slots__ = (
        "_call_began", "_endpoint", "_has_turn", "_hedge", "_is_over", "_outcome", "_pieces",
        "_plane", "_timer", "_use", "_wait", "answered_by", "asked", "attempts", "caller",
        "deadline_at", "exchange", "hedging", "is_queued", "label", "name", "place", "priority",
        "sent", "shadow", "speaks", "state", "table", "task", "transport", "upstream_s", "version",
        "way",
    )  # fmt: skip

    def __init__(
        self,
        plane: Dataplane,
        caller: Caller,
        transport: Transport,
        name: str,
        version: Version | None,
        label: str | None,
        deadline_at: float,
        speaks: tuple[str, ...],
        state: ModelState,
    ) -> None:
        self.name, self.version, self.label = name, version, label
        self.deadline_at = deadline_at
        self.speaks = speaks  # the model's replicas, where they have not said it themselves
        self.state = state
        self.priority = Priority.STANDARD
        self.is_queued = False  # it waits for its turn (turns.py)
        self._has_turn = False
        self.caller = caller
        self.attempts: list[Attempt] = []
        self.answered_by: Version | None = None
        self.asked: Use | None = None
        """The last call, answered or not."""
        self.place: float | None = None
        """On which side of a rollout it is (core/split.py), with all its attempts."""
        self.exchange: ClientExchange | None = None  # the call under way that it is passed on to
        self.sent = 0.0
        """When the first call began, by `perf_counter`; 0.0 before."""
        self.upstream_s = 0.0
        """Time spent in calls that have ended."""
        self.way: Route | None = None
        """Where it was to go when it was admitted, by `table`; holds while that is the newest."""
        self.table: RoutingTable | None = None
        self.hedging: Tail | None = None
        """Its model's latencies, where a second replica is asked when the first takes long."""
        self._hedge: Hedge | None = None
        self.shadow: Canary | None = None
        """Who gets a copy of it when it is answered (shadowing.py)."""
        self._plane = plane
        self.transport = transport
        self._use: Use | None = None  # what the call under way is counted as
        self._endpoint: Endpoint | None = None
        self._call_began = 0.0
        self.task: asyncio.Task[None] | None = None
        """The call under way, where it is awaited."""
        self._pieces: Pieces | None = None
        """The answer, where it comes in pieces and its head has come."""
        self._outcome: UpstreamFailed | None = None
        """What the last attempt ended with, if that was no answer."""
        self._is_over = False
        self._wait: Wait | None = None
        plane.in_flight.enter(name)
        self._timer = plane.loop.call_at(deadline_at, self._too_late)

    def __repr__(self) -> str:
        state = "over" if self._is_over else "waiting" if self._use is None else f"at {self._use}"
        return f"Forwarding({self.name}, {state}, {len(self.attempts)} failed)"

    # ---- for the caller --------------------

    @guarded
    def go(self) -> None:
        """Ask a replica, or wait for one, or for its turn; where that is done already, nothing."""
        if self._is_over or self._use is not None or self.is_queued:
            return
        plane = self._plane
        now = plane.loop.time()
        try:
            picked = plane.pick(self, now)
            if picked is None:
                self._give_back()
                if self._wait is None:
                    self._wait = Wait(plane, self, now)
                self._wait.begin()
                return
            target, version = picked
            translator = self.translator(target.endpoint)
        except GatewayError as error:
            self.refuse(error)
            return
        caller = self.caller
        is_direct = translator is None and caller.is_direct
        if not is_direct and not caller.is_complete:
            self._give_back()
            caller.collect()
            return
        if not self._has_turn:
            if not self.state.turns.take(self, self.priority):
                plane.turning.wait(self)
                return
            self._has_turn = True
        if self._wait is not None:
            self._wait.pause()
        self.asked = self._use = use = (self.name, version, target.replica_id)
        plane.in_flight.begin(use)
        self._endpoint = endpoint = target.endpoint
        self._call_began = began = perf_counter()
        if not self.sent:
            self.sent = began
        if is_direct:
            self.exchange = self.send_to(endpoint, version, self)
            if self.hedging is not None and not self.attempts:
                self._hedge = hedged(plane, self, self.hedging)
        else:
            left_s = max(_LEAST_LEFT_S, self.deadline_at - now)
            request = caller.request(version, left_s)
            upstream = translator or self.transport.upstream
            self.task = plane.tasks.start(awaited_call.call(self, upstream, endpoint, request))

    def turn(self) -> None:
        """Its turn has come (turns.py)."""
        self.is_queued, self._has_turn = False, True
        turns, left_s = self.state.turns, self.deadline_at - self._plane.loop.time()
        if turns.is_worth_sending(left_s):
            self.go()
        else:
            self._plane.turning.shed(self, turns.late(left_s))

    def gone(self) -> None:
        """The caller has left, or has its answer: end what is still under way."""
        if not self._is_over:
            self._abandon()
            self._close()

    def refuse(self, error: GatewayError) -> None:
        """End the request with an error."""
        if self._is_over:
            return
        caller, pieces = self.caller, self._pieces
        self._abandon()
        self._close()
        if pieces is not None and pieces.is_passing_on:
            cast(DirectCaller, caller).broke_off(error.reason)
        else:
            caller.refused(error)

    def resume_answer(self) -> None:
        """The caller reads again."""
        if self.exchange is not None:
            self.exchange.resume()

    def upstream_so_far_s(self) -> float:
        """Time spent in calls, the one under way included."""
        under_way_s = 0.0 if self._use is None else perf_counter() - self._call_began
        return self.upstream_s + under_way_s

    # ---- AnswerSink: the replica --------------------

    @guarded
    def on_whole(self, head: ResponseHead, body: Data, trailers: Pairs) -> None:
        """See AnswerSink."""
        caller = cast(DirectCaller, self.caller)
        failure = caller.failure_in(head, trailers)
        if failure is not None and self._is_taken_over(failure):
            return
        use, took_s = self._end_call()
        if failure is None or not self._is_to_repeat(use, failure, took_s):
            copy = None
            if failure is None:
                report, status = caller.report_in(head, trailers), caller.status_of(head)
                observing.answered(self._plane, self, use, took_s, report, status)
                if self.shadow is not None:
                    copy = self._plane.shadowing.keep(self, use, status)
            self.answered_by = use[1]
            self._close()
            caller.whole(self, head, body, trailers)
            if copy is not None:
                copy.answered(head, (body,))

    @guarded
    def on_head(self, head: ResponseHead) -> None:
        """See AnswerSink."""
        if self._hedge is not None:
            self._hedge.drop()
        self._pieces = Pieces(self, head, self._plane.settings.hold.answer_bytes)

    @guarded
    def on_data(self, data: Data) -> None:
        """See AnswerSink."""
        assert self._pieces is not None  # its head has come
        self._pieces.add(data)

    @guarded
    def on_end(self, trailers: Pairs) -> None:
        """See AnswerSink."""
        assert self._pieces is not None  # its head has come
        self._pieces.end(trailers)

    @guarded
    def on_failed(self, error: WireError) -> None:
        """See AnswerSink."""
        assert self._endpoint is not None  # a call is under way
        self.broke(upstream_failed(error, self.transport.address_of(self._endpoint)))

    @guarded
    def on_writable(self) -> None:
        """See AnswerSink."""
        if not self._is_over:
            cast(DirectCaller, self.caller).send_more()

    # ---- other answers (pieces.py, awaited_call.py) --------------------

    def begun(self) -> None:
        """The caller gets the beginning of an answer whose end has not come."""
        assert self._use is not None  # it is its answer
        self._has_begun(self._use, perf_counter() - self._call_began)

    def passed_on(self) -> None:
        """And now its end."""
        self._end_call()
        self._close()

    def completed(self, head: ResponseHead, trailers: Pairs) -> Copy | None:
        """All of an answer has come, and the caller gets it in pieces."""
        use, took_s = self._end_call()
        self._has_begun(use, took_s)
        self._close()
        if self.shadow is None:
            return None
        return self._plane.shadowing.keep_pieces(self, use, head, trailers)

    def _has_begun(self, use: Use, took_s: float) -> None:
        observing.answered(self._plane, self, use, took_s, NO_REPORT, 0)
        self.answered_by = use[1]

    @guarded
    def told(self, answer: UpstreamAnswer) -> None:
        """An answer that was awaited."""
        failure = self.transport.failure_of(answer.status)
        use, took_s = self._end_call()
        if failure is None or not self._is_to_repeat(use, failure, took_s):
            copy = None
            if failure is None:
                report = AN_ERROR if answer.status in self.transport.errors else NO_REPORT
                observing.answered(self._plane, self, use, took_s, report, answer.status)
                if self.shadow is not None:
                    copy = self._plane.shadowing.keep(self, use, answer.status)
            self.answered_by = use[1]
            self._close()
            self.caller.told(answer)
            if copy is not None:
                copy.told(answer)

    def broke(self, error: UpstreamFailed) -> None:
        """No answer came, or only a part of one."""
        failure = Failure.RESET if error.sent else Failure.CONNECT
        if self._is_taken_over(failure):
            return
        use, took_s = self._end_call()
        plane, now = self._plane, self._plane.loop.time()
        if self._pieces is not None and self._pieces.is_passing_on:
            plane.replicas.failed(use[2], Failure.RESET, now)
            self.refuse(error)
        elif error.reason == "bad_answer" and error.sent:
            # Another replica would say the same, at the same cost.
            plane.replicas.answered(use[2], took_s, AN_ERROR, now)
            self.refuse(error)
        else:
            self._outcome = error
            if not self._is_to_repeat(use, failure, took_s):
                self.refuse(error)

    # ---- again? --------------------

    def _is_to_repeat(self, use: Use, failure: Failure, took_s: float) -> bool:
        """Note a failed attempt; True: the next one has begun."""
        plane, now = self._plane, self._plane.loop.time()
        observing.failed(plane, self, use, failure, took_s, now)
        attempt = Attempt(use[2], use[1], failure)
        self.attempts.append(attempt)
        if not self.caller.can_repeat or not plane.may_go_on(self, attempt, now):
            return False
        self._pieces = None
        self.go()
        return True

    def waited(self) -> None:
        """It has waited for a replica as long as it may (waiting.py)."""
        if not (self._is_over or self._use is not None or self.is_queued):
            wait_s = self._plane.settings.retry.replica_wait_s
            self.refuse(self._outcome or none_came(self.name, wait_s))

    # ---- two at once (hedging.py) --------------------

    def first_call(self) -> Use | None:
        """The only call so far, while it shows nothing of an answer."""
        return self._use if self._pieces is None and not self.attempts else None

    def send_to(self, endpoint: Endpoint, version: Version, sink: AnswerSink) -> ClientExchange:
        """Begin another call. The request is held whole, and its caller is direct."""
        left_s = max(_LEAST_LEFT_S, self.deadline_at - self._plane.loop.time())
        upstream, caller = self.transport.upstream, cast(DirectCaller, self.caller)
        return caller.send(upstream, endpoint, version, left_s, sink)

    def adopt(self, use: Use, target: Target, exchange: ClientExchange, began: float) -> None:
        """This call is the only one from now on."""
        self._abandon()
        self.upstream_s -= perf_counter() - began  # which is counted when that call ends
        self.asked = self._use = use
        self._endpoint = target.endpoint
        self._call_began, self.exchange = began, exchange
        self._hedge = self._pieces = None

    def _is_taken_over(self, failure: Failure) -> bool:
        """The call under way has failed. True: there is a second one, which is the only one now."""
        hedge = self._hedge
        if hedge is None or hedge.use is None:
            return False
        use, took_s = self._end_call()
        observing.failed(self._plane, self, use, failure, took_s, self._plane.loop.time())
        self.attempts.append(Attempt(use[2], use[1], failure))
        hedge.take_over()
        return True

    # ---- ends --------------------

    def crashed(self, error: Exception) -> None:
        """A bug of ours, which costs this request only."""
        self.refuse(bug(error))

    def _too_late(self) -> None:
        """The deadline has passed."""
        if self._is_over:
            return
        use, is_complete = self._use, self.caller.is_complete
        if use is not None and is_complete:
            observing.late(self._plane, self, use, perf_counter() - self._call_began)
        is_asking, outcome = use is not None, self._outcome
        self.refuse(passed(self.name, is_complete, is_asking, self.is_queued, outcome))

    def translator(self, endpoint: Endpoint) -> Upstream | None:
        """See Translation.between."""
        dialect = self.transport.dialect
        return self._plane.translation.between(dialect, endpoint, self.speaks)

    def _end_call(self) -> tuple[Use, float]:
        """The call under way is over; what it was, and the seconds that it took."""
        use = self._use
        assert use is not None  # only a call under way ends
        self._use = self.exchange = None
        plane = self._plane
        plane.in_flight.end(use)
        took_s = perf_counter() - self._call_began
        self.upstream_s += took_s
        plane.metrics.upstream_took(self.name, self.transport.name, took_s)
        return use, took_s

    def _abandon(self) -> None:
        """Cancel the call under way, if there is one: nobody waits for its answer any more."""
        if self._use is None:
            return
        exchange, task = self.exchange, self.task
        use, took_s = self._end_call()
        self._plane.replicas.abandoned(use[2], took_s, self._plane.loop.time())
        if exchange is not None:
            exchange.cancel()
        elif task is not None:
            task.cancel()

    def _close(self) -> None:
        """The one end."""
        self._is_over = True
        self._timer.cancel()
        if self._hedge is not None:
            self._hedge.drop()
        if self._wait is not None:
            self._wait.end()
        plane = self._plane
        plane.in_flight.leave(self.name)
        if self._has_turn:
            self._give_back()
        elif self.is_queued:
            plane.turning.leave(self)

    def _give_back(self) -> None:
        if self._has_turn:
            self._has_turn = False
            if self.state.turns.give_back():
                self._plane.turning.wake(self.state.turns)
