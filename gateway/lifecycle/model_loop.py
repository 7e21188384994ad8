"""What the lifecycle keeps of one model between ticks."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.core import templates
from gateway.core.analysis import AnalysisSettings
from gateway.core.autoscale import AutoscaleSettings, Demand
from gateway.core.hedge import share_of
from gateway.core.placement import template_of
from gateway.core.rollout import TRANSITIONS, Look
from gateway.core.route import Canary, ModelRoute, Target
from gateway.core.versions import Decision, Memory, ReplicaSeen, Snapshot, decide, given_up
from gateway.domain.agreement import AgreementTally
from gateway.domain.models import Backend, ModelRecord, ModelSpec, VersionStatus
from gateway.domain.names import Version
from gateway.domain.observed import ModelView, TemplateView
from gateway.domain.replicas import CANARY_GROUP, Replica, ReplicaSet, ReplicaState
from gateway.domain.rollouts import Phase, RolloutView
from gateway.domain.templates import Template
from gateway.lifecycle.news import News, news
from gateway.lifecycle.replica_watch import NOTHING, ReplicaWatch
from gateway.lifecycle.rollout_loop import RolloutLoop
from gateway.lifecycle.scale_loop import ScaleLoop
from gateway.lifecycle.source_watch import SourceWatch, utc_stamp
from gateway.lifecycle.views import (
    Seen,
    canary_trouble,
    merged,
    model_view,
    reasons_of,
    routed_statuses,
)
from gateway.lifecycle.waits import Waits, waits

_ANSWERING = (ReplicaState.LOADING, ReplicaState.DRAINING)

_MOST_TRANSITIONS = len(TRANSITIONS)
"""Of one rollout in one tick. The end of one and the beginning of the next are two."""


def _trouble(watch: ReplicaWatch) -> str:
    """What is wrong with talking to a replica."""
    if watch.is_silent:
        return "does not answer: it is not asked for predictions until it does"
    return watch.trouble


def _listens(replica: Replica) -> bool:
    return replica.state in _ANSWERING and replica.endpoint is not None


def _seen(replica: Replica, watch: ReplicaWatch | None) -> ReplicaSeen:
    return ReplicaSeen(
        id=replica.id,
        report=NOTHING if watch is None else watch.report,
        draining=replica.state is ReplicaState.DRAINING,
        must_go=bool(replica.reason),
        told=frozenset() if watch is None else watch.told,
        is_silent=watch is not None and watch.is_silent,
        group=replica.group,
        template=replica.template,
    )


@dataclass(slots=True)
class ModelLoop:
    """Mutable: one model's record, loops, and what the last tick decided."""

    record: ModelRecord
    source: SourceWatch
    source_task: asyncio.Task[None]
    live: Version | None
    rollouts: RolloutLoop
    scale: ScaleLoop
    running: Template
    """What its own replicas are started with when no rollout says otherwise (core/templates.py)."""
    deleted: bool = False
    memory: Memory = field(default_factory=Memory)
    reasons: Mapping[Version, str] = field(default_factory=dict)
    decision: Decision | None = None
    view: ModelView | None = None
    waits: Waits = field(default_factory=Waits)
    silent: tuple[Target, ...] = ()
    """Replicas that nobody should wait for any more (core.versions.given_up)."""
    is_as_before: bool = False
    """Nothing has changed since the last whole tick: all that follows from it has been done."""
    _inputs: tuple[object, ...] | None = None
    _acted_on: tuple[object, ...] | None = None
    _outcome: tuple[ModelRoute, ModelView] | None = None
    _sets: tuple[tuple[object, ...], list[ReplicaSet]] | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.record.spec.name

    @property
    def wanted(self) -> int:
        """How many replicas it should have now."""
        if self.deleted:
            return 0
        scaled = self.scale.memory
        return self.record.spec.replicas if scaled is None else scaled.wanted

    @property
    def canary_wanted(self) -> int:
        """How many replicas of its own a canary should have now."""
        rollout = self.rollouts.rollout
        return 0 if self.deleted or rollout is None else rollout.replicas_wanted

    def update(self, record: ModelRecord) -> None:
        """What is wanted now. Where no rollout brings another template, it runs from now on."""
        self.record = record
        rollout, live = self.rollouts.rollout, self.live
        self.running = templates.running(record.spec, self.running, live, rollout, self.wanted)

    def started(self, group: str = "") -> ModelSpec:
        """The spec by which the replicas of a group are started now."""
        template = templates.of_group(self.running, self.rollouts.rollout, group)
        return templates.started_by(self.record.spec, template)

    def templates(self) -> dict[str, str]:
        """By group, the digest of what its replicas are started with now."""
        return {group: template_of(self.started(group)) for group in ("", CANARY_GROUP)}

    def replica_sets(self) -> list[ReplicaSet]:
        """The groups of replicas that there should be now."""
        if self.deleted:
            return []
        spec, wanted, canaries = self.record.spec, self.wanted, self.canary_wanted
        known = (spec, self.running, self.rollouts.rollout, wanted, canaries)
        if self._sets is not None and self._sets[0] == known:
            return self._sets[1]
        own = self.started()
        groups = [ReplicaSet(own, template_of(own), wanted)]
        if canaries:
            canary = self.started(CANARY_GROUP)
            groups.append(ReplicaSet(canary, template_of(canary), canaries, CANARY_GROUP))
        self._sets = known, groups
        return groups

    @property
    def is_on_demand(self) -> bool:
        """Whether it has no replica while nobody asks."""
        scaling = self.record.spec.scaling
        return scaling is not None and scaling.least == 0

    @property
    def told_source(self) -> str:
        """The source as replicas are told it: a program of one's own gets a folder."""
        source = self.record.spec.source
        if self.record.spec.backend is Backend.CUSTOM and source.startswith("file://"):
            return source.removeprefix("file://")
        return source

    def rescale(
        self,
        replicas: Sequence[Replica],
        demand: Demand,
        now: float,
        settings: AutoscaleSettings,
        *,
        is_called: bool,
    ) -> None:
        """Say how many replicas there should be, before the scheduler is told."""
        views = self.view.replicas if self.view is not None else ()
        ready = sum(v.state is ReplicaState.READY and not v.replica.group for v in views)
        needed, scaling = self._needed(), self.record.spec.scaling
        self.scale.look(
            scaling, replicas, ready, demand, needed, now, settings, is_called=is_called
        )

    def _needed(self) -> str:
        """Why it needs a replica even if nobody asks; empty where it does not. What was never seen
        to load is loaded when it comes, and not when somebody waits for it."""
        decision = self.decision
        if self.live is None:
            return "no version has answered yet"
        if self.rollouts.is_under_way:
            return "a rollout is under way"
        if self.scale.proven != template_of(self.started()):
            return "what its replicas are started with has changed"
        if decision is not None and decision.candidate not in (self.live, *self.memory.suspect):
            return f"version {decision.candidate} has to be loaded"
        return ""

    def decide(
        self,
        replicas: Sequence[Replica],
        watches: Mapping[str, ReplicaWatch],
        tallies: Mapping[Version, Sequence[int]],
        agreed: AgreementTally | None,
        analysis: AnalysisSettings,
        now: float,
        *,
        is_busy: bool,
    ) -> tuple[ModelRoute, ModelView]:
        """One model's part of a tick; keeps the decision, its memory and the rollout.

        `tallies` and `agreed` are what the data planes say of this model, by the table that is out;
        `is_busy`: requests may still be under way to its canary. Deciding costs half a millisecond,
        so what has not changed is not decided again: with 500 models every change of one would hold
        up the requests of all.
        """
        inputs = self._looked_at(replicas, watches)
        self.is_as_before = inputs == self._acted_on and not self._moves_with_time
        if self.is_as_before and self._outcome is not None:
            return self._outcome
        self._inputs = inputs
        spec = self.record.spec
        held = {r.id: _seen(r, watches.get(r.id)) for r in replicas if _listens(r)}
        self.rollouts.examine(spec.canary, tallies, agreed, now, analysis)
        snapshot = Snapshot(
            policy=spec.policy,
            offered=self.source.offered(require_manifest=spec.require_manifest),
            live=self.live,
            replicas=tuple(held.values()),
            wanted=self.wanted,
            labels=spec.labels,
            memory=self.memory,
        )
        self._settle(snapshot, now, is_busy=is_busy)
        assert self.decision is not None
        endpoints = {r.id: r.endpoint for r in replicas if r.endpoint is not None}
        silent = given_up(snapshot.replicas, self.decision)
        self.silent = tuple(Target(i, endpoints[i]) for i in silent)
        seen = self._seen(self.decision, replicas, held, watches)
        statuses = merged(seen)
        self.memory = self.decision.memory
        self.reasons = reasons_of(self.memory, statuses)
        unversioned = {i for i, one in held.items() if one.report.unversioned}
        self._prove(seen)
        route = self._route(replicas, routed_statuses(seen, statuses), unversioned)
        self._outcome = route, self._view(seen, statuses, now)
        return self._outcome

    def _seen(
        self,
        decision: Decision,
        replicas: Sequence[Replica],
        held: Mapping[str, ReplicaSeen],
        watches: Mapping[str, ReplicaWatch],
    ) -> Seen:
        return Seen(
            spec=self.record.spec,
            generation=self.record.generation,
            templates=self.templates(),
            decision=decision,
            replicas=replicas,
            held=held,
            troubles={
                r.id: words
                for r in replicas
                if (w := watches.get(r.id)) is not None and (words := _trouble(w))
            },
            published=self.source.published,
            source_reason=self.source.reason,
            source_failing_since=self.source.failing_since,
            wanted=self.wanted,
            canary_wanted=self.canary_wanted,
            is_on_demand=self.is_on_demand and not self.deleted,
            reasons=self.reasons,
            shown_versions=self.source.shown_versions,
        )

    def _view(self, seen: Seen, statuses: Sequence[VersionStatus], now: float) -> ModelView:
        return replace(
            model_view(seen, statuses),
            rollout=self._rollout_view(seen),
            scale=self.scale.view(now, is_on_demand=self.is_on_demand),
            template=self._template_view(),
        )

    def acted(self) -> None:
        """All that follows from the last decision has been done."""
        self._acted_on = self._inputs

    @property
    def _moves_with_time(self) -> bool:
        """Whether what is decided may change though nothing that is seen does."""
        return self.rollouts.is_under_way or self.scale.memory is not None or self.deleted

    def _looked_at(
        self, replicas: Sequence[Replica], watches: Mapping[str, ReplicaWatch]
    ) -> tuple[object, ...]:
        """Everything that a decision comes of, but for the time."""
        source = self.source
        return (
            (self.record, self.live, self.memory, self.reasons, self.wanted, self.running),
            (self.rollouts.rollout, self.rollouts.is_stored),
            (source.published, source.reason, source.failing_since, source.looks > 0),
            tuple(replicas),
            tuple(
                None if w is None else (w.report, w.told, w.is_silent, w.trouble)
                for w in (watches.get(r.id) for r in replicas)
            ),
        )

    def _prove(self, seen: Seen) -> None:
        """Remember the template if one of its replicas holds the live version."""
        now = seen.templates[""]
        own = [s for s in seen.held.values() if not s.group and s.template == now]
        if self.live is not None and any(self.live in s.ready() for s in own):
            self.scale.proven = now

    def _rollout_view(self, seen: Seen) -> RolloutView | None:
        rollout = self.rollouts.rollout
        trouble = "" if rollout is None else canary_trouble(seen, rollout.version, self.reasons)
        return self.rollouts.view(seen.spec.canary, trouble)

    def _template_view(self) -> TemplateView:
        spec, running = self.record.spec, self.running
        change = templates.deployed(spec, running)
        return TemplateView(
            templates.digest(spec, running),
            template_of(spec),
            () if change is None else templates.differences(change.before, change.after),
            is_rejected=change is not None and self._is_refused(),
        )

    def _is_refused(self) -> bool:
        """Whether a rollout has taken back what was deployed."""
        rollout = self.rollouts.rollout
        spec = self.record.spec
        return rollout is not None and templates.is_rejected(spec, rollout.rejected_templates)

    def _settle(self, snapshot: Snapshot, now: float, *, is_busy: bool) -> None:
        """Decide about versions and about the rollout until neither changes the other."""
        plan = self.record.spec.canary
        for _ in range(_MOST_TRANSITIONS):
            gate = self.rollouts.gate(plan)
            snapshot = replace(snapshot, gate=gate, templates=self.templates())
            self.decision = decide(snapshot)
            look = self.look(now, is_busy=is_busy)
            if self.deleted or not self.rollouts.step(look, now, utc_stamp()):
                return
            after = self.rollouts.rollout
            if after is not None and after.change and after.phase is Phase.SUCCEEDED:
                self.running = after.change.after

    def look(self, now: float, *, is_busy: bool = False, ahead: bool = False) -> Look:
        """All that is known of its rollout, by the last decision. `ahead`: what that decision makes
        live is taken to be so, although it may not be stored yet."""
        assert self.decision is not None
        spec = self.record.spec
        offered = self.source.offered(require_manifest=spec.require_manifest)
        return self.rollouts.look(
            spec.canary,
            self.decision.live if ahead else self.live,
            self.decision,
            None if offered is None else frozenset(offered),
            now,
            is_busy=is_busy,
            running=self.running,
            change=templates.deployed(spec, self.running),
            is_refused=self._is_refused(),
        )

    def take(self, view: ModelView, now: float, *, adopting: bool) -> list[News]:
        """Show `view` from now on. Returns what people are to be told: what happened to it since
        the last one, and why its replicas wait. `adopting`: see news.news."""
        told = [*self.rollouts.happened, *self.scale.happened]
        self.rollouts.happened, self.scale.happened = [], []
        if self.view != view:
            changes = news(self.view, view, adopting=adopting)
            told += (n for n in changes if not self.deleted or n.type != "model.unavailable")
            self.view = view
        if not self.deleted:
            self.waits, waiting = waits(self.waits, view, now)
            told += waiting
        return told

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
            canary=self._canary(),
            targets={
                version: tuple(Target(i, endpoints[i]) for i in ids)
                for version, ids in self.decision.routes.items()
            },
            side=None
            if self.decision.side is None
            else tuple(Target(i, endpoints[i]) for i in self.decision.side),
            labels=self.decision.labels,
            statuses=tuple(statuses),
            timeout_s=spec.timeout_s,
            in_flight_limit=spec.in_flight_limit,
            hedge=share_of(spec.hedge),
            backend=str(spec.backend),
            speaks=spec.speaks,
            is_scaled=spec.scaling is not None,
            is_started_on_demand=self.is_on_demand,
        )

    def _canary(self) -> Canary | None:
        """What the routing table says of the rollout; nothing where its version is live already."""
        assert self.decision is not None
        found = self.rollouts.canary(self.record.spec.canary)
        if found is None or (found.version == self.decision.live and self.decision.side is None):
            return None
        return found
