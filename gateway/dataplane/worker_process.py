"""One worker process, as its parent knows it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence

from gateway.core.autoscale import Demand
from gateway.core.route import RoutingTable
from gateway.dataplane.inflight import Use
from gateway.dataplane.messages import Accept, Busy, Channel, Leave, Publish, ToParent
from gateway.dataplane.split_counts import Shadowed, Window
from gateway.telemetry import log

_STOP_MARGIN_S = 5.0
"""Beyond `drain_s`: to close what is left, on a busy machine."""


class WorkerProcess:
    """Started by `spawn`; whoever did waits for it with `ended`."""

    def __init__(
        self, process: asyncio.subprocess.Process, channel: Channel[ToParent], name: str, slot: int
    ) -> None:
        self.channel = channel
        self.name = name
        """Its own among the workers that live, and that of one which has ended."""
        self.is_serving = False
        """It accepts connections, and has not been told to leave."""
        self.is_leaving = False
        """It accepts no more, and has not been told to leave."""
        self.code: int | None = None
        """Its exit code, once it has ended."""
        self.trouble = ""
        """Why it cannot serve, in its words."""
        self.acknowledged = 0
        self.counted: dict[str, Window] = {}
        """What it has answered in the windows of rollouts, as it said last."""
        self.standings: dict[str, tuple[str, str]] = {}
        """The replicas that are not in good standing with it, as it said last."""
        self.demand: dict[str, Demand] = {}
        """What was asked of scaled models, as it said last."""
        self.shadowed: dict[str, Shadowed] = {}
        """What its copies have shown there."""
        self.reloads = 0
        """What it has asked the parent to do, and is waiting for."""
        self._process = process
        self._accepts = [slot]
        self._sent: dict[int, frozenset[Use]] = {}
        """What the tables that it may be using name: the last it acknowledged, and later ones."""
        self._said_busy: frozenset[Use] = frozenset()
        self._killing: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"WorkerProcess({self.pid}, name={self.name}, is_serving={self.is_serving})"

    @classmethod
    async def spawn(
        cls, command: Sequence[str], inherited: Iterable[int], name: str, slot: int
    ) -> WorkerProcess:
        """Start a process with these descriptors. It waits for its first two messages.

        Raises:
            OSError: the machine has no room for one more, or there is no such command.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    "--fd",
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(), *inherited),
                    stdin=asyncio.subprocess.DEVNULL,
                    # A Ctrl-C is for the parent, who then stops its workers in order.
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        return cls(process, await Channel.over(ours, ToParent), name, slot)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_gone(self) -> bool:
        """The process has ended."""
        return self.code is not None

    # ---- tables --------------------

    def tell(self, number: int, table: RoutingTable, uses: frozenset[Use]) -> None:
        """Send a table, unless the one before has not been taken yet: so that at most two are under
        way. `took` is the time to try again."""
        newest = max(self._sent, default=0)
        if newest > self.acknowledged or newest == number:
            return
        self._sent[number] = uses
        self.channel.send(Publish(number, table))

    def took(self, message: Busy) -> None:
        """It has acknowledged a table, and told what it still uses."""
        self.acknowledged = message.number
        self._said_busy = frozenset(message.uses)
        self._sent = {n: uses for n, uses in self._sent.items() if n >= message.number}

    def may_use(self, newest: frozenset[Use]) -> set[Use]:
        """Uses that the newest table does not name."""
        busy = set(self._said_busy)
        for uses in self._sent.values():
            busy |= uses
        return busy - newest

    # ---- connections --------------------

    def accept(self, slots: list[int]) -> None:
        """Have it accept on the sockets of these slots, its own among them."""
        if slots != self._accepts:
            self._accepts = slots
            self.channel.send(Accept(slots))

    def leave(self, drain_s: float) -> None:
        """Have it finish and end because another has taken its slot."""
        self.is_serving = False
        self.channel.send(Leave())
        self.expect_end(drain_s)

    def expect_end(self, drain_s: float) -> None:
        """Kill it if it has not ended by the time that it may take to finish."""
        loop = asyncio.get_running_loop()
        self._killing = loop.call_later(
            drain_s + _STOP_MARGIN_S, self.kill, "did not leave in time"
        )

    async def ended(self, drain_s: float) -> None:
        """Close the channel, which tells it to finish and end; wait until it has, and kill it when
        it does not."""
        self.channel.close()
        try:
            async with asyncio.timeout(drain_s + _STOP_MARGIN_S):
                self.code = await self._process.wait()
        except TimeoutError:
            self.kill("did not stop in time")
            self.code = await self._process.wait()
        except asyncio.CancelledError:
            self._process.kill()
            raise
        finally:
            if self._killing is not None:
                self._killing.cancel()

    def kill(self, cause: str) -> None:
        """End it now."""
        log.warning("worker.killed", pid=self.pid, cause=cause)
        self._process.kill()
