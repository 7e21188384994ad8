"""What two views of a model differ in, as events."""

from __future__ import annotations

import pytest

from gateway.domain.observed import ModelView, ReplicaView
from gateway.domain.replicas import Replica, ReplicaState
from gateway.lifecycle.news import news


@pytest.mark.parametrize(
    ("state", "types"),
    [
        (ReplicaState.STARTING, ["replica.started"]),
        (ReplicaState.FAILED, ["replica.failed"]),
        (ReplicaState.READY, ["replica.started", "replica.ready"]),
    ],
)
def test_a_replica_that_has_failed_at_the_first_look_is_not_said_to_have_started(state, types):
    # A quota that is exceeded is shown as a replica, although there is no pod.
    one = ReplicaView(Replica("m-objects", "m", state), state, (), "exceeded quota")
    told = list(news(ModelView("m"), ModelView("m", replicas=(one,)), adopting=False))
    assert [n.type for n in told] == types
