"""What replicas are told is for who leads to say.

Rows of the store carry the epoch of who writes them; what a replica is told carries none that it
could compare. So a gateway looks whether its term still holds last thing before it speaks: one that
was frozen past its term, and wakes with half a tick to do, tells nobody to drop what its successor
has had them load. What remains is the time between that look and the packet.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.domain.errors import Unavailable
from gateway.domain.replicas import Endpoint, ReplicaReport, Told
from gateway.ports import ReplicaControl


class LeadersControl:
    """ports.ReplicaControl over `control`, which whoever gave it goes on owning: asking is for all,
    telling only while `leads()`."""

    def __init__(self, control: ReplicaControl, leads: Callable[[], bool]) -> None:
        self._control = control
        self._leads = leads

    def __repr__(self) -> str:
        return f"LeadersControl({self._control!r}, leads={self._leads()})"

    async def tell(self, endpoint: Endpoint, told: Told) -> None:
        """See ports.ReplicaControl. Raises Unavailable (`not_leader`), too."""
        if not self._leads():
            raise Unavailable("Another gateway leads by now", reason="not_leader")
        await self._control.tell(endpoint, told)

    async def report(self, endpoint: Endpoint, model: str) -> ReplicaReport:
        """See ports.ReplicaControl."""
        return await self._control.report(endpoint, model)

    async def aclose(self) -> None:
        """Nothing: it is closed where it was made."""
