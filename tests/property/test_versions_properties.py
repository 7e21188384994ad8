"""What the version policy promises, in a simulated world of replicas that load, fail and die."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.versions import Gate, Memory, Offered, ReplicaSeen, Snapshot, decide, told
from gateway.domain.models import All, Latest, Specific, VersionState, VersionStatus
from gateway.domain.replicas import CANARY_GROUP, ReplicaReport

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""How long an example takes says only how busy the machine is."""

VERSIONS = st.integers(1, 6)
POLICIES = st.one_of(
    st.builds(Latest, st.integers(1, 3)),
    st.just(All()),
    st.builds(lambda v: Specific(tuple(sorted(v))), st.sets(VERSIONS, min_size=1, max_size=3)),
)
STATES = st.sampled_from([*[VersionState.READY] * 7, *VersionState])
STATUSES = st.dictionaries(VERSIONS, STATES, max_size=5).map(
    lambda d: {v: VersionStatus(v, s) for v, s in d.items()}
)
REPLICAS = st.lists(
    st.tuples(
        st.booleans(),
        STATUSES,
        st.booleans(),
        st.booleans(),
        st.frozensets(VERSIONS),
        st.sampled_from(["", "", CANARY_GROUP]),
    ),
    max_size=5,
).map(
    lambda rows: tuple(
        ReplicaSeen(f"r{i}", ReplicaReport(a, s), draining=d, must_go=d and m, told=t, group=g)
        for i, (a, s, d, m, t, g) in enumerate(rows)
    )
)
GATES = st.one_of(
    st.builds(Gate, is_held=st.booleans(), rejected=st.frozensets(VERSIONS, max_size=2)),
    st.builds(
        lambda canary, stable, count, is_promoted: Gate(
            is_held=True,
            kept=frozenset({canary, stable}),
            canary=canary,
            canary_replicas=count,
            promoted=canary if is_promoted else None,
        ),
        VERSIONS,
        VERSIONS,
        st.integers(0, 2),
        st.booleans(),
    ),
)
SNAPSHOTS = st.builds(
    Snapshot,
    policy=POLICIES,
    offered=st.one_of(
        st.none(),
        st.dictionaries(
            VERSIONS, st.builds(Offered, st.sampled_from("ab"), st.booleans()), max_size=6
        ),
    ),
    live=st.one_of(st.none(), VERSIONS),
    replicas=REPLICAS,
    wanted=st.integers(0, 3),
    labels=st.dictionaries(st.sampled_from(["prod", "test"]), VERSIONS, max_size=2),
    memory=st.builds(
        Memory,
        st.frozensets(VERSIONS),
        st.dictionaries(VERSIONS, st.sampled_from("ab")),
        st.frozensets(VERSIONS),
    ),
    gate=GATES,
)


def _apart(now: Snapshot) -> Snapshot:
    """The same with a canary that has replicas of its own, and is not promoted yet."""
    canary = now.gate.canary or 3
    live = now.live if now.live != canary else canary + 1
    gate = replace(
        now.gate,
        is_held=True,
        kept=frozenset({canary, live} - {None}),
        canary=canary,
        canary_replicas=now.gate.canary_replicas or 1,
        promoted=None,
    )
    return replace(now, live=live, gate=gate)


APART = SNAPSHOTS.map(_apart)


@patient
@given(SNAPSHOTS)
def test_a_version_is_routed_only_to_replicas_that_reported_it_ready(now):
    decision = decide(now)
    by_id = {r.id: r for r in now.replicas}
    for version, ids in decision.routes.items():
        assert ids
        for replica_id in ids:
            report = by_id[replica_id].report
            assert report.answered
            assert report.versions[version].state is VersionState.READY


@patient
@given(SNAPSHOTS)
def test_asking_twice_about_the_same_snapshot_gives_the_same_answer(now):
    assert decide(now) == decide(now)


@patient
@given(SNAPSHOTS)
def test_the_live_version_never_loses_its_last_answer_while_replicas_are_wanted(now):
    held = [r for r in now.replicas if now.live in r.ready() and not r.must_go]
    decision = decide(now)
    if held and now.wanted:
        assert decision.live is not None
        assert decision.routes.get(decision.live)


@patient
@given(SNAPSHOTS)
def test_a_change_of_the_live_version_goes_to_one_that_answers_everywhere(now):
    decision = decide(now)
    if now.live is None or decision.live == now.live:
        return
    assert decision.live in decision.aspired
    staying = [r for r in now.replicas if not r.draining and r.ready() and not r.group]
    assert all(decision.live in r.ready() for r in staying)


@patient
@given(SNAPSHOTS)
def test_nothing_is_given_up_while_the_source_shows_nothing(now):
    if now.offered:
        return
    decision = decide(now)
    for replica in now.replicas:
        assert replica.ready() <= set(told(decision, now.offered, replica, ()))


@patient
@given(SNAPSHOTS, st.frozensets(st.tuples(VERSIONS, st.sampled_from(["r0", "r1"])), max_size=4))
def test_what_is_routed_or_busy_stays_told(now, busy):
    decision = decide(now)
    for replica in now.replicas:
        kept = set(told(decision, now.offered, replica, busy))
        assert {v for v, ids in decision.routes.items() if replica.id in ids} <= kept
        assert {v for v, i in busy if i == replica.id} <= kept


@patient
@given(SNAPSHOTS)
def test_an_unsettled_version_is_aspired_only_where_it_is_loaded_or_live(now):
    decision = decide(now)
    ready = {v for r in now.replicas for v in r.ready()} | {now.live}
    unsettled = {v for v, o in (now.offered or {}).items() if not o.settled}
    if now.offered:
        assert set(decision.aspired) & unsettled <= ready


