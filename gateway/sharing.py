"""Composes this gateway's part in several that share a database: what app.py does, for a member."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from random import Random

from gateway import config
from gateway.control.events import EventLog
from gateway.core.leadership import settings_of
from gateway.domain.gateways import Beat
from gateway.lifecycle import (
    Election,
    InheritingScheduler,
    LeadersControl,
    Lifecycle,
    Member,
    MemberSettings,
    SharedPlanes,
    Term,
)
from gateway.ports import Clock, DataPlanes, ReplicaControl, Scheduler, SharedScheduler
from gateway.schedulers import LocalScheduler
from gateway.schedulers.identity import gateway_id, machine_id
from gateway.store import SqlSharing, SqlStore
from gateway.telemetry import Metrics

DATABASE_URL = "GATEWAY_DATABASE_URL"


def inherited_environment() -> Mapping[str, str]:
    """What replicas get of the gateway's environment: not the way into its database."""
    return {k: v for k, v in os.environ.items() if k != DATABASE_URL}


async def joined(
    settings: config.Settings,
    store: SqlStore,
    scheduler: Scheduler,
    planes: DataPlanes,
    events: EventLog,
    clock: Clock,
    lifecycle: Callable[..., Lifecycle],
    control: ReplicaControl,
    metrics: Metrics,
) -> Member:
    """This gateway as one of several, after it has heard the others and answers as they do.

    `lifecycle` makes a Lifecycle of what is said here: store, scheduler, control, planes, emit,
    term. `control` is asked and told through, while this gateway leads.

    Raises:
        Unavailable: the database does not answer. Conflict: gateways of another machine use it, and
            replicas are local (`other_machine`).
    """
    sharing, lease = SqlSharing(store), settings_of(settings.lease_s)
    shared = SharedPlanes(planes, gone_s=lease.lease_s)
    all_planes: DataPlanes = shared
    own = scheduler if isinstance(scheduler, LocalScheduler) else None
    me = Beat(gateway_id(settings.state_dir), "", "" if own is None else machine_id())

    def begin(term: Term) -> Lifecycle:
        fenced = sharing.fenced(term.epoch)
        return lifecycle(
            store=fenced,
            scheduler=scheduler if own is None else InheritingScheduler(own, shared.table),
            control=LeadersControl(control, lambda: election.epoch == term.epoch),
            planes=all_planes,
            emit=events.through(fenced),
            term=term,
        )

    election = Election(me.gateway, sharing, clock, Random(), lease)
    # Its objects have no epoch that the API server would compare, as rows have.
    seen_by_all = scheduler if isinstance(scheduler, SharedScheduler) else None
    if seen_by_all is not None:
        seen_by_all.act_only_while(lambda: election.epoch is not None)
    member = Member(
        me,
        election=election,
        board=sharing,
        orders=sharing,
        planes=shared,
        begin=begin,
        clock=clock,
        settings=MemberSettings(gone_s=lease.lease_s),
        own=own,
        stand_down=None if seen_by_all is None else seen_by_all.stand_down,
        on_event=events.catch_up,
        listen=sharing.listen,
        metrics=metrics,
    )
    await member.join()
    return member
