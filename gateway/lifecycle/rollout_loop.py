"""What the lifecycle keeps of one model's rollout between ticks.

`step` is asked after every decision about versions and changes the stored rollout by at most one
transition; the tick repeats both until nothing changes, writes the rollout down, and publishes the
table. So a canary that is found worse is out of the table in the tick that found it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gateway.core import rollout as rollouts
from gateway.core.agreement import agreement
from gateway.core.analysis import AnalysisSettings, Blocks, analyse, empty, folded
from gateway.core.route import CANARY_SIDE, Canary
from gateway.core.templates import differences
from gateway.core.versions import Decision, Gate
from gateway.domain.agreement import Agreement, AgreementTally
from gateway.domain.models import CanaryPlan
from gateway.domain.names import Version
from gateway.domain.rollouts import Finding, Phase, Rollout, RolloutView, Side
from gateway.domain.templates import Template, TemplateChange
from gateway.lifecycle.news import News

_EVENTS = {
    Phase.PENDING: ("started", "rollout of {v} begins: {why}"),
    Phase.PROGRESSING: ("step", "{v} gets {w:g}% of the traffic"),
    Phase.PAUSED: ("paused", "rollout of {v} stays at {w:g}%: {why}"),
    Phase.PROMOTING: ("promoting", "{v} gets all of the traffic: {why}"),
    Phase.ROLLING_BACK: ("rolling_back", "{v} is taken back: {why}"),
    Phase.SUCCEEDED: ("succeeded", "{v} is live, instead of {s}"),
    Phase.FAILED: ("rolled_back", "{v} is rolled back, {s} answers: {why}"),
}


@dataclass(slots=True)
class RolloutLoop:
    """Mutable: a model's newest rollout and the window of its step."""

    rollout: Rollout | None
    finding: Finding = field(default_factory=Finding)
    window: int = 0
    """Counts steps and rollouts; answers of another window are not counted in this one."""
    since: float = 0.0
    """When the window began, monotonic."""
    blocks: Blocks = field(default_factory=Blocks)
    is_stored: bool = True
    happened: list[News] = field(default_factory=list)
    """What is to be told once it is stored."""
    _windows: tuple[Version, int, bool] | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether it has to be looked at again soon."""
        return self.rollout is not None and not self.rollout.is_over

    def gate(self, plan: CanaryPlan | None) -> Gate:
        """What it lets versions do."""
        return rollouts.gate(plan, self.rollout)

    def examine(
        self,
        plan: CanaryPlan | None,
        tallies: Mapping[Version, Sequence[int]],
        agreed: AgreementTally | None,
        now: float,
        settings: AnalysisSettings,
    ) -> None:
        """Look at what the data planes have counted in this window. Once a tick: what they tell is
        of the table that is out, and of none that this tick makes."""
        rollout = self.rollout
        if rollout is None or rollout.phase not in (Phase.PROGRESSING, Phase.PAUSED):
            return
        stable = tallies.get(rollout.stable) or empty()
        canary = tallies.get(CANARY_SIDE if rollout.is_of_template else rollout.version) or empty()
        self.blocks = folded(self.blocks, stable, canary, now, settings)
        least = plan.min_samples if plan is not None else 0
        shown = None
        if plan is not None and plan.shadow is not None:
            shown = agreement(agreed, plan.shadow, least)
        steps = len(rollout.steps)
        self.finding = analyse(stable, canary, self.blocks, least, steps, settings, shown)

    def look(
        self,
        plan: CanaryPlan | None,
        live: Version | None,
        decision: Decision,
        offered: frozenset[Version] | None,
        now: float,
        *,
        is_busy: bool,
        running: Template,
        change: TemplateChange | None,
        is_refused: bool,
    ) -> rollouts.Look:
        """All that is known of it."""
        return rollouts.Look(
            plan,
            self.rollout,
            live,
            decision.candidate,
            decision.loaded,
            offered,
            self.finding,
            now - self.since,
            is_busy,
            running,
            change,
            is_refused,
            decision.is_placed,
        )

    def step(self, look: rollouts.Look, now: float, at: str) -> bool:
        """One transition, if there is one to make."""
        after = rollouts.decide(look, at)
        if after is None:
            return False
        self.take(after, now)
        return True

    def take(self, after: Rollout, now: float) -> None:
        """It is in another state, and has to be stored."""
        before, self.rollout, self.is_stored = self.rollout, after, False
        if after.phase is Phase.PENDING:
            self.finding = Finding()  # another one's
        self.happened.append(_news(before, after, self.finding))
        counted = after.phase in (Phase.PROGRESSING, Phase.PAUSED)
        window = (after.version, after.step, counted)
        if window != self._windows:
            self._windows = window
            self.window += 1
            self.since = now
            self.blocks = Blocks()
            if after.phase in (Phase.PENDING, Phase.PROGRESSING):
                self.finding = Finding()

    def canary(self, plan: CanaryPlan | None) -> Canary | None:
        """For the routing table."""
        rollout = self.rollout
        if rollout is None or not rollout.weight:
            return None
        made = Canary(rollout.version, rollout.weight, self.window)
        if plan is None:
            return made
        made = replace(made, sticky=plan.sticky)
        if plan.shadow is None:
            return made
        return replace(made, shadow=plan.shadow.share, tolerance=plan.shadow.tolerance)

    def view(self, plan: CanaryPlan | None, trouble: str = "") -> RolloutView | None:
        """For people. `trouble` is why its version is not loaded, as far as that is known."""
        rollout = self.rollout
        if rollout is None:
            return None
        if trouble and rollout.phase is Phase.PENDING:
            rollout = replace(rollout, reason=f"{rollout.reason}: {trouble}")
        needed = (0, 0.0) if plan is None else (plan.min_samples, plan.step_s)
        return RolloutView(rollout, self.finding, *needed)


def _news(before: Rollout | None, after: Rollout, finding: Finding) -> News:
    kind, words = _EVENTS[after.phase]
    if after.phase is Phase.PROGRESSING:
        if before is not None and before.phase is Phase.PAUSED:
            kind = "resumed"
        elif not after.steps:
            words = "{v} is loaded"
    brought, stable = _subjects(after)
    message = words.format(v=brought, s=stable, why=after.reason, w=after.weight * 100)
    return News(f"rollout.{kind}", message, fields_of(after, finding))


def _subjects(rollout: Rollout) -> tuple[str, str]:
    """What it brings, and instead of what."""
    change = rollout.change
    if change is None:
        return f"version {rollout.version}", str(rollout.stable)
    words = ", ".join(differences(change.before, change.after))
    if rollout.is_of_template:
        return f"another template of version {rollout.version} ({words})", "the former template"
    return f"version {rollout.version} with another template ({words})", str(rollout.stable)


def fields_of(rollout: Rollout, finding: Finding) -> dict[str, Any]:
    """An event's numbers: of the window that ended with it."""
    fields: dict[str, Any] = {
        "version": rollout.version,
        "stable": rollout.stable,
        "phase": str(rollout.phase),
        "phase_at": rollout.phase_at,
        "step": rollout.step,
        "weight": rollout.weight,
        "reason": rollout.reason,
    }
    if rollout.change is not None:
        change = rollout.change
        fields["template_changes"] = list(differences(change.before, change.after))
    if finding.canary.requests or finding.stable.requests:
        fields |= {
            "verdict": str(finding.verdict),
            "canary": _numbers(finding.canary),
            "stable_side": _numbers(finding.stable),
            "error_evidence": _bounded(finding.error_evidence),
            "latency_evidence": _bounded(finding.latency_evidence),
            "limit": finding.limit,
        }
    if finding.agreement is not None:
        fields["agreement"] = numbers_of(finding.agreement)
    return fields


def numbers_of(agreement: Agreement) -> dict[str, Any]:
    """As an event has them."""
    return {**asdict(agreement), "evidence": _bounded(agreement.evidence)}


def _numbers(side: Side) -> dict[str, Any]:
    return {
        "requests": side.requests,
        "failed": side.failed,
        "p50_s": side.p50_s,
        "p99_s": side.p99_s,
    }


def _bounded(evidence: float) -> float:
    return float(f"{min(evidence, 1e12):.6g}")
