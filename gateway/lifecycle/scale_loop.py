"""How many replicas a model has where its requests decide; what is kept of that between ticks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.core import autoscale
from gateway.core.autoscale import AutoscaleSettings, Demand, Memory, Seen
from gateway.domain.models import Scaling
from gateway.domain.observed import ScaleView
from gateway.domain.replicas import Replica, ReplicaState
from gateway.lifecycle.news import News
from gateway.lifecycle.source_watch import utc_stamp

_COUNTS_NOT = (ReplicaState.DRAINING, ReplicaState.STOPPED)


@dataclass(slots=True)
class ScaleLoop:
    """Mutable: one model's."""

    proven: str
    """The template that the live version was last seen to answer with; empty before. Until it is
    the spec's own, one replica is needed, to find out."""
    memory: Memory | None = None
    """None where the model has a fixed number of replicas."""
    changed_at: str = ""
    """RFC 3339, UTC; empty before the first change."""
    happened: list[News] = field(default_factory=list)

    def look(
        self,
        scaling: Scaling | None,
        replicas: Sequence[Replica],
        ready: int,
        demand: Demand,
        needed: str,
        now: float,
        settings: AutoscaleSettings,
        *,
        is_called: bool,
    ) -> None:
        """Decide anew. A gateway that has just started goes on from the replicas that there are."""
        if scaling is None:
            self.memory = None
            return
        if self.memory is None:
            existing = sum(r.state not in _COUNTS_NOT for r in replicas)
            self.memory = autoscale.begun(existing, scaling, now, is_proven=bool(self.proven))
        before = self.memory
        seen = Seen(now, scaling, demand, ready, is_called, needed)
        self.memory = after = autoscale.decide(before, seen, settings)
        if after.wanted != before.wanted:
            self.changed_at = utc_stamp()
            fields = {
                "replicas": after.wanted,
                "was": before.wanted,
                "ready": ready,
                "reason": after.why,
                "in_flight": round(after.stable, 3),
                "target": scaling.target,
            }
            many = "1 replica" if after.wanted == 1 else f"{after.wanted} replicas"
            message = f"{many} instead of {before.wanted}: {after.why}"
            self.happened.append(News("model.autoscaled", message, fields))

    def view(self, now: float, *, is_on_demand: bool) -> ScaleView | None:
        """For people."""
        memory = self.memory
        if memory is None:
            return None
        return ScaleView(
            wanted=memory.wanted,
            why=memory.why,
            at=self.changed_at,
            is_on_demand=is_on_demand,
            is_panicking=now < memory.panic_until,
            in_flight=memory.stable,
        )
