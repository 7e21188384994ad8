"""A gateway that does not lead any more tells replicas nothing."""

from __future__ import annotations

import pytest

from gateway.domain.errors import Unavailable
from gateway.domain.replicas import Endpoint, ReplicaReport, Told
from gateway.lifecycle import LeadersControl

AT = Endpoint("h:1", "h:2", "h:2")


class Heard:
    """Takes everything; keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.is_closed = False

    async def tell(self, endpoint: Endpoint, told: Told) -> None:
        self.told.append(told)

    async def report(self, endpoint: Endpoint, model: str) -> ReplicaReport:
        return ReplicaReport(True)

    async def aclose(self) -> None:
        self.is_closed = True


async def test_telling_is_for_who_leads_at_that_moment_and_asking_for_all():
    heard, epochs = Heard(), [7]
    control = LeadersControl(heard, lambda: epochs[-1] == 7)
    await control.tell(AT, Told("m", "/m", (1,)))
    epochs.append(8)
    with pytest.raises(Unavailable) as refused:
        await control.tell(AT, Told("m", "/m", (2,)))
    assert refused.value.reason == "not_leader"
    assert [t.versions for t in heard.told] == [(1,)]
    assert (await control.report(AT, "m")).answered
    await control.aclose()
    assert not heard.is_closed
