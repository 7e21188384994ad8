"""The rollout and the version policy together, with replicas that load, fail, come and go, verdicts
of every kind, and people who order at any time."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.core import rollout as rollouts
from gateway.core import templates
from gateway.core.templates import key_of
from gateway.core.versions import Decision, Memory, Offered, ReplicaSeen, Snapshot, decide, told
from gateway.domain.errors import GatewayError
from gateway.domain.models import (
    Backend,
    CanaryPlan,
    Latest,
    ModelSpec,
    VersionState,
    VersionStatus,
)
from gateway.domain.replicas import CANARY_GROUP, ReplicaReport
from gateway.domain.rollouts import Finding, Phase, Rollout, Verdict

PLAN = CanaryPlan((5.0, 25.0, 50.0), 10, 10.0)
READY = VersionState.READY


def seen(replica_id: str, held: set[int], **more) -> ReplicaSeen:
    return ReplicaSeen(
        replica_id, ReplicaReport(True, {v: VersionStatus(v, READY) for v in held}), **more
    )


def _aim(rollout: Rollout) -> tuple[object, ...]:
    """What it is to bring."""
    return rollout.version, rollout.change


class RolloutMachine(RuleBasedStateMachine):
    """One model with two replicas."""

    plan = PLAN

    def __init__(self) -> None:
        super().__init__()
        self.offered = {1}
        self.ready: list[set[int]] = [{1}, {1}]
        self.live: int | None = 1
        self.rollout: Rollout | None = None
        self.finding = Finding()
        self.busy = False
        self.decision: Decision | None = None
        self.tick()

    # ---- the loop, as lifecycle/model_loop.py has it --------------------

    def look(self) -> rollouts.Look:
        decision = self.decision
        return rollouts.Look(
            self.plan,
            self.rollout,
            self.live,
            decision.candidate,
            decision.loaded,
            frozenset(self.offered),
            self.finding,
            60.0,
            self.busy,
        )

    def tick(self) -> None:
        """Until nothing changes any more: what goes live wakes the loop again."""
        while True:
            self.settle()
            if self.live == self.decision.live:
                return
            self.live = self.decision.live

    def seen(self) -> list[ReplicaSeen]:
        return [seen(f"r{i}", held) for i, held in enumerate(self.ready)]

    def snapshot(self) -> Snapshot:
        return Snapshot(
            Latest(),
            {v: Offered() for v in self.offered},
            self.live,
            self.seen(),
            2,
            memory=self.decision.memory if self.decision else Memory(),
            gate=rollouts.gate(self.plan, self.rollout),
        )

    def settle(self) -> None:
        for _ in range(10):
            self.decision = decide(self.snapshot())
            after = rollouts.decide(self.look(), "")
            if after is None:
                break
            self.take(after)
        else:
            raise AssertionError("it does not settle")

    def take(self, after: Rollout) -> None:
        before = self.rollout
        if before is not None and after.phase is not before.phase and not before.is_over:
            assert after.phase in rollouts.TRANSITIONS[before.phase]
        fresh = before is None or before.is_over or _aim(after) != _aim(before)
        if fresh:
            assert after.phase is Phase.PENDING
            assert after.version not in after.rejected
        elif after.step != before.step:
            assert after.step == before.step + 1
            assert self.finding.verdict is Verdict.PASS
        if not fresh:
            assert set(before.rejected) <= set(after.rejected)
        if after.step != (before.step if before else 0) or fresh:
            self.finding = Finding()
        self.rollout = after

    # ---- what happens --------------------

    @rule()
    def publish(self):
        self.offered.add(max(self.offered) + 1)
        self.tick()

    @rule(replica=st.integers(0, 1), everything=st.booleans())
    def load(self, replica, everything):
        wanted = set(self.decision.aspired) | {self.live}
        fresh = sorted(wanted - self.ready[replica] - {None})
        self.ready[replica] |= set(fresh if everything else fresh[:1])
        self.tick()

    @rule(replica=st.integers(0, 1))
    def unload_what_is_not_wanted(self, replica):
        self.ready[replica] &= set(self.decision.aspired) | {self.live}
        self.tick()

    @rule(replica=st.integers(0, 1))
    def restart_a_replica(self, replica):
        self.ready[replica] = set()
        self.tick()

    @rule(verdict=st.sampled_from(Verdict))
    def judge(self, verdict):
        self.finding = Finding(verdict, "because")
        before = self.rollout
        self.tick()
        runs = before is not None and before.phase in (Phase.PROGRESSING, Phase.PAUSED)
        if verdict is Verdict.FAIL and runs and before.steps:
            if _aim(self.rollout) == _aim(before):  # else the next one has begun
                assert self.rollout.phase in (Phase.ROLLING_BACK, Phase.FAILED)
            if not before.is_of_template:
                assert before.version in self.rollout.rejected
                assert self.live != before.version
            if before.change is not None:
                assert key_of(before.change.after, before.change.attempt) in (
                    self.rollout.rejected_templates
                )

    @rule(busy=st.booleans())
    def drain(self, busy):
        self.busy = busy
        self.tick()

    @rule(action=st.sampled_from(["pause", "resume", "promote", "abort", "undo", "start"]))
    def order(self, action):
        now = self.look()
        try:
            if action == "undo":
                after = rollouts.undo(now, "m", "")
            elif action == "start":
                after = rollouts.start(now, None, "m", "")
            else:
                after = rollouts.order(now, action, "m", "")
        except GatewayError:
            assert self.rollout == now.rollout
            return
        self.rollout = after
        self.tick()

    @precondition(lambda self: self.rollout is not None)
    @rule()
    def restart_the_gateway(self):
        self.rollout = replace(self.rollout)
        self.decision, self.finding = None, Finding()
        self.tick()

    # ---- what always holds --------------------

    @invariant()
    def something_is_live(self):
        assert self.live is not None

    @invariant()
    def the_canary_is_answered_only_while_it_has_a_weight(self):
        rollout = self.rollout
        if rollout is None:
            return
        has_share = rollout.phase in (Phase.PROGRESSING, Phase.PAUSED, Phase.PROMOTING)
        assert (rollout.weight > 0) == (has_share and bool(rollout.steps))
        assert 0 <= rollout.weight < 1

    @invariant()
    def the_stable_version_stays_wanted_until_the_end(self):
        rollout = self.rollout
        if rollout is not None and not rollout.is_over:
            assert self.live in (rollout.stable, rollout.version)
            assert rollout.stable in self.decision.aspired

    @invariant()
    def labels_name_what_they_say(self):
        assert self.decision.labels["stable"] == self.live
        rollout = self.rollout
        runs = rollout is not None and not rollout.is_over
        if runs and rollout.phase is not Phase.ROLLING_BACK:
            assert self.decision.labels["canary"] == rollout.version
        else:
            assert "canary" not in self.decision.labels

    @invariant()
    def nothing_is_left_to_do(self):
        assert rollouts.decide(self.look(), "") is None

    @invariant()
    def whoever_has_succeeded_is_live_and_whoever_has_failed_is_not(self):
        rollout = self.rollout
        if rollout is not None and rollout.phase is Phase.SUCCEEDED:
            assert self.live == rollout.version
        if rollout is not None and rollout.phase in (Phase.FAILED, Phase.ROLLING_BACK):
            assert self.live == rollout.stable

    @invariant()
    def a_rejected_version_is_live_only_where_it_stays_after_an_undo_was_taken_back(self):
        rollout = self.rollout
        if rollout is not None and rollout.phase is Phase.SUCCEEDED:
            assert self.live not in rollout.rejected


RolloutMachine.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # it says only how busy the machine is
)
TestRolloutMachine = RolloutMachine.TestCase


class ApartMachine(RolloutMachine):
    """The same with two replicas of the canary's own, which are started late, die, and drain."""

    plan = replace(PLAN, replicas=2)

    def __init__(self) -> None:
        self.group: dict[str, set[int]] = {}
        self.draining: set[str] = set()
        self.leaving: dict[str, set[int]] = {}
        """Of the model's own, what is replaced."""
        self.born = 0
        super().__init__()

    def seen(self) -> list[ReplicaSeen]:
        group = [
            seen(i, held, draining=i in self.draining, group=CANARY_GROUP)
            for i, held in sorted(self.group.items())
        ]
        return [*super().seen(), *group]

    def told(self, replica: ReplicaSeen) -> set[int]:
        return set(told(self.decision, {v: Offered() for v in self.offered}, replica, ()))

    def tick(self) -> None:
        super().tick()
        self.schedule()
        super().tick()

    def schedule(self) -> None:
        """As lifecycle and scheduler do it: drain what is too many, start what is missing, end
        what was released."""
        wanted = self.rollout.replicas_wanted if self.rollout is not None else 0
        staying = sorted(self.group.keys() - self.draining)
        self.draining |= set(staying[wanted:])
        for _ in range(wanted - len(staying)):
            self.born += 1
            self.group[f"c{self.born}"] = set()
        routed = {i for ids in self.decision.routes.values() for i in ids}
        for gone in sorted(self.draining & self.decision.released - routed):
            self.draining.discard(gone)
            del self.group[gone]

    @rule(chance=st.integers(0, 10))
    def load_on_its_own(self, chance):
        """One of them becomes what it was told to be."""
        found = [r for r in self.seen() if r.group and not r.draining]
        if found:
            replica = found[chance % len(found)]
            self.group[replica.id] = self.told(replica)
            self.tick()

    @rule()
    def load_on_all(self):
        for replica in self.seen():
            held = self.told(replica)
            if replica.draining:
                continue
            if not replica.group:
                self.ready[int(replica.id[1:])] = held
            else:
                self.group[replica.id] = held
        self.tick()

    @rule(chance=st.integers(0, 10))
    def kill_one_of_its_own(self, chance):
        if self.group:
            gone = sorted(self.group)[chance % len(self.group)]
            del self.group[gone]
            self.draining.discard(gone)
            self.tick()

    @invariant()
    def its_own_replicas_hold_the_canary_alone(self):
        canary = self.rollout.version if self.rollout is not None else None
        orphan = set() if any(self.live in held for held in self.ready) else {self.live}
        for replica in (r for r in self.seen() if r.group and not r.draining):
            if self.decision.apart is not None:
                assert self.told(replica) <= {canary} | orphan

    @invariant()
    def nobody_else_holds_it_before_it_is_promoted(self):
        rollout = self.rollout
        if rollout is None or rollout.is_over or not rollout.canary_replicas:
            return
        if rollout.is_of_template:
            return
        if rollout.phase in (Phase.PENDING, Phase.PROGRESSING, Phase.PAUSED):
            assert rollout.version not in self.decision.aspired
            ids = self.decision.routes.get(rollout.version, ())
            assert all(i in self.group for i in ids) or not set(ids) & set(self.group)

    @invariant()
    def there_are_none_while_no_rollout_runs(self):
        rollout = self.rollout
        runs = rollout is not None and not rollout.is_over
        assert (self.decision.apart is not None) == (
            runs and rollout.phase is not Phase.ROLLING_BACK and rollout.canary_replicas > 0
        )
        # An undo goes in place: nobody is sent there before it is everywhere.
        assert rollout is None or (rollout.canary_replicas > 0) == bool(rollout.steps)

    @invariant()
    def what_was_released_is_routed_to_no_more(self):
        routed = {i for ids in self.decision.routes.values() for i in ids}
        assert not routed & self.decision.released
        assert self.decision.released <= self.draining | self.leaving.keys()