# ---- a canary's own replicas --------------------


@patient
@given(APART)
def test_a_canary_with_replicas_of_its_own_is_told_to_no_others(now):
    if not now.offered or now.gate.canary in now.labels.values():
        return
    decision, canary = decide(now), now.gate.canary
    others = [r for r in now.replicas if not r.group]
    answered_by_others = set(decision.routes.get(canary, ())) & {r.id for r in others}
    for replica in others:
        if replica.id not in answered_by_others:
            assert canary not in told(decision, now.offered, replica, ())


@patient
@given(APART)
def test_its_own_replicas_hold_nothing_else_unless_they_answer_for_it(now):
    if not now.offered:
        return
    decision = decide(now)
    for replica in (r for r in now.replicas if r.group):
        routed = {v for v, ids in decision.routes.items() if replica.id in ids}
        assert set(told(decision, now.offered, replica, ())) <= routed | {now.gate.canary}


@patient
@given(APART)
def test_it_is_answered_by_its_own_replicas_where_one_of_them_can(now):
    decision, canary = decide(now), now.gate.canary
    own = {r.id for r in now.replicas if r.group}
    ids = set(decision.routes.get(canary, ()))
    assert ids <= own or not ids & own


@patient
@given(APART)
def test_it_counts_as_loaded_by_its_own_replicas_only(now):
    canary = now.gate.canary
    holders = [r for r in now.replicas if r.group and not r.draining and canary in r.ready()]
    assert (canary in decide(now).loaded) == (len(holders) >= now.gate.canary_replicas)


@patient
@given(SNAPSHOTS)
def test_what_its_own_replicas_answer_for_is_answered_until_others_do_or_have_failed(now):
    decision, live = decide(now), decide(now).live
    stay = [r for r in now.replicas if r.group and r.draining and not r.must_go]
    own = [r for r in now.replicas if not r.group and not r.draining and r.report.answered]
    for version in {*decision.aspired, live} - {None, now.gate.canary}:
        held = any(version in r.ready() for r in stay)
        failed = own and all(r.state(version) is VersionState.FAILED for r in own)
        if held and now.wanted and (version == live or not failed):
            assert version in decision.routes


@patient
@given(APART)
def test_a_canary_that_is_apart_changes_nothing_of_what_is_live(now):
    decision = decide(now)
    if now.live is not None:
        assert decision.live == now.live
    assert decision.released <= {r.id for r in now.replicas if r.draining}


class Simulated:
    """Replicas that do what they are told, slowly, with failures and deaths."""

    def __init__(self, rng: Random, count: int, broken: frozenset[int]) -> None:
        self.rng = rng
        self.broken = broken
        self.replicas: dict[str, tuple[dict[int, VersionState], frozenset[int]]] = {}
        self.count = count
        self.born = 0
        self.refill()

    def refill(self) -> None:
        while len(self.replicas) < self.count:
            self.replicas[f"r{self.born}"] = ({}, frozenset())
            self.born += 1

    def kill(self) -> None:
        del self.replicas[self.rng.choice(sorted(self.replicas))]

    def seen(self) -> tuple[ReplicaSeen, ...]:
        return tuple(
            ReplicaSeen(
                i, ReplicaReport(True, {v: VersionStatus(v, s) for v, s in states.items()}), told=t
            )
            for i, (states, t) in self.replicas.items()
        )

    def tell(self, replica_id: str, versions: tuple[int, ...]) -> None:
        states, _ = self.replicas[replica_id]
        kept = {v: states.get(v, VersionState.NEW) for v in versions}
        self.replicas[replica_id] = (kept, frozenset(versions))

    def step(self) -> None:
        """Each version of each replica may move on; a failed one is tried again now and then."""
        for states, _ in self.replicas.values():
            for version, state in states.items():
                if self.rng.random() < 0.4:
                    continue
                if state is VersionState.LOADING:
                    bad = version in self.broken
                    states[version] = VersionState.FAILED if bad else VersionState.READY
                elif state in (VersionState.NEW, VersionState.FAILED):
                    states[version] = VersionState.LOADING


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    policy=st.builds(Latest, st.integers(1, 2)),
    published=st.sets(VERSIONS, min_size=1),
    broken=st.frozensets(VERSIONS),
    count=st.integers(1, 3),
    deaths=st.integers(0, 3),
)
def test_a_simulated_fleet_settles_on_what_was_asked_and_never_answers_wrongly(
    seed, policy, published, broken, count, deaths
):
    rng = Random(seed)
    fleet = Simulated(rng, count, broken)
    live, memory, was_live = None, Memory(), []
    for tick in range(120):
        offered = {v: Offered() for v in published if tick >= v * 5}
        now = Snapshot(policy, offered, live, fleet.seen(), count, memory=memory)
        decision = decide(now)
        live, memory = decision.live, decision.memory
        if live is not None and (not was_live or was_live[-1] != live):
            was_live.append(live)
        for replica in now.replicas:
            fleet.tell(replica.id, told(decision, offered, replica, ()))
        fleet.step()
        if deaths and tick < 60 and rng.random() < 0.1 and fleet.replicas:
            deaths -= 1
            fleet.kill()
        elif rng.random() < 0.7:
            fleet.refill()
    sound = sorted(published - broken)
    assert live == (sound[-1] if sound else None)
    assert was_live == sorted(was_live)
    assert not set(was_live) & broken
    if sound:
        assert set(sound[-policy.count :]) <= set(decision.aspired)
        assert len(decision.routes[live]) == len(now.replicas)
