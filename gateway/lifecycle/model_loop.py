"""What the lifecycle keeps of one model between ticks."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.core.placement import template_of
from gateway.core.route import ModelRoute, Target
from gateway.core.versions import Decision, Memory, ReplicaSeen, Snapshot, decide
from gateway.domain.models import Backend, ModelRecord, VersionStatus
from gateway.domain.names import Version
from gateway.domain.observed import ModelView
from gateway.domain.replicas import Replica, ReplicaState
from gateway.lifecycle.replica_watch import NOTHING, ReplicaWatch
from gateway.lifecycle.source_watch import SourceWatch
from gateway.lifecycle.views import Seen, merged, model_view, reasons_of, routed_statuses

_ANSWERING = (ReplicaState.LOADING, ReplicaState.DRAINING)


@dataclass(slots=True)
class ModelLoop:
    """Mutable: one model's record, loops, and what the last tick decided."""

    record: ModelRecord
    source: SourceWatch
    source_task: asyncio.Task[None]
    live: Version | None
    deleted: bool = False
    memory: Memory = field(default_factory=Memory)
    reasons: Mapping[Version, str] = field(default_factory=dict)
    decision: Decision | None = None
    view: ModelView | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.record.spec.name

    @property
    def told_source(self) -> str:
        """The source as replicas are told it: a program of one's own gets a folder."""
        source = self.record.spec.source
        if self.record.spec.backend is Backend.CUSTOM and source.startswith("file://"):
            return source.removeprefix("file://")
        return source

    def decide(
        self, replicas: Sequence[Replica], watches: Mapping[str, ReplicaWatch]
    ) -> tuple[ModelRoute, ModelView]:
        """One model's part of a tick; keeps the decision and its memory."""
        spec = self.record.spec
        held = {
            r.id: ReplicaSeen(
                id=r.id,
                report=watches[r.id].report if r.id in watches else NOTHING,
                draining=r.state is ReplicaState.DRAINING,
                must_go=bool(r.reason),
                told=watches[r.id].told if r.id in watches else frozenset(),
            )
            for r in replicas
            if r.state in _ANSWERING and r.endpoint is not None
        }
        self.decision = decide(
            Snapshot(
                policy=spec.policy,
                offered=self.source.offered(require_manifest=spec.require_manifest),
                live=self.live,
                replicas=tuple(held.values()),
                wanted=0 if self.deleted else spec.replicas,
                labels=spec.labels,
                memory=self.memory,
            )
        )
        seen = Seen(
            spec=spec,
            generation=self.record.generation,
            template=template_of(spec),
            decision=self.decision,
            replicas=replicas,
            held=held,
            troubles={r: w.trouble for r, w in watches.items() if w.trouble},
            published=self.source.published,
            source_reason=self.source.reason,
            source_failing_since=self.source.failing_since,
            reasons=self.reasons,
            shown_versions=self.source.shown_versions,
        )
        statuses = merged(seen)
        self.memory = self.decision.memory
        self.reasons = reasons_of(self.memory, statuses)
        unversioned = {i for i, one in held.items() if one.report.unversioned}
        return self._route(replicas, statuses, unversioned), model_view(seen, statuses)

    def _route(
        self,
        replicas: Sequence[Replica],
        statuses: Sequence[VersionStatus],
        unversioned: Collection[str],
    ) -> ModelRoute:
        assert self.decision is not None
        endpoints = {
            r.id: replace(r.endpoint, unversioned=True) if r.id in unversioned else r.endpoint
            for r in replicas
            if r.endpoint is not None
        }
        spec = self.record.spec
        return ModelRoute(
            name=self.name,
            live=self.decision.live,
            targets={
                version: tuple(Target(i, endpoints[i]) for i in ids)
                for version, ids in self.decision.routes.items()
            },
            labels=self.decision.labels,
            statuses=routed_statuses(statuses),
            timeout_s=spec.timeout_s,
            in_flight_limit=spec.in_flight_limit,
            backend=str(spec.backend),
            speaks=spec.speaks,
        )