ApartMachine.TestCase.settings = RolloutMachine.TestCase.settings
TestApartMachine = ApartMachine.TestCase


class TemplateMachine(ApartMachine):
    """And people deploy other templates, one of three, at any time."""

    def __init__(self) -> None:
        self.spec = ModelSpec("m", "s3://b/m", Backend.CUSTOM, image="0", canary=self.plan)
        self.running = templates.template_in(self.spec)
        self.run_by: dict[str, str] = {}
        """By replica, its template; the model's own begin with the first one."""
        super().__init__()

    def started(self) -> dict[str, str]:
        groups = ("", CANARY_GROUP)
        found = {g: templates.of_group(self.running, self.rollout, g) for g in groups}
        return {group: str(template.image) for group, template in found.items()}

    def refused(self) -> bool:
        rejected = () if self.rollout is None else self.rollout.rejected_templates
        return templates.is_rejected(self.spec, rejected)

    def look(self) -> rollouts.Look:
        return replace(
            super().look(),
            running=self.running,
            change=templates.deployed(self.spec, self.running),
            is_refused=self.refused(),
            is_placed=self.decision.is_placed,
        )

    def snapshot(self) -> Snapshot:
        return replace(super().snapshot(), templates=self.started())

    def seen(self) -> list[ReplicaSeen]:
        leaving = [seen(i, held, draining=True) for i, held in sorted(self.leaving.items())]
        return [
            replace(r, template=self.run_by.get(r.id, "0")) for r in (*super().seen(), *leaving)
        ]

    def told(self, replica: ReplicaSeen) -> set[int]:
        """Nothing, where its template is an old one."""
        current = self.started()[replica.group] == replica.template
        return super().told(replica) if current else set(replica.ready())

    def take(self, after: Rollout) -> None:
        before = self.rollout
        super().take(after)
        change = after.change
        if before is not None and change is not None and after.phase is Phase.PENDING:
            assert key_of(change.after, change.attempt) not in before.rejected_templates
        if change is not None and after.phase is Phase.SUCCEEDED:
            for i, held in enumerate(self.ready):
                assert self.run_by.get(f"r{i}", "0") == change.after.image
                assert after.version in held
            self.running = change.after

    def schedule(self) -> None:
        """One of the model's own at a time makes place for one of the new template."""
        started = self.started()
        for i in range(len(self.ready)):
            if self.run_by.get(f"r{i}", "0") != started[""] and len(self.leaving) < 4:
                self.born += 1
                self.leaving[f"o{self.born}"] = self.ready[i]
                self.run_by[f"o{self.born}"] = self.run_by.get(f"r{i}", "0")
                self.ready[i], self.run_by[f"r{i}"] = set(), started[""]
                break
        routed = {i for ids in self.decision.routes.values() for i in ids}
        for gone in sorted(self.leaving.keys() & self.decision.released - routed):
            del self.leaving[gone]
        before = set(self.group)
        super().schedule()
        for born in self.group.keys() - before:
            self.run_by[born] = started[CANARY_GROUP]
        for old in sorted(self.group.keys() - self.draining):
            if self.run_by[old] != started[CANARY_GROUP]:
                self.draining.add(old)

    @rule(image=st.sampled_from("012"))
    def deploy(self, image):
        self.spec = replace(self.spec, image=image)
        if self.refused():
            self.spec = replace(self.spec, attempt=self.spec.attempt + 1)
        self.tick()

    @rule(replicas=st.integers(1, 4))
    def deploy_something_else(self, replicas):
        before = self.rollout
        self.spec = replace(self.spec, replicas=replicas)
        self.tick()
        if before is not None and before.is_over:
            assert self.rollout == before

    @invariant()
    def what_runs_is_what_was_proven(self):
        rollout, change = self.rollout, self.rollout.change if self.rollout else None
        if change is None:
            return
        if rollout.is_of_template:
            assert rollout.version not in rollout.rejected
        proven = rollout.phase is Phase.SUCCEEDED
        assert self.running == (change.after if proven else change.before)

    @invariant()
    def nobody_of_the_stable_side_is_sent_to_the_canarys_own(self):
        rollout, decision = self.rollout, self.decision
        of_template = rollout is not None and rollout.is_of_template and not rollout.is_over
        shown = of_template and rollout.phase is not Phase.ROLLING_BACK
        assert (decision.side is not None) == (shown and rollout.canary_replicas > 0)
        assert set(decision.side or ()) <= self.group.keys()
        own = [r for r in self.seen() if not r.group and r.id not in decision.released]
        if of_template and any(self.live in r.ready() for r in own):
            assert not set(decision.routes[self.live]) & self.group.keys()

    @invariant()
    def whoever_can_answers_for_the_live_version(self):
        holders = [r for r in self.seen() if self.live in r.ready() and not r.draining]
        assert self.decision.routes.get(self.live) or not holders


TemplateMachine.TestCase.settings = RolloutMachine.TestCase.settings
TestTemplateMachine = TemplateMachine.TestCase
