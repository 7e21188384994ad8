"""One replica under the local scheduler's eyes, and what its end means in words."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass, field
from pathlib import Path

from gateway.core.placement import Existing
from gateway.domain.models import ModelSpec
from gateway.domain.replicas import Replica, ReplicaState
from gateway.schedulers import logs
from gateway.schedulers.process import Process


@dataclass(slots=True, eq=False)
class Unit:
    """Mutable: the scheduler's own note of one replica. `replica` is what others see of it."""

    replica: Replica
    order: int
    log: Path
    spec: ModelSpec | None = None
    """None for an adopted one: what it runs is settled already."""
    after: str | None = None
    process: Process | None = None
    hook: Process | None = None
    """The `before` or `after` command that runs now."""
    ports: tuple[int, int] = (0, 0)
    failures: int = 0
    """Failures in a row that led here."""
    up_at: float | None = None
    """Monotonic time since when it has listened."""
    retry_at: float | None = None
    """FAILED: when a new replica takes its place."""
    leaving: bool = False
    """Told to stop; its end is no failure."""
    verdict: str = ""
    """Why the scheduler itself ended it."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> str:
        """The replica's id."""
        return self.replica.id

    @property
    def group(self) -> tuple[str, str]:
        """Its model, and the group of that."""
        return self.replica.model, self.replica.group

    def existing(self) -> Existing:
        """As core/placement.py wants to see it."""
        return Existing(
            id=self.id,
            template=self.replica.template,
            listening=self.replica.state is ReplicaState.LOADING,
            draining=self.replica.state is ReplicaState.DRAINING,
            may_stay=not self.leaving and self.replica.endpoint is not None,
            started=self.order,
        )

    def why_it_ended(self, code: int | None) -> str:
        """Words for people: how it ended and the last it said."""
        if self.verdict:
            how = self.verdict
        elif code is None:
            how = "ended (its exit code went to another process, as it was adopted)"
        elif code < 0:
            how = f"was killed by {_signal_name(-code)}"
            if -code == signal.SIGKILL:
                # Its last words have nothing to do with this end.
                return f"{how} (by somebody, or for want of memory)"
        else:
            how = f"exited with code {code}"
        said = logs.tail(self.log)
        return f"{how}: {said}" if said else how


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
